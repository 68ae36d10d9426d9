"""A reading: what it makes of a crop's scores, in every way labels are pooled, and what is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from relabel import Footprint, InvalidValueError, Reading, ScoreMap, View, Views
from relabel.worth.samples import crop_samples

_READING = Reading(1.2, 0.2, 0.3, -0.05, tokens=Reading(0.8, 0.0, 0.4, 0.1))
_BOXES = torch.tensor([[0.1, 0.0, 0.4, 0.5], [0.3, 0.2, 0.35, 0.3], [0.0, 0.0, 1.0, 1.0], [-0.2, 0.5, 1.1, 1.4]])


def _maps(reading: Reading | None = None, *, holes: bool = False) -> ScoreMap:
    logits = torch.randn(4, 11, 5, 6, generator=torch.Generator().manual_seed(3)) * 3
    maps = ScoreMap.from_logits(logits, planes=3, profile=4)
    if holes:
        values, classes = logits.topk(3, dim=1)
        maps = ScoreMap.from_cell_topk(classes, values, num_classes=11)
    return replace(maps, reading=reading)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("size", [None, (2, 3)])
def test_labels_are_those_of_the_plain_formula(holes, size):
    maps = _maps(_READING, holes=holes)
    reading = _READING if size is None else _READING.tokens
    got = maps.pool(_BOXES, size, uncovered="nearest")
    for label, dense, box in zip(got, maps.to_dense(), _BOXES.tolist(), strict=True):
        expected = oracle.read_label(dense, box, reading.numbers, size or (1, 1))
        np.testing.assert_allclose(label.reshape(expected.shape), expected, atol=2e-6)
    sparse = maps.pool(_BOXES, size, sparse=True, uncovered="nearest")
    assert torch.equal(sparse.dense(), got)
    torch.testing.assert_close(got.sum(1), torch.ones_like(got.sum(1)))


@pytest.mark.parametrize("size", [None, 3])
def test_the_reading_of_nothing_is_bit_equal_to_none(size):
    for maps in (_maps(), _maps().coded(), _maps(holes=True)):
        read = replace(maps, reading=Reading(tokens=Reading()))
        assert torch.equal(read.pool(_BOXES, size, uncovered="nearest"), maps.pool(_BOXES, size, uncovered="nearest"))


def test_a_constant_added_to_all_scores_of_a_cell_changes_no_label():
    maps, shift = _maps(_READING), torch.randn(4, 1, 5, 6)
    shifted = replace(maps, planes=maps.planes + shift, rest=maps.rest + shift[:, 0])
    torch.testing.assert_close(shifted.pool(_BOXES[:3][[0, 1, 2, 0]]), maps.pool(_BOXES[:3][[0, 1, 2, 0]]))


def test_a_turned_view_is_read_by_the_area_that_it_shows():
    turn = torch.pi / 5
    a, b = 0.5 * math.cos(turn), 0.3 * math.sin(turn)
    view = View.affine(((a, -b, 0.3), (0.5 * math.sin(turn), 0.3 * math.cos(turn), 0.2)))
    views = Views.of([view, View(View.whole().box, flip=True)] * 2)
    area = 0.5 * 0.3
    assert views.areas().tolist() == pytest.approx([area, 1.0] * 2)
    as_is, read = (_maps(each).pool(views) for each in (None, _READING))
    whole = _maps().to_dense().mean((2, 3))
    pooled = _READING.pooled + _READING.pooled_per_log_area * math.log(area)
    context = _READING.whole + _READING.whole_per_log_area * math.log(area)
    torch.testing.assert_close(read[0], (pooled * as_is[0].log() + context * whole[0]).softmax(0))


@pytest.mark.parametrize("xyxy", [(-0.2, 0.0, 1.2, 1.0), (0.1, -0.3, 0.9, 1.2), (0.125, 0.0, 0.875, 1.0)])
@pytest.mark.parametrize("each_its_own", [False, True])
def test_the_whole_image_is_what_the_map_covers_of_it_where_a_reading_is_fitted_and_where_it_is_applied(
    xyxy, each_its_own
):
    footprint = torch.tensor([xyxy]).repeat(4, 1) if each_its_own else Footprint(*xyxy)
    maps = replace(_maps(), footprint=footprint)
    maps = replace(maps, planes=maps.planes.double(), rest=maps.rest.double())
    # In cells of a 5 x 6 map.
    (x0, y0), (sx, sy) = xyxy[:2], (6 / (xyxy[2] - xyxy[0]), 5 / (xyxy[3] - xyxy[1]))
    image = (max(-x0 * sx, 0), max(-y0 * sy, 0), min((1 - x0) * sx, 6), min((1 - y0) * sy, 5))
    in_map = (image[0] / 6, image[1] / 5, image[2] / 6, image[3] / 5)
    dense = maps.to_dense()
    whole = torch.stack([torch.as_tensor(oracle.read_label(each, in_map, (1, 0, 0, 0), (1, 1))) for each in dense])
    whole = whole.reshape(4, -1).double()
    fitted = crop_samples(maps, _BOXES[[0, 1, 2, 2]][:, None], torch.full((4, 1, 11), 1 / 11), torch.arange(4)).whole
    torch.testing.assert_close(fitted[:, :-1], whole.gather(1, maps.classes.long()).log(), atol=1e-6, rtol=0)
    covered = torch.tensor([[0.3, 0.2, 0.6, 0.8]]).repeat(4, 1)
    for size in (None, 2):
        of_whole = Reading(1.0, 0.0, 1.0, 0.0)
        read = replace(maps, reading=replace(of_whole, tokens=of_whole)).pool(covered, size)
        context = whole if size is None else whole[:, :, None, None]
        torch.testing.assert_close(read, (maps.pool(covered, size).log() + context.log()).softmax(1), atol=1e-6, rtol=0)


def test_published_fill_knows_no_reading():
    as_is, read = (_maps(each, holes=True).pool(_BOXES[[0, 1, 2, 2]], fill="zero") for each in (None, _READING))
    assert torch.equal(read, as_is)


def test_a_temperature_comes_after_the_reading():
    read = _maps(_READING).pool(_BOXES, uncovered="nearest")
    flat = _maps(_READING).pool(_BOXES, uncovered="nearest", temperature=2.0)
    torch.testing.assert_close(flat, (read.log() / 2).softmax(1))


def test_probabilities_know_no_reading():
    with pytest.raises(InvalidValueError, match="logit space only"):
        _maps(_READING).pool(_BOXES[[0, 1, 2, 2]], space="probability")


@pytest.mark.parametrize(
    "numbers", [(math.nan, 0, 0, 0), (1e9, 0, 0, 0), (1, 0.5, 0, 0), (0, 0, 1, 0), (1, 0, -1.5, 0), ("1", 0, 0, 0)]
)
def test_numbers_that_make_no_label_are_refused(numbers):
    with pytest.raises(InvalidValueError, match="Reading must"):
        Reading(*numbers)
