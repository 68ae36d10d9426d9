"""Boxes in cells of a map, and how much each cell counts in them: RoIAlign, one axis at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry.boxes import FARTHEST, Footprint, Grid

_Numbers = NDArray[Any]
"""float32 or float64, as the boxes are."""


@dataclass(frozen=True, slots=True, eq=False)
class CellWeights:
    """How much each cell counts in each bin of a box, one axis at a time: RoIAlign is separable.

    `rows` is (B, h, H), `cols` is (B, w, W); both sum to 1 over the cells. `covered` is (B, h, w), the fraction of each
    bin's area that the map covers. The pooled map is ``rows @ map @ cols.T``, one product an image.
    """

    rows: Tensor
    cols: Tensor
    covered: Tensor


def cell_boxes(boxes_xyxy: Tensor, footprint: Footprint | Tensor, grid: Grid) -> Tensor:
    """Boxes in cells of the map: (B, 4) xyxy, x in [0, W] and y in [0, H] where the map covers them.

    Args:
        boxes_xyxy: (B, 4), fractions of the whole image.
        footprint: one for all, or (B, 4) xyxy fractions of the whole image.
        grid: the map's size.
    """
    cells = boxes_xyxy.new_tensor([grid.width, grid.height, grid.width, grid.height])
    if isinstance(footprint, Footprint):
        if footprint.is_whole:
            return boxes_xyxy * cells
        footprint = boxes_xyxy.new_tensor([footprint.xyxy])
    corners = footprint.to(boxes_xyxy)
    origin = corners[..., [0, 1, 0, 1]]
    return (boxes_xyxy - origin) / (corners[..., [2, 3, 2, 3]] - origin) * cells


_FAR = 8
"""Sides of the image: no crop but a padded one of a tiny image reaches so far."""


def checked_boxes(boxes_xyxy: Tensor) -> Tensor:
    """The boxes as a float32 or float64 tensor (B, 4), or an error that says which is empty or not a number."""
    if not isinstance(boxes_xyxy, Tensor):
        raise InvalidValueError(
            "boxes must be a floating point tensor (B, 4) of (x0, y0, x1, y1), fractions of the whole image; "
            f"got a {type(boxes_xyxy).__name__}. One Box is torch.tensor([box.xyxy])"
        )
    if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4 or not boxes_xyxy.is_floating_point():
        raise InvalidValueError(
            "boxes must be a floating point tensor (B, 4) of (x0, y0, x1, y1), fractions of the whole image; "
            f"got {tuple(boxes_xyxy.shape)} of {boxes_xyxy.dtype}"
        )
    boxes = boxes_xyxy if boxes_xyxy.dtype == torch.float64 else boxes_xyxy.float()
    # One look at every batch spares nearly all of them a second one.
    numbers: _Numbers = boxes.numpy(force=True)
    if not (numbers[:, 2:] > numbers[:, :2]).all() or not (np.abs(numbers) <= _FAR).all():
        _refuse_boxes(boxes)
    return boxes


def _refuse_boxes(boxes: Tensor) -> None:
    """Raise for the first box that is empty, not finite, or in pixels; a padded crop of a tiny image may reach far."""
    empty = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes.abs() <= FARTHEST).all(1))
    if bool(empty.any()):
        row = int(empty.nonzero()[0, 0])
        raise InvalidValueError(
            "every box needs x0 < x1 and y0 < y1, all finite (to 1e9), fractions of the whole image; "
            f"box {row} is {boxes[row].tolist()}"
        )
    # Padding is around an image: a crop that reaches far to the right and below starts left of it or above.
    pixels = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] > _FAR).all(1)
    if bool(pixels.any()):
        row = int(pixels.nonzero()[0, 0])
        raise InvalidValueError(
            "boxes are (x0, y0, x1, y1) in fractions of the whole image, 0 to 1; "
            f"box {row}, {boxes[row].tolist()}, looks like pixels: divide x by the image's width and y by its height"
        )


def at_least_one_cell(boxes_in_cells: Tensor) -> Tensor:
    """Boxes (B, 4) widened to one cell at their start, as roi_align with aligned=False does; to reproduce labels."""
    start, end = boxes_in_cells[:, :2], boxes_in_cells[:, 2:]
    least = start + 1
    # Where that was rounded up the box would be a hair longer than a cell, and take two samples in place of one.
    least = torch.where((least - 0.5) - (start - 0.5) > 1, torch.nextafter(least, start), least)
    return torch.cat([start, torch.maximum(end, least)], dim=1)


def roi_weights(boxes_in_cells: Tensor, grid: Grid, size_hw: tuple[int, int], *, clamp_uncovered: bool) -> CellWeights:
    """The weights of ``torchvision.ops.roi_align(spatial_scale=1, sampling_ratio=-1, aligned=True)``, boxes in cells.

    Where a bin reaches outside the map its weights are renormalised over what the map covers, that is, the result is
    roi_align of the map divided by roi_align of a map of ones. A bin that the map does not cover at all takes the
    nearest cells with `clamp_uncovered`, else raises. The arithmetic has the order and dtype of the boxes, as
    torchvision's has, because its number of samples jumps where a bin's length crosses an integer. They are made on the
    CPU, wherever the boxes are.

    Args:
        boxes_in_cells: (B, 4) xyxy from `cell_boxes`.
        grid: the map's size (H, W).
        size_hw: bins (h, w) of each box.
        clamp_uncovered: what to do with bins outside the map.

    Raises:
        LabelError: a bin lies wholly outside the map, and `clamp_uncovered` is False.
    """
    if min(size_hw) < 1:
        raise InvalidValueError(f"size must be (h, w), at least (1, 1) bins; got {size_hw}")
    weights = _both_axes(boxes_in_cells, grid, size_hw)
    if not clamp_uncovered:
        check_covered(weights.covered, boxes_in_cells, grid)
    return weights


def check_covered(covered: Tensor, boxes_in_cells: Tensor, grid: Grid) -> None:
    """Raise a LabelError for the first bin of (B, h, w) of which the map covers nothing; it is in a box (B, 4)."""
    if not bool((covered <= 0).any()):
        return
    image = int((covered <= 0).flatten(1).any(1).nonzero()[0, 0])
    in_cells = [round(v, 4) for v in boxes_in_cells[image].tolist()]
    raise LabelError(
        f"box {image} (xyxy {in_cells} in cells of a {grid} map), or one of its {covered.shape[1]} x "
        f"{covered.shape[2]} parts, lies outside the part of the image that the map covers: it has no label. Boxes are "
        "fractions of the whole image, never pixels; crop inside the footprint, or pass uncovered='nearest' to take "
        "the nearest cells"
    )


def mirrored(weights: CellWeights, flips: Tensor | None, flips_vertical: Tensor | None) -> CellWeights:
    """The weights of boxes whose crops were mirrored afterwards, left to right or top to bottom: (B,) bool, None no."""
    rows, cols, covered = weights.rows, weights.cols, weights.covered
    # One bin is its own mirror image.
    if flips is not None and cols.shape[1] > 1:
        is_mirrored = flips.to(cols.device, torch.bool)[:, None, None]
        cols = torch.where(is_mirrored, cols.flip(1), cols)
        covered = torch.where(is_mirrored, covered.flip(2), covered)
    if flips_vertical is not None and rows.shape[1] > 1:
        is_mirrored = flips_vertical.to(rows.device, torch.bool)[:, None, None]
        rows = torch.where(is_mirrored, rows.flip(1), rows)
        covered = torch.where(is_mirrored, covered.flip(1), covered)
    return CellWeights(rows, cols, covered)


def swapped(boxes_xyxy: Tensor) -> Tensor:
    """Boxes (B, 4) with x and y exchanged, as both published codes hand them to RoIAlign; to compare with."""
    return boxes_xyxy[:, [1, 0, 3, 2]]


def published_weights(boxes_in_cells: Tensor, grid: Grid, size_hw: tuple[int, int]) -> CellWeights:
    """`roi_weights` as ReLabel and Token Labeling have them: boxes of a cell at least, and zeros outside the map."""
    return _both_axes(at_least_one_cell(boxes_in_cells), grid, size_hw, zeros_outside=True)


def resampling_weights(grid: Grid, wanted: Grid) -> tuple[Tensor, Tensor]:
    """What turns a map into one of another grid, ``rows @ map @ cols.T``: rows (h, H) and cols (w, W), float64.

    An axis of fewer cells takes each cell's share of the area, so that the mean over the map stays what it was; one of
    more is interpolated between the centres of cells, as torch's interpolate does with align_corners=False. Both sum to
    1 over the map's cells.
    """
    return _resampled_axis(grid.height, wanted.height), _resampled_axis(grid.width, wanted.width)


def _resampled_axis(cells: int, wanted: int) -> Tensor:
    """One axis of `resampling_weights`, (wanted, cells)."""
    size = cells / wanted
    edges = torch.arange(cells, dtype=torch.float64)
    starts = torch.arange(wanted, dtype=torch.float64)[:, None] * size
    if wanted <= cells:
        overlap = torch.minimum(starts + size, edges + 1) - torch.maximum(starts, edges)
        weights = overlap.clamp(min=0)
    else:
        centres = (starts + size / 2 - 0.5).clamp(0, cells - 1)
        weights = (1 - (centres - edges).abs()).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _both_axes(
    boxes_in_cells: Tensor, grid: Grid, size_hw: tuple[int, int], zeros_outside: bool = False
) -> CellWeights:
    """On the CPU. In numpy, whose small operations take a fifth of the time of torch's."""
    # Each start and each end at one place, so that both axes of a square are one.
    ends: _Numbers = boxes_in_cells.numpy(force=True).T
    (x0, y0, x1, y1), count = ends, ends.shape[1]
    if grid.height == grid.width and size_hw[0] == size_hw[1]:
        both, covers = _axis_weights(ends[:2].ravel(), ends[2:].ravel(), grid.width, size_hw[0], zeros_outside)
        (cols, rows), (covered_x, covered_y) = (both[:count], both[count:]), (covers[:count], covers[count:])
    else:
        rows, covered_y = _axis_weights(y0, y1, grid.height, size_hw[0], zeros_outside)
        cols, covered_x = _axis_weights(x0, x1, grid.width, size_hw[1], zeros_outside)
    covered = covered_y[:, :, None] * covered_x[:, None, :]
    return CellWeights(*map(torch.from_numpy, (rows, cols, covered)))


