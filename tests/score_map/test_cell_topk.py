"""Maps of the published kind: each cell lists its own classes, and the published labels come out of them."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from test_published import golden

from relabel.errors import InvalidValueError
from relabel.score_map import NOT_STORED, ScoreMap

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.fixture(scope="module")
def published():
    """What the published ReLabel code made of 24 crops."""
    return golden("relabel_crops.npz")


def two_cells():
    """One image, two cells, k = 2: the left lists classes 4 and 1, the right 1 and 3."""
    classes = torch.tensor([[[4, 1]], [[1, 3]]])[None]
    logits = torch.tensor([[[5.0, 6.0]], [[2.0, 1.5]]])[None]
    return classes, logits


def test_the_published_labels_are_reproduced(published):
    maps, boxes, arrays = published
    np.testing.assert_allclose(maps.pool(boxes, fill="zero"), arrays["labels"], atol=1e-5)


def test_boxes_of_a_cell_or_more_need_no_mode_of_their_own(published):
    maps, boxes, arrays = published
    large = ((boxes[:, 2:] - boxes[:, :2]) * 15 >= 1).all(1)
    assert 0 < large.sum() < len(boxes)
    np.testing.assert_allclose(maps.pool(boxes)[large], arrays["labels"][large.numpy()], atol=1e-5)


def test_what_a_cell_lists_is_its_planes_and_the_rest_are_holes():
    classes, logits = two_cells()
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=6)
    assert maps.holes
    assert maps.classes.tolist() == [[1, 3, 4]]
    nan = float("nan")
    np.testing.assert_array_equal(maps.planes[0, :, 0], [[2.0, 6.0], [nan, 1.5], [5.0, nan]])
    np.testing.assert_array_equal(maps.to_dense()[0], oracle.zero_filled(classes[0], logits[0], 6))


def test_an_image_with_fewer_classes_gets_planes_that_no_cell_lists():
    classes = torch.tensor([[[[0, 1]]], [[[5, 5]]]])
    maps = ScoreMap.from_cell_topk(classes, torch.full((2, 1, 1, 2), 3.0), num_classes=7)
    assert maps.classes[1, 0] == 5
    assert maps.planes[1, 1].isnan().all()
    assert maps.pool(WHOLE.expand(2, 4))[1].argmax() == 5


@pytest.mark.parametrize("level", [-2000.0, -20.0, 0.0, 300.0])
@pytest.mark.parametrize("count", [2, 6])
def test_raw_logits_of_any_size_have_probabilities(level, count):
    """exp() of a logit of 300 is too much for float32, and of -2000 it is nothing, even where no other class is."""
    classes, logits = torch.tensor([[[[0, 1]], [[1, 0]]]]), torch.tensor([[[[1.0, 0.5]], [[-2.0, 1.5]]]]) + level
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=count)
    cells = oracle.softmax(oracle.zero_filled(classes[0], logits[0], count))
    found = maps.pool(WHOLE, space="probability", fill="zero")[0]
    np.testing.assert_allclose(found, cells.mean((1, 2)), atol=1e-6)


def test_zero_fills_holes_wherever_maps_are(published, device):
    maps, boxes, _ = published
    large = ((boxes[:, 2:] - boxes[:, :2]) * 15 >= 1).all(1)
    maps, boxes = maps[large], boxes[large]
    options = {"size": (2, 3), "flip": torch.arange(len(maps)) % 2 == 0, "fill": "zero"}
    for space in ("logit", "probability"):
        expected = maps.pool(boxes, space=space, **options)
        found = maps.to(device).pool(boxes, space=space, sparse=True, **options)
        assert found.probabilities.device.type == device.type
        torch.testing.assert_close(found.dense().cpu(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rest", [None, torch.full((1, 1, 2), -3.0)])
def test_in_probability_space_each_cell_is_a_softmax_over_all_classes(rest):
    classes, logits = two_cells()
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=6, rest=rest)
    cells = oracle.softmax(maps.to_dense()[0].numpy())
    np.testing.assert_allclose(maps.pool(WHOLE, space="probability")[0], cells.mean((1, 2)), atol=1e-6)


def test_holes_survive_coding_and_are_filled_by_the_rest():
    classes, logits = two_cells()
    scores = logits.log_softmax(1) - 0.5
    maps = ScoreMap.from_cell_topk(classes, scores, num_classes=6, rest=torch.full((1, 1, 2), -4.0))
    coded = maps.coded()
    assert (coded.planes == NOT_STORED).sum() == 2
    assert coded.decoded().planes.isnan().sum() == 2
    torch.testing.assert_close(coded.to_dense(), maps.to_dense(), atol=1 / 16, rtol=0)
    assert maps.to_dense()[0, 3, 0, 0] == -4.0


@pytest.mark.parametrize("whole", [True, False])
def test_zero_is_no_fill_for_log_probabilities(whole):
    classes, logits = two_cells()
    cells = ScoreMap.from_cell_topk(classes, logits.log_softmax(1), num_classes=6, rest=torch.full((1, 1, 2), -4.0))
    maps = ScoreMap.from_logits(torch.zeros(1, 3, 2, 2)) if whole else cells.coded()
    with pytest.raises(InvalidValueError, match="raw logits"):
        maps.pool(WHOLE, fill="zero")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"classes": torch.tensor([[[[4, 1]], [[1, 6]]]])}, r"\[0, 6\); got 1 .. 6"),
        ({"classes": torch.tensor([[[[4, 1]], [[1, 1]]]])}, "repeats one"),
        ({"logits": torch.zeros(1, 2, 2, 1)}, r"\(B, k, H, W\)"),
        ({"logits": torch.zeros(1, 2, 1, 2, dtype=torch.int64)}, "floating"),
        ({"rest": torch.zeros(1, 2)}, "rest must be"),
        ({"rest": torch.full((1, 1, 2), float("nan"))}, "rest needs a score at every cell"),
    ],
)
def test_lists_that_cannot_be_are_refused(change, what):
    classes, logits = two_cells()
    given = {"classes": classes, "logits": logits, "rest": None} | change
    with pytest.raises(InvalidValueError, match=what):
        ScoreMap.from_cell_topk(given["classes"], given["logits"], num_classes=6, rest=given["rest"])
