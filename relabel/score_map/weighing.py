"""How much each cell of a batch's maps counts in the crops that were made of its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Footprint
from relabel.geometry.affine import ViewWeights, sampled_bins
from relabel.geometry.cells import (
    CellWeights,
    at_least_one_cell,
    cell_boxes,
    check_covered,
    checked_boxes,
    mirrored,
    roi_weights,
)
from relabel.geometry.views import Views
from relabel.pooling import ReadWeights, Weights
from relabel.score_map.checks import Size, bins_hw, check_flip
from relabel.score_map.tensors import MapTensors

Uncovered = Literal["raise", "nearest"]


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """The crops of a batch as `ScoreMap.pool` takes them: boxes (B, 4) and mirrorings (B,), or views that say both."""

    boxes_xyxy: Tensor | Views
    flip: Tensor | None = None
    flip_vertical: Tensor | None = None


def crop_weights(
    maps: MapTensors, crops: Crops, size: Size | None, uncovered: Uncovered | None, *, one_cell: bool = False
) -> Weights:
    """The weights of B crops, on the device of the maps; with `one_cell` of boxes widened to a cell, as published.

    Raises:
        InvalidValueError, LabelError: see `ScoreMap.pool`.
    """
    if uncovered is None:
        # Of a followed pipeline's views; a box by hand that misses the image is more likely one in pixels.
        uncovered = "nearest" if isinstance(crops.boxes_xyxy, Views) and maps.cover_images() else "raise"
    if uncovered not in ("raise", "nearest"):
        raise InvalidValueError(f"uncovered must be 'raise' or 'nearest'; got {uncovered!r}")
    size_hw, clamped = bins_hw(size), uncovered == "nearest"
    given, flips = crops.boxes_xyxy, (crops.flip, crops.flip_vertical)
    is_mixed = False
    if isinstance(given, Views):
        _check_views(crops, given, size)
        flips = given.flips, given.flips_vertical
        is_mixed = given.matrices is not None and bool(given.is_affine.any())
    boxes = checked_boxes(given.boxes if isinstance(given, Views) else given)
    if len(boxes) != len(maps):
        raise InvalidValueError(f"{len(maps)} maps need as many boxes; got {len(boxes)}")
    for flip in flips:
        if flip is not None:
            check_flip(flip, len(maps))
    in_cells = cell_boxes(boxes, maps.footprint, maps.grid)
    if isinstance(given, Views) and is_mixed:
        if one_cell:
            raise InvalidValueError(
                "fill='zero' reproduces published labels, which are of boxes: it knows no view that turns or shears; "
                "pool with fill='rest'"
            )
        return _mixed(maps, given, in_cells, size_hw, clamped=clamped)
    if one_cell:
        in_cells = at_least_one_cell(in_cells)
    weights = roi_weights(in_cells, maps.grid, size_hw, clamp_uncovered=clamped)
    return mirrored(_there(weights, maps), *flips)


def read_weights(maps: MapTensors, crops: Crops, size: Size | None) -> ReadWeights | None:
    """What the maps' reading makes of B crops; None where labels are as they are."""
    reading = maps.reading
    if reading is not None and size is not None:
        reading = reading.tokens
    if reading is None or reading.is_identity:
        return None
    given = crops.boxes_xyxy
    areas = (given if isinstance(given, Views) else Views.of_boxes(given)).areas()
    pooled, whole = (
        each.to(maps.planes.device, maps.label_dtype, non_blocking=True) for each in reading.weights(areas)
    )
    cells = None
    # Of all other maps every cell counts alike, which takes no weights.
    if maps.reach_beyond_images():
        image = whole_weights(maps)
        cells = image.rows.transpose(1, 2) * image.cols
    return ReadWeights(pooled, whole, cells)


def whole_weights(maps: MapTensors) -> CellWeights:
    """The weights of the whole image, as a reading means it: of what each map covers of it, without its padding."""
    footprints = maps.footprints_xyxy().cpu().double()
    image = cell_boxes(footprints.new_tensor([[0, 0, 1, 1]]).expand(len(maps), 4), footprints, maps.grid)
    sides = image.new_tensor([maps.grid.width, maps.grid.height])
    # Cut in cells: a box cut in the image may come back a hair longer than the map, and take one sample more.
    in_cells = torch.cat([image[:, :2].clamp(min=0), torch.minimum(image[:, 2:], sides)], dim=1)
    return _there(roi_weights(in_cells, maps.grid, (1, 1), clamp_uncovered=True), maps)


def _check_views(crops: Crops, views: Views, size: Size | None) -> None:
    if crops.flip is not None or crops.flip_vertical is not None:
        raise InvalidValueError("Views say themselves what was mirrored: give neither flip nor flip_vertical")
    if size is not None and not bool(views.is_exact.all()):
        image = int((~views.is_exact).nonzero()[0, 0])
        raise LabelError(
            f"crop {image} has no token labels: a step of its pipeline moved pixels and was not followed "
            "(geometry='ignore'), which is good enough for image labels only. Pool image labels (size=None), or leave "
            "that step out; geometry='refuse' names it"
        )


def _mixed(maps: MapTensors, views: Views, in_cells: Tensor, size_hw: tuple[int, int], *, clamped: bool) -> ViewWeights:
    """Of views of which some are affine; the others are weighed as boxes always are."""
    box_rows, affine_rows = (rows.nonzero()[:, 0] for rows in (~views.is_affine, views.is_affine))
    footprint = maps.footprint if isinstance(maps.footprint, Footprint) else maps.footprint[affine_rows]
    bins = sampled_bins(views.affine_matrices(), footprint, maps.grid, size_hw)
    covered = torch.empty(len(maps), *size_hw, dtype=maps.label_dtype)
    covered[affine_rows] = bins.covered.to(maps.label_dtype)
    boxes = None
    if len(box_rows):
        weights = roi_weights(in_cells[box_rows], maps.grid, size_hw, clamp_uncovered=True)
        boxes = _there(mirrored(weights, views.flips[box_rows], views.flips_vertical[box_rows]), maps)
        covered[box_rows] = boxes.covered.to(covered)
    if not clamped:
        check_covered(covered, in_cells, maps.grid)
    device = maps.planes.device
    box_rows, affine_rows, covered = (tensor.to(device) for tensor in (box_rows, affine_rows, covered))
    return ViewWeights(boxes, box_rows, bins, affine_rows, covered)


def _there(weights: CellWeights, maps: MapTensors) -> CellWeights:
    """On the device of the maps."""
    device = maps.planes.device
    # A copy to the CPU that does not block could be read before it has arrived.
    return CellWeights(
        *(
            tensor.to(device, maps.label_dtype, non_blocking=device.type != "cpu")
            for tensor in (weights.rows, weights.cols, weights.covered)
        )
    )