def _axis_weights(
    start: _Numbers, end: _Numbers, cells: int, bins: int, zeros_outside: bool = False
) -> tuple[_Numbers, _Numbers]:
    """One axis of `roi_weights`: weights (B, bins, cells) and the covered fraction of each bin (B, bins)."""
    start, end = start - 0.5, end - 0.5
    length = np.maximum(end - start, 0) / bins
    count = np.maximum(np.ceil(length), 1)
    first = start[:, None] + np.arange(bins, dtype=start.dtype) * length[:, None]
    position, real = _samples(first, length, count, cells)
    kept = real & (position >= -1) & (position <= cells)
    if not zeros_outside:
        # torchvision drops samples more than half a cell outside the map; a bin that has no other keeps them, clamped.
        kept |= real & ~kept.any(2, keepdims=True)
    position = position.clip(0, cells - 1)
    before = position.astype(np.intp)
    after = (position - before) * kept
    # A sample counts in the two cells whose centres it lies between; one place more, for the last centre has no next.
    places = before + np.arange(first.size).reshape(*first.shape, 1) * (cells + 1)
    size = first.size * (cells + 1)
    summed = np.bincount(places.ravel(), (kept - after).ravel(), size)
    summed += np.bincount(places.ravel() + 1, after.ravel(), size)
    weights = summed.reshape(*first.shape, cells + 1)[:, :, :cells]
    total = count[:, None, None] if zeros_outside else weights.sum(2, keepdims=True)
    return (weights / total).astype(first.dtype), _covered(first, length[:, None], cells)


