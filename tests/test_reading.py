"""A reading: what it makes of a crop's scores, in every way labels are pooled, and what is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from relabel import InvalidValueError, Reading, ScoreMap, View, Views

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
