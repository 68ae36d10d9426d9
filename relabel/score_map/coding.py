"""How scores become codes: one byte each, as a store keeps them and as they travel."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from relabel.manifest import STEP
from relabel.score_map.tensors import MapTensors

_Maps = TypeVar("_Maps", bound=MapTensors)

OFFSET_STEP = 1 / 8
"""Nats per code of an offset, always: it moves all of its class's scores together, which no pooling averages out."""
NOT_STORED = 255
"""The code of a score that is not stored."""


def is_code(tensor: Tensor) -> bool:
    """Whether scores are codes rather than log-probabilities."""
    return tensor.dtype == torch.uint8


def encode_scores(scores: Tensor, step: float = STEP) -> Tensor:
    """Log-probabilities to uint8 codes, clamped to [-254 * step, 0] nats; NaN becomes `NOT_STORED`."""
    codes = (scores * (-1 / step)).round().clamp(0, NOT_STORED - 1)
    return codes.nan_to_num(NOT_STORED).to(torch.uint8)


def decode_scores(codes: Tensor, step: float = STEP, *, holes: bool) -> Tensor:
    """uint8 codes to float32 log-probabilities; with `holes`, `NOT_STORED` becomes NaN."""
    scores = codes.to(torch.float32) * -step
    return scores.masked_fill(codes == NOT_STORED, torch.nan) if holes else scores


def encode_offsets(offsets: Tensor) -> Tensor:
    """Offsets to int8 codes, clamped to [-16, 15.875] nats."""
    return (offsets / OFFSET_STEP).round().clamp(-128, 127).to(torch.int8)


def decode_offsets(offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Offsets in nats, of the dtype asked for, from int8 codes or from floats."""
    return offsets.to(dtype) * (1 if offsets.is_floating_point() else OFFSET_STEP)


def decode_maps(maps: _Maps) -> _Maps:
    """Coded maps as float32, NaN where not stored; floating ones as they are."""
    if not is_code(maps.planes):
        return maps
    return replace(
        maps,
        planes=decode_scores(maps.planes, maps.step, holes=maps.holes),
        rest=decode_scores(maps.rest, maps.step, holes=maps.holes),
        profile=None if maps.profile is None else decode_offsets(maps.profile, torch.float32),
    )
