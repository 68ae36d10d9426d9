"""Whether a loaded image shows what its file does, all of it and nothing moved; colours may be others."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from relabel.geometry.frames import turned
from relabel.images.decode import decode
from relabel.images.loaded import pixels_of

_SIDE = 64
"""Cells of each side: what decoders and resizing round is gone."""
_SAME = 0.999
"""Correlation from which on nothing else is tried: decoders and resizing leave more, a mild crop less."""
_LIKE = 0.9
"""Correlation below which an image is not seen to be its file's."""
_BETTER = 0.4
"""What another place may leave unexplained, of what the whole image does, if that is what is shown; colours change
both."""
_ONE_COLOUR = 0.1
"""Levels of 255 by which rounding makes the cells of one colour differ, and no photograph's."""

Shows = Literal["whole", "moved", "other"]


def shows(image: Any, data: bytes) -> Shows | None:
    """What a loaded image shows of its file, as decoded or turned upright; None where it has one colour.

    The whole of it; it moved, which is cropped, shifted, padded or mirrored; or something other than it.

    Args:
        image: Pillow's, an array (height, width, ...) or a tensor (..., height, width).
        data: the file.

    Raises:
        ImageError: the file cannot be decoded.
    """
    own = decode(data)
    loaded = pixels_of(image)
    side = min(_SIDE, *loaded.shape[-2:], *own.pixels.shape[-2:])
    found = _cells(loaded, side)
    found = found * (255 if float(found.max()) <= 1 else 1)
    frames = [_cells(turned(own.pixels, each), side) for each in {1, own.orientation}]
    if min(float(each.std()) for each in (found, *frames)) < _ONE_COLOUR:
        return None
    told = max(_correlation(found, frame) for frame in frames)
    if told > _SAME:
        return "whole"
    best = max(_best_moved(found, frame) for frame in frames)
    if best > _LIKE and 1 - best < _BETTER * (1 - told):
        return "moved"
    return "whole" if told > _LIKE else "other"


def _cells(pixels: Tensor, side: int) -> Tensor:
    """Its brightness, (side, side)."""
    grey = pixels.reshape(-1, *pixels.shape[-2:]).float().mean(0)
    return F.interpolate(grey[None, None], (side, side), mode="bilinear", antialias=True)[0, 0]


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def _moves() -> list[tuple[float, float, float, float]]:
    """(scale, shift) of x and of y, of a side that goes from -1 to 1."""
    moves = [(-1.0, 0.0, 1.0, 0.0), (1.0, 0.0, -1.0, 0.0), (-1.0, 0.0, -1.0, 0.0)]
    moves += [(by, 0.0, by, 0.0) for by in (0.98, 0.95, 0.92, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)]
    moves += [(by, 0.0, by, 0.0) for by in (1.03, 1.06, 1.1, 1.15, 1.2, 1.3)]
    for by in (0.03, 0.06, 0.1, 0.16, 0.3):
        moves += [(1.0, x * by, 1.0, y * by) for x, y in itertools.product((-1, 0, 1), repeat=2) if x or y]
    for by in (0.95, 0.9, 0.8, 0.65):
        moves += [(by, x * (1 - by), by, y * (1 - by)) for x, y in itertools.product((-1, 1), repeat=2)]
    return moves


_MOVES = torch.tensor([[[a, 0.0, c], [0.0, e, f]] for a, c, e, f in _moves()])


def _best_moved(found: Tensor, cells: Tensor) -> float:
    """The highest correlation with what an image looks like moved, where that shows it."""
    grid = F.affine_grid(_MOVES, [len(_MOVES), 1, *cells.shape], align_corners=False)
    places = F.grid_sample(cells.expand(len(_MOVES), 1, -1, -1), grid, align_corners=False, padding_mode="border")[:, 0]
    inside = (grid.abs() <= 1).all(-1).float()
    inside /= inside.sum((1, 2), keepdim=True)
    one, other = (each - (each * inside).sum((1, 2), keepdim=True) for each in (found, places))
    shared, first, second = ((inside * each).sum((1, 2)) for each in (one * other, one * one, other * other))
    return float((shared / (first * second).sqrt()).nan_to_num(0.0).max())
