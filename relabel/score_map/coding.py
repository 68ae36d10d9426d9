"""How scores become codes: uint8 steps of an eighth of a nat, as a store keeps them and as they travel."""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 1 / 8
"""Nats a code: a score is ``-code * STEP``, an offset is ``code * STEP``."""
NOT_STORED = 255
"""The code of a score that is not stored."""


def is_code(tensor: Tensor) -> bool:
    """Whether scores are codes rather than log-probabilities."""
    return tensor.dtype == torch.uint8


def unit_of(scores: Tensor) -> float:
    """What a score of this dtype is multiplied by to be nats."""
    return -STEP if is_code(scores) else 1.0


def encode_scores(scores: Tensor) -> Tensor:
    """Log-probabilities to uint8 codes, clamped to [-31.75, 0] nats; NaN becomes `NOT_STORED`."""
    codes = (scores * (-1 / STEP)).round().clamp(0, NOT_STORED - 1)
    return codes.nan_to_num(NOT_STORED).to(torch.uint8)


def decode_scores(codes: Tensor, *, holes: bool) -> Tensor:
    """uint8 codes to float32 log-probabilities; with `holes`, `NOT_STORED` becomes NaN."""
    scores = codes.to(torch.float32) * -STEP
    return scores.masked_fill(codes == NOT_STORED, torch.nan) if holes else scores


def encode_offsets(offsets: Tensor) -> Tensor:
    """Offsets to int8 codes, clamped to [-16, 15.875] nats."""
    return (offsets / STEP).round().clamp(-128, 127).to(torch.int8)


def decode_offsets(offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Offsets in nats, of the dtype asked for, from int8 codes or from floats."""
    return offsets.to(dtype) * (1 if offsets.is_floating_point() else STEP)
