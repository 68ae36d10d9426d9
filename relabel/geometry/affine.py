"""Affine views in cells of a map: RoIAlign's samples over parallelograms, where a box has rectangles.

A view that turns or shears is not separable, so each of its bins has a weight for every cell of the map. They are made
for some views at a time, on the device of the maps, and never kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.boxes import Footprint, Grid
from relabel.geometry.cells import CellWeights

_AT_ONCE = 2**20
"""Weights, or samples, of a step: 4 MB and some temporary ones as large stay in a core's caches."""

_HAIR = 1e-6
"""Of a cell: an edge of a whole number of cells keeps its number of samples, whatever a sine has rounded."""

_LONG = 4
"""Sides of the map. Of an edge that is longer only what can lie on the map is sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledBins:
    """The h x w bins of B affine views, as parallelograms over a map.

    Attributes:
        matrices: (B, 2, 3) float64, from fractions of what a view shows to cells, where the value of cell (r, c) stands
            at x = c, y = r.
        spans: (B, h w, 4) float64, where each bin is sampled: from (u, v), so far along u and along v, in fractions.
        counts: (B, 2) int64, samples along u and along v.
        covered: (B, h, w) float64, the fraction of each bin's area that the map covers.
        grid: the map's size.
    """

    matrices: Tensor
    spans: Tensor
    counts: Tensor
    covered: Tensor
    grid: Grid

    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Some views at a time, and how much each cell counts in each of their bins: (n, h w, H W), summing to 1."""
        if not len(self.counts):
            return
        bins, (across, down) = self.spans.shape[1], self.counts.amax(0).tolist()
        step = max(1, _AT_ONCE // (bins * max(across * down, self.grid.height * self.grid.width)))
        for first in range(0, len(self.counts), step):
            part = slice(first, first + step)
            yield part, self._weights(part, device, dtype)

    def _weights(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        most_across, most_down = self.counts[part].amax(0).tolist()
        matrices, spans, counts = (
            tensor[part].to(device, non_blocking=device.type != "cpu")
            for tensor in (self.matrices, self.spans, self.counts)
        )
        u, is_across = _along(spans[..., 0], spans[..., 2], counts[:, 0], most_across)
        v, is_down = _along(spans[..., 1], spans[..., 3], counts[:, 1], most_down)
        is_real = is_down[:, None, :, None] & is_across[:, None, None, :]
        (x, near_x), (y, near_y) = (
            _on_axis(matrices[:, axis], u, v, is_real, cells)
            for axis, cells in ((0, self.grid.width), (1, self.grid.height))
        )
        kept = near_x & near_y
        # As an axis of a box: a bin with no sample near the map keeps them all, clamped.
        kept |= is_real & ~kept.any(2, keepdim=True).any(3, keepdim=True)
        return _bilinear(x, y, kept.to(dtype), self.grid)


@dataclass(frozen=True, slots=True, eq=False)
class ViewWeights:
    """The weights of a batch in which views are affine.

    Attributes:
        boxes: of those that are boxes, None where none is.
        box_rows, affine_rows: which of the batch are boxes and which are not, ids on the device of `covered`.
        bins: of the affine ones, on the CPU.
        covered: (B, h, w), the fraction of each bin's area that the map covers.
    """

    boxes: CellWeights | None
    box_rows: Tensor
    bins: SampledBins
    affine_rows: Tensor
    covered: Tensor


def sampled_bins(matrices: Tensor, footprint: Footprint | Tensor, grid: Grid, size_hw: tuple[int, int]) -> SampledBins:
    """RoIAlign's samples of affine views: as many along an edge of a bin as it is cells long, rounded up.

    Of a map that only scales and mirrors they are those of its box.

    Args:
        matrices: (B, 2, 3) floating on the CPU, see `geometry.views`.
        footprint: one for all, or (B, 4) xyxy fractions of the whole image.
        grid: the map's size (H, W).
        size_hw: bins (h, w) of each view.

    Raises:
        InvalidValueError: a map is not finite or shows no area.
    """
    matrices = matrices.double()
    _check(matrices)
    in_cells = _in_cells(matrices, footprint, grid)
    rows, columns = size_hw
    v, u = (torch.arange(bins, dtype=torch.float64) / bins for bins in size_hw)
    starts = torch.stack([u.repeat(rows), v.repeat_interleave(columns)], dim=1)
    spans = torch.cat([starts, starts.new_tensor([1 / columns, 1 / rows]).expand_as(starts)], dim=1)
    spans = spans.expand(len(matrices), -1, -1)
    covered = _covered(in_cells, spans, grid).reshape(-1, *size_hw)
    lengths = in_cells[:, :, :2].norm(dim=1) / in_cells.new_tensor([columns, rows])
    counts = (lengths - _HAIR).ceil().clamp(min=1)
    is_long = (counts > _LONG * max(grid.size_hw)).any(1)
    if bool(is_long.any()):
        spans, counts = spans.clone(), counts.clone()
        spans[is_long], counts[is_long] = _on_map(in_cells[is_long], spans[is_long], counts[is_long], grid)
    return SampledBins(in_cells, spans, counts.long(), covered, grid)


def _check(matrices: Tensor) -> None:
    is_area = (matrices.isfinite().flatten(1).all(1)) & (torch.linalg.det(matrices[:, :, :2]) != 0)
    if not bool(is_area.all()):
        view = int((~is_area).nonzero()[0, 0])
        raise InvalidValueError(
            f"a map of a view is 2 x 3, finite, and shows an area; that of affine view {view} is "
            f"{matrices[view].tolist()}"
        )


def _in_cells(matrices: Tensor, footprint: Footprint | Tensor, grid: Grid) -> Tensor:
    """(B, 2, 3) from fractions of what a view shows to cells, whose values stand at whole numbers."""
    corners = matrices.new_tensor([footprint.xyxy]) if isinstance(footprint, Footprint) else footprint.to(matrices)
    origin, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    cells = matrices.new_tensor([grid.width, grid.height]) / sides
    moved = torch.cat([matrices[..., :2], matrices[..., 2:] - origin[..., None]], dim=2) * cells[..., None]
    moved[..., 2] -= 0.5
    return moved


def _on_map(in_cells: Tensor, spans: Tensor, counts: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The same samples, but only those of each bin that may lie on the map: its spans and their counts.

    A footprint a millionth wide would otherwise take a million times the memory.
    """
    x, y = in_cells.new_tensor([-1.0, grid.width]), in_cells.new_tensor([-1.0, grid.height])
    places = torch.linalg.solve(in_cells[:, :, :2], torch.cartesian_prod(x, y).T - in_cells[:, :, 2:])
    starts, lengths = spans[..., :2], spans[..., 2:]
    numbers = counts[:, None]
    first, last = (
        ((place[:, None] - starts) / lengths * numbers).clamp(min=0).minimum(numbers)
        for place in (places.amin(2), places.amax(2))
    )
    first, last = first.floor(), last.ceil()
    kept = (last - first).amax(1, keepdim=True).clamp(min=1)
    first = first.minimum(numbers - kept)
    spans = torch.cat([starts + first * lengths / numbers, lengths * kept / numbers], dim=2)
    # Of a view sheared to a sliver hundreds may lie on the map, a cell apart along it; then fewer do.
    return spans, kept[:, 0].clamp(max=2 * _LONG * max(grid.size_hw))


def _along(starts: Tensor, lengths: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Places (B, bins, most) of `counts` (B,) samples along each bin, and which there are (B, most)."""
    numbers = torch.arange(most, device=starts.device, dtype=starts.dtype)
    shares = (numbers + 0.5) / counts[:, None]
    return starts[..., None] + lengths[..., None] * shares[:, None], numbers < counts[:, None]


def _on_axis(row: Tensor, u: Tensor, v: Tensor, is_real: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """One coordinate of samples (B, bins, down, across), clamped to the map, and which are near it, or real in a bin
    that has none there."""
    a, b, c = (number[:, None, None, None] for number in row.unbind(1))
    place = (a * u[:, :, None, :] + c) + b * v[:, :, :, None]
    near = is_real & (place >= -1) & (place <= cells)
    near |= is_real & ~near.any(2, keepdim=True).any(3, keepdim=True)
    return place.clamp_(0, cells - 1), near


def _bilinear(x: Tensor, y: Tensor, kept: Tensor, grid: Grid) -> Tensor:
    """(B, bins, H W) of samples (B, bins, down, across), of which `kept` says how much each counts."""
    views, bins, *_ = x.shape
    left, top = x.floor().clamp_(max=max(grid.width - 2, 0)), y.floor().clamp_(max=max(grid.height - 2, 0))
    dx, dy = (x - left).to(kept.dtype), (y - top).to(kept.dtype)
    first = torch.arange(views * bins, device=x.device).reshape(views, bins, 1, 1) * (grid.height * grid.width)
    cell = first + (top * grid.width + left).long()
    right, below = int(grid.width > 1), grid.width * int(grid.height > 1)
    lower = kept * dy
    upper = kept - lower
    weights = kept.new_zeros(views * bins * grid.height * grid.width)
    for row, beside in ((upper, 0), (lower, below)):
        second = row * dx
        weights.scatter_add_(0, (cell + beside).flatten(), (row - second).flatten())
        weights.scatter_add_(0, (cell + (beside + right)).flatten(), second.flatten())
    by_bin = weights.reshape(views, bins, -1)
    return by_bin.div_(kept.sum((2, 3))[..., None])


def _covered(in_cells: Tensor, spans: Tensor, grid: Grid) -> Tensor:
    """(B, bins): the fraction of each bin's area that lies in the map, [-0.5, cells - 0.5] each way."""
    sides = spans.new_tensor([grid.width, grid.height])
    around = spans.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])

    def reaching(corners: Tensor) -> Tensor:
        return ((corners < 0) | (corners > sides)).flatten(-2).any(-1)

    linear, offset = in_cells[:, :, :2].transpose(1, 2), in_cells[:, None, :, 2] + 0.5
    covered = spans.new_ones(spans.shape[:2])
    # Most views lie wholly on the map, and most bins of the others.
    views = reaching(around @ linear + offset).nonzero()[:, 0]
    bins = spans[views, :, None, :2] + spans[views, :, None, 2:] * around
    corners = bins @ linear[views, None] + offset[views, None]
    view, number = reaching(corners).nonzero().unbind(1)
    covered[views[view], number] = _shared(corners[view, number], sides)
    return covered


def _shared(corners: Tensor, sides: Tensor) -> Tensor:
    """(n,): the fraction of quadrangles (n, 4, 2) that lies in the box from 0 to `sides`.

    Their outline is cut where it crosses the box's lines, and what lies beyond is moved onto them, where it encloses
    nothing.
    """
    edges = corners.roll(-1, 1) - corners
    # Parallel to a line an edge crosses it nowhere.
    cuts = torch.cat([-corners / edges, (sides - corners) / edges], dim=2).nan_to_num(0.0).clamp_(0, 1).sort(2).values
    ends = torch.cat([torch.zeros_like(cuts[..., :1]), cuts], dim=2)
    outline = (corners[:, :, None] + ends[..., None] * edges[:, :, None]).flatten(1, 2)
    inside = torch.minimum(outline.clamp(min=0), sides)
    return (_area(inside) / _area(corners)).clamp(0, 1)


def _area(outline: Tensor) -> Tensor:
    """Twice the signed area of polygons (n, m, 2)."""
    # From a corner of its own: far away the products would swallow it.
    x, y = (outline - outline[:, :1]).unbind(2)
    return (x * y.roll(-1, 1) - x.roll(-1, 1) * y).sum(1)
