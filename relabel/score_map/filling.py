"""What a map with holes is worth where it stores nothing."""

from __future__ import annotations

from typing import Literal

import torch

from relabel.pooling import WholeMaps
from relabel.score_map.coding import decode_maps, decode_offsets, is_code
from relabel.score_map.tensors import MapTensors

Fill = Literal["rest", "zero"]


def whole_maps(maps: MapTensors, fill: Fill = "rest") -> WholeMaps:
    """The maps without holes: codes stay codes where nothing is missing, all else becomes float32 or float64."""
    dtype = maps.label_dtype
    if maps.profile is None:
        offsets = maps.planes.new_zeros(len(maps), 1, dtype=dtype)
    else:
        offsets = decode_offsets(maps.profile, dtype)
    if not maps.holes:
        unit = -maps.step if is_code(maps.planes) else 1.0
        return WholeMaps(maps.planes, maps.rest, offsets, maps.num_classes, unit)
    decoded = decode_maps(maps)
    planes, rest = decoded.planes.to(dtype), decoded.rest.to(dtype)
    if fill == "zero":
        # A raw logit of 0, the published meaning of a class that a cell does not list.
        return WholeMaps(planes.nan_to_num(0.0), torch.zeros_like(rest), torch.zeros_like(offsets), maps.num_classes)
    missing = (rest + offsets[:, -1:, None]).unsqueeze(1)
    return WholeMaps(torch.where(planes.isnan(), missing, planes), rest, offsets, maps.num_classes)