def _samples(first: _Numbers, length: _Numbers, count: _Numbers, cells: int) -> tuple[_Numbers, NDArray[np.bool_]]:
    """Where `count` (B,) samples of bins of `length` (B,) from `first` (B, bins) lie: (B, bins, n); which there are.

    All of a bin, or of boxes much wider than the map those that can lie on it: a footprint a millionth wide would
    otherwise take a million times the memory. A bin with none on the map has its first ones beside it.
    """
    most = int(count.max(initial=1))
    # Samples are between half a cell and a cell apart, and count up to a cell beside the map.
    near = 2 * (cells + 2) + 4
    numbers = np.arange(min(most, near), dtype=first.dtype)
    if most <= near:
        position = first[:, :, None] + ((numbers + 0.5) * length[:, None] / count[:, None])[:, None, :]
        return position, (numbers < count[:, None])[:, None, :]
    # In double precision: a number of ten million samples has no place for half of one in single.
    count = count.astype(np.float64)[:, None]
    apart = length[:, None] / count
    # A box without a length has its one sample where it begins.
    skipped = np.divide(-1 - first, apart, out=np.zeros_like(first, np.float64), where=apart > 0)
    skipped = np.minimum(np.maximum(np.floor(skipped - 1.5), 0), count - 1)
    each = skipped[:, :, None] + numbers
    # Of so many that one more is none, the first one is there all the same.
    is_real = (each < count[:, :, None]) | (each == skipped[:, :, None])
    return first[:, :, None] + (each + 0.5) * apart[:, :, None], is_real


def _covered(first: _Numbers, length: _Numbers, cells: int) -> _Numbers:
    """The fraction of bins of `length` (B, 1) from `first` (B, bins) that lies in the map, [-0.5, cells - 0.5]."""
    overlap = np.minimum(first + length, cells - 0.5) - np.maximum(first, -0.5)
    # Rounding may have left nothing of a tiny bin; then it is a point.
    point = ((first >= -0.5) & (first <= cells - 0.5)).astype(first.dtype)
    np.divide(overlap, length, out=point, where=length > 0)
    return point.clip(0, 1)
