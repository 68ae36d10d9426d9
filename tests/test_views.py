"""Views: what crops of crops, mirrorings and turns show of an image, and batches of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View, Views

starts, sides = st.floats(-0.5, 0.9), st.floats(0.05, 1.5)
boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), starts, starts, sides, sides)
crops = st.builds(View, boxes, st.booleans(), st.booleans(), is_exact=st.booleans())
turned = st.builds(
    # By an angle, then sheared: never a line, since neither side shrinks below a twentieth.
    lambda angle, shear, x, y, w, h: View.affine(
        (
            (w * math.cos(angle), h * (shear * math.cos(angle) - math.sin(angle)), x),
            (w * math.sin(angle), h * (shear * math.sin(angle) + math.cos(angle)), y),
        )
    ),
    st.floats(-3.2, 3.2),
    st.floats(-0.5, 0.5),
    starts,
    starts,
    sides,
    sides,
)
views = crops | turned


def matrix_of(view):
    return np.array([*view.as_matrix(), (0.0, 0.0, 1.0)])


def assert_same(one, other):
    np.testing.assert_allclose(matrix_of(one), matrix_of(other), atol=1e-7)
    assert one.is_exact == other.is_exact


@given(views, views, views)
@settings(max_examples=60, deadline=None)
def test_parts_of_parts_may_be_taken_in_any_order(one, two, three):
    assert_same(one.then(two).then(three), one.then(two.then(three)))


@given(views, views)
@settings(max_examples=60, deadline=None)
def test_a_part_of_a_view_is_the_product_of_their_maps(one, two):
    both = one.then(two)
    np.testing.assert_allclose(matrix_of(both), matrix_of(one) @ matrix_of(two), atol=1e-7)
    assert both.is_exact == (one.is_exact and two.is_exact)
    corners = matrix_of(both)[:2] @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(both.box.xyxy, [*corners.min(1), *corners.max(1)], atol=1e-7)


@given(views)
@settings(max_examples=40, deadline=None)
def test_the_whole_of_a_view_is_that_view(view):
    assert view.then(View.whole()) == view
    assert_same(View.whole().then(view), view)


@given(crops)
@settings(max_examples=40, deadline=None)
def test_to_mirror_twice_is_to_leave_it_exactly(view):
    for flip in (View(Box.whole(), flip=True), View(Box.whole(), flip_vertical=True)):
        once = view.then(flip)
        assert once != view
        assert once.box == view.box
        assert once.then(flip) == view


@given(crops, crops)
@settings(max_examples=60, deadline=None)
def test_a_crop_of_a_crop_is_a_box_and_of_a_box_without_mirrorings_the_sum_of_both(one, two):
    both = one.then(two)
    assert both.matrix is None
    assert (both.flip, both.flip_vertical) == (one.flip != two.flip, one.flip_vertical != two.flip_vertical)
    (x0, y0, _, _), (height, width) = one.box.xyxy, one.box.size_hw
    plain = replace(one, flip=False, flip_vertical=False).then(two).box
    if two.box != Box.whole():
        xs, ys = two.box.xyxy[::2], two.box.xyxy[1::2]
        assert plain == Box(x0 + xs[0] * width, y0 + ys[0] * height, x0 + xs[1] * width, y0 + ys[1] * height)


@given(crops)
@settings(max_examples=40, deadline=None)
def test_a_map_that_only_scales_and_mirrors_becomes_the_box(view):
    again = View.affine(view.as_matrix(), is_exact=view.is_exact)
    assert again.matrix is None
    assert (again.flip, again.flip_vertical, again.is_exact) == (view.flip, view.flip_vertical, view.is_exact)
    np.testing.assert_allclose(again.box.xyxy, view.box.xyxy, atol=1e-12)


def test_half_a_turn_is_a_box_mirrored_both_ways_and_a_quarter_is_none():
    half, quarter = math.pi, math.pi / 2
    turned_by = {
        angle: View.affine(
            (
                (math.cos(angle), -math.sin(angle), 0.5 - (math.cos(angle) - math.sin(angle)) / 2),
                (math.sin(angle), math.cos(angle), 0.5 - (math.sin(angle) + math.cos(angle)) / 2),
            )
        )
        for angle in (half, quarter)
    }
    assert turned_by[half].matrix is None
    assert (turned_by[half].flip, turned_by[half].flip_vertical) == (True, True)
    np.testing.assert_allclose(turned_by[half].box.xyxy, (0, 0, 1, 1), atol=1e-12)
    assert turned_by[quarter].matrix is not None
    twice = turned_by[quarter].then(turned_by[quarter])
    assert (twice.matrix, twice.flip, twice.flip_vertical) == (None, True, True)


@pytest.mark.parametrize(
    "matrix",
    [
        ((0.5, 0.5, 0.0), (0.5, 0.5, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((math.nan, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((1.0, 0.0, math.inf), (0.0, 1.0, 0.0)),
    ],
)
def test_a_map_that_shows_no_area_is_refused(matrix):
    with pytest.raises(InvalidValueError, match="finite, and shows an area"):
        View.affine(matrix)


def test_a_view_whose_step_was_ignored_stays_inexact_in_all_that_follows():
    view = View(Box(0.1, 0.1, 0.5, 0.5))
    assert view.is_exact
    assert not view.ignoring().then(view).is_exact
    assert not view.then(view.ignoring()).is_exact
    assert replace(view.ignoring(), is_exact=True) == view


def test_a_batch_holds_each_view_and_any_part_of_it():
    box = View(Box(0.1, 0.2, 0.5, 0.9), flip=True)
    turn = View.affine(((0.4, 0.1, 0.2), (-0.1, 0.5, 0.3)))
    other = View(Box(0.0, 0.0, 1.0, 1.0), flip_vertical=True).ignoring()
    batch = Views.of([box, turn, other])
    assert len(batch) == 3
    assert batch.is_affine.tolist() == [False, True, False]
    assert batch.flips.tolist() == [True, False, False]
    assert batch.flips_vertical.tolist() == [False, False, True]
    assert batch.is_exact.tolist() == [True, True, False]
    np.testing.assert_allclose(batch.boxes, [view.box.xyxy for view in (box, turn, other)], atol=1e-7)
    assert batch.affine_matrices().tolist() == [[list(row) for row in turn.as_matrix()]]
    for part in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True])):
        assert batch[part].is_affine.tolist() == [True, False]
        torch.testing.assert_close(batch[part].boxes, batch.boxes[1:])
    plain = Views.of([box, other])
    assert plain.matrices is None
    assert plain.affine_matrices().shape == (0, 2, 3)
    assert not plain.is_affine.any()
    assert len(Views.of([])) == 0
