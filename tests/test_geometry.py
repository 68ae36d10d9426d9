"""Axis order, unit, half cell: boxes, footprints, grids, and the weights of cells in a box."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box, Footprint, Grid
from relabel.geometry.cells import (
    at_least_one_cell,
    cell_boxes,
    checked_boxes,
    published_weights,
    resampling_weights,
    roi_weights,
)

GRIDS = [(15, 15), (9, 16), (1, 7), (1, 1)]
SIZES = [(1, 1), (14, 14), (3, 5)]
sides = st.integers(1, 12)


def weights_of(cells_xyxy, grid_hw, size_hw=(1, 1), *, nearest=False):
    cells = torch.as_tensor(cells_xyxy).reshape(-1, 4)
    return roi_weights(cells, Grid(*grid_hw), size_hw, clamp_uncovered=nearest)


def pooled(maps, weights):
    return torch.einsum("bhy,pyx,bwx->bphw", weights.rows, maps, weights.cols)


def test_a_crop_is_given_by_rows_first_and_becomes_a_box_with_x_first():
    box = Box.from_crop(top=30, left=40, height=90, width=20, image_size=(300, 100))
    assert box.xyxy == (0.4, 0.1, 0.6, 0.4)
    assert box.size_hw == pytest.approx((0.3, 0.2))
    assert Box.from_crop(0, 0, 300, 100, (300, 100)) == Box.whole()


@pytest.mark.parametrize("xyxy", [(0.5, 0, 0.5, 1), (0, 1, 1, 0), (0, 0, math.inf, 1), (math.nan, 0, 1, 1)])
def test_a_box_without_area_is_refused(xyxy):
    with pytest.raises(InvalidValueError, match="a box needs"):
        Box(*xyxy)


@pytest.mark.parametrize("image_size", [(0, 10), (10, 0), (-1, 10)])
def test_an_image_without_pixels_has_no_boxes(image_size):
    with pytest.raises(InvalidValueError, match="both positive"):
        Box.from_crop(0, 0, 1, 1, image_size)
    with pytest.raises(InvalidValueError, match="both positive"):
        Footprint.center_square(image_size)


def test_the_centre_square_of_a_portrait_lies_in_the_middle_of_its_height():
    assert Footprint.center_square((400, 300)).xyxy == (0.0, 0.125, 1.0, 0.875)
    assert Footprint.center_square((30, 30)).is_whole


@pytest.mark.parametrize("xyxy", [(1, 0, 2, 1), (0, -1, 1, 0), (0.2, 0.2, 0.1, 0.9)])
def test_a_footprint_beside_the_image_is_refused(xyxy):
    with pytest.raises(InvalidValueError, match=r"footprint overlaps|a box needs"):
        Footprint(*xyxy)


def test_a_footprint_may_be_larger_than_the_image():
    assert not Footprint(-0.5, 0, 1.5, 1).is_whole


def test_a_grid_has_cells_and_is_printed_height_first():
    assert str(Grid(9, 16)) == "9x16"
    with pytest.raises(InvalidValueError, match="at least one cell"):
        Grid(0, 3)


@given(sides, sides, st.data())
@settings(max_examples=40, deadline=None)
def test_a_cells_part_of_the_footprint_is_the_box_of_that_cell(height, width, data):
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x0, y0, x1, y1 = footprint = (-0.25, 0.125, 0.5, 1.0)
    cell = (
        x0 + column / width * (x1 - x0),
        y0 + row / height * (y1 - y0),
        x0 + (column + 1) / width * (x1 - x0),
        y0 + (row + 1) / height * (y1 - y0),
    )
    boxes = torch.tensor([cell], dtype=torch.float64)
    found = cell_boxes(boxes, torch.tensor(footprint, dtype=torch.float64), Grid(height, width))
    np.testing.assert_allclose(found[0], [column, row, column + 1, row + 1], atol=1e-12)


@pytest.mark.parametrize(
    ("boxes", "what"),
    [
        ([[0.0, 0.0, 1.0, 1.0]], "got a list"),
        (Box.whole(), "got a Box"),
        (torch.zeros(4), r"\(4,\)"),
        (torch.zeros(2, 5), r"\(2, 5\)"),
        (torch.tensor([[0, 0, 224, 224]]), "int64"),
        (torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 0.5, 1.0]]), "box 1 is"),
        (torch.tensor([[0.0, math.nan, 1.0, 1.0]]), "box 0 is"),
        (torch.tensor([[0.0, 0.0, math.inf, 1.0]]), "box 0 is"),
    ],
)
def test_boxes_that_are_none_are_refused(boxes, what):
    with pytest.raises(InvalidValueError, match=what):
        checked_boxes(boxes)


def test_boxes_are_computed_with_in_float32_or_float64():
    half = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float16)
    assert checked_boxes(half).dtype == torch.float32
    assert checked_boxes(half.double()).dtype == torch.float64


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("grid_hw", GRIDS)
def test_weights_are_those_of_torchvisions_roi_align(grid_hw, size_hw):
    maps = torch.randn(2, *grid_hw)
    boxes = oracle.random_boxes(500, 0, 0.01 / max(grid_hw), outside=0.0)
    cells = cell_boxes(torch.tensor(boxes, dtype=torch.float32), torch.tensor([0.0, 0.0, 1.0, 1.0]), Grid(*grid_hw))
    expected = roi_align(maps[None], [cells], size_hw, sampling_ratio=-1, aligned=True)
    torch.testing.assert_close(pooled(maps, weights_of(cells, grid_hw, size_hw)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("grid_hw", GRIDS)
def test_weights_partly_outside_are_roi_align_over_what_the_map_covers(grid_hw, size_hw):
    maps = torch.randn(2, *grid_hw, dtype=torch.float64)
    boxes = oracle.random_boxes(400, 1, 0.2, outside=0.4)
    cells = np.array([oracle.box_in_cells(box, grid_hw) for box in boxes])
    weights = weights_of(cells, grid_hw, size_hw, nearest=True)
    seen = 0
    for i in (weights.covered > 0).flatten(1).all(1).nonzero()[:40, 0].tolist():
        found = pooled(maps, weights)[i]
        np.testing.assert_allclose(found, oracle.covered_roi_align(maps.numpy(), cells[i], size_hw), atol=1e-12)
        seen += bool((weights.covered[i] < 1).any())
    assert seen >= 5


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_weights_are_an_average_over_the_cells_wherever_the_box_lies(height, width, bins, seed):
    boxes = oracle.random_boxes(20, seed, 1e-9, outside=2.0).astype(np.float32)
    cells = cell_boxes(torch.tensor(boxes), torch.tensor([0.2, 0.1, 0.6, 0.9]), Grid(height, width))
    weights = weights_of(cells, (height, width), (bins, bins), nearest=True)
    for axis in (weights.rows, weights.cols):
        assert (axis >= 0).all()
        torch.testing.assert_close(axis.sum(2), torch.ones(axis.shape[:2]))
    assert ((weights.covered >= 0) & (weights.covered <= 1)).all()


@given(sides, sides, st.data())
@settings(max_examples=40, deadline=None)
def test_a_box_on_cell_borders_with_bins_of_whole_cells_averages_those_cells(height, width, data):
    """RoIAlign then samples each cell once, at its centre; the whole image with one bin is such a box."""
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    h = data.draw(st.sampled_from([n for n in range(1, 13) if (y1 - y0) % n == 0]))
    w = data.draw(st.sampled_from([n for n in range(1, 13) if (x1 - x0) % n == 0]))
    maps = torch.randn(1, height, width, dtype=torch.float64)
    expected = maps[:, y0:y1, x0:x1].reshape(h, (y1 - y0) // h, w, (x1 - x0) // w).mean((1, 3))
    cells = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float64)
    torch.testing.assert_close(pooled(maps, weights_of(cells, (height, width), (h, w)))[0, 0], expected)


def test_covered_is_the_share_of_a_bins_area():
    boxes = oracle.random_boxes(200, 2, 0.05, outside=0.5)
    cells = np.array([oracle.box_in_cells(box, (4, 7)) for box in boxes])
    expected = [oracle.covered_fraction(box, (4, 7)) for box in cells]
    assert min(expected) == 0
    found = weights_of(cells, (4, 7), nearest=True).covered[:, 0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_box_that_rounding_made_a_point_is_covered_where_it_lies():
    point = torch.tensor([[3.5, 0.25, 3.5, 0.75], [9.0, 0.25, 9.0, 0.75]])
    weights = weights_of(point, (1, 5), nearest=True)
    assert weights.covered.flatten().tolist() == [1.0, 0.0]
    assert weights.cols[0, 0].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("width", [30.3, 1000.7])
@pytest.mark.parametrize("size_hw", [(1, 1), (3, 5)])
def test_a_box_far_wider_than_the_map_is_sampled_as_torchvision_samples_it(width, size_hw):
    start = -width * torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    boxes, grid = torch.cat([start, start + width], 1), Grid(5, 7)
    cells = torch.rand(8, 1, 5, 7)
    weights = published_weights(boxes, grid, size_hw)
    found = weights.rows @ cells[:, 0] @ weights.cols.transpose(1, 2)
    rois = torch.cat([torch.arange(8.0)[:, None], boxes], 1).double()
    expected = roi_align(cells.double(), rois, size_hw, sampling_ratio=-1, aligned=True)[:, 0]
    # In single precision, torchvision itself is off by as much.
    torch.testing.assert_close(found.double(), expected, rtol=1e-6 * width**0.5, atol=1e-9)


def test_a_box_costs_what_the_map_costs_however_wide_it_is():
    # A footprint a billionth wide is reached so; all samples of such a box take exabytes.
    far = torch.tensor([[-1e18, -1e18, 1e18, 1e18], [0, 0, 1e18, 1e12], [1e18, 1e18, 2e18, 2e18]])
    for size_hw in ((1, 1), (14, 14)):
        weights = roi_weights(far, Grid(3, 4), size_hw, clamp_uncovered=True)
        for axis in (weights.rows, weights.cols):
            torch.testing.assert_close(axis.sum(2), torch.ones(axis.shape[:2]))
        assert bool(published_weights(far, Grid(3, 4), size_hw).rows.isfinite().all())


def test_a_bin_outside_the_map_raises_or_takes_the_nearest_cells():
    left_of_it = [-2.0, 0.0, -1.0, 1.0]
    with pytest.raises(LabelError, match=r"box 0 .*outside the part of the image.*never pixels.*'nearest'"):
        weights_of(left_of_it, (2, 3))
    weights = weights_of(left_of_it, (2, 3), nearest=True)
    assert weights.cols.tolist() == [[[1, 0, 0]]]
    assert weights.covered.item() == 0


def test_a_bin_that_touches_the_map_by_rounding_still_has_weights():
    """Its samples lie more than half a cell outside, where torchvision counts none."""
    barely = torch.tensor([[-2.0, 0.0, torch.finfo(torch.float32).tiny, 1.0]])
    assert weights_of(barely, (1, 3), nearest=True).cols.isfinite().all()


@pytest.mark.parametrize("size_hw", [(0, 1), (1, 0)])
def test_a_box_needs_bins(size_hw):
    with pytest.raises(InvalidValueError, match="at least"):
        weights_of([0.0, 0.0, 1.0, 1.0], (2, 2), size_hw)


def test_no_boxes_have_no_weights():
    assert weights_of(torch.zeros(0, 4), (2, 2), (3, 3)).rows.shape == (0, 3, 2)


def test_boxes_of_at_least_one_cell_are_what_roi_align_without_aligned_takes():
    maps = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    small = torch.tensor([[1.2, 3.3, 1.4, 3.35], [0.5, 0.5, 4.0, 0.7], [2.0, 1.0, 6.0, 5.0]])
    expected = roi_align(maps[None], [small - 0.5], (2, 2), sampling_ratio=-1, aligned=False)
    found = pooled(maps, weights_of(at_least_one_cell(small), (6, 9), (2, 2)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@given(sides, sides, sides, sides)
def test_a_map_of_fewer_cells_has_the_mean_of_the_map(height, width, fewer_rows, fewer_columns):
    grid, wanted = Grid(height, width), Grid(min(fewer_rows, height), min(fewer_columns, width))
    rows, cols = resampling_weights(grid, wanted)
    cells = torch.randn(height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height * width))
    torch.testing.assert_close((rows @ cells @ cols.T).mean(), cells.mean())


@given(sides, sides, sides, sides)
def test_a_map_of_more_cells_is_interpolated_between_their_centres(height, width, more_rows, more_columns):
    grid, wanted = Grid(height, width), Grid(height + more_rows, width + more_columns)
    rows, cols = resampling_weights(grid, wanted)
    cells = torch.randn(height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height * width))
    expected = torch.nn.functional.interpolate(cells[None, None], wanted.size_hw, mode="bilinear", align_corners=False)
    torch.testing.assert_close(rows @ cells @ cols.T, expected[0, 0])


def test_the_cells_of_a_coarser_map_are_the_means_of_those_that_they_cover():
    rows, cols = resampling_weights(Grid(4, 3), Grid(2, 2))
    torch.testing.assert_close(rows, torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(cols, torch.tensor([[2, 1, 0], [0, 1, 2]], dtype=torch.float64) / 3)


def test_a_map_of_the_same_grid_stays_the_same():
    rows, cols = resampling_weights(Grid(5, 7), Grid(5, 7))
    torch.testing.assert_close(rows, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(cols, torch.eye(7, dtype=torch.float64))
