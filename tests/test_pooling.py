"""Soft labels against torchvision's roi_align, against the oracle, and against the laws of a label."""

from __future__ import annotations

import oracle
import pytest
import torch
from torchvision.ops import roi_align

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import WHOLE
from relabel.score_map import ScoreMap

SPACES = ["logit", "probability"]
BOX = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
CLASSES = 40


def random_maps(count, grid_hw, *, planes=6, profile=10, dtype=torch.float32, footprint=None, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, CLASSES, *grid_hw, generator=generator, dtype=dtype) * scale
    boxes = WHOLE if footprint is None else torch.tensor([footprint], dtype=dtype).expand(count, 4)
    return ScoreMap.from_logits(logits, planes, profile, footprint=boxes)


def oracle_map(maps, image):
    """One image of a `ScoreMap`, as the oracle knows it."""
    plain = maps.decoded()
    return oracle.Map(
        plain.classes[image].long().numpy(),
        *(t[image].double().numpy() for t in (plain.planes, plain.rest, plain.profile)),
        plain.num_classes,
    )


@pytest.mark.parametrize("size", [None, (4, 3)])
@pytest.mark.parametrize(
    ("grid_hw", "footprint", "outside"),
    [
        ((15, 15), None, 0.0),
        ((9, 16), None, 0.0),
        ((16, 9), (0.125, 0.0, 0.875, 1.0), 0.0),
        ((7, 7), (-0.25, -0.1, 1.25, 1.1), 0.2),
        ((12, 10), None, 0.3),
    ],
)
def test_labels_of_ten_thousand_boxes_are_those_of_roi_align_on_all_classes(grid_hw, footprint, outside, size):
    """2,500 boxes a case, of a hundredth of a cell up to the whole image; where the map ends, renormalised."""
    maps = random_maps(5, grid_hw, footprint=footprint)
    boxes = torch.tensor(oracle.random_boxes(2500, 5, 0.01 / max(grid_hw), outside=outside), dtype=torch.float32)
    boxes[:3] = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [-0.05, -0.1, 1.05, 1.1]])
    image = torch.arange(2500) % 5
    # A bin without any part of the map has no label; `uncovered` has its own tests.
    covered = (maps[image].covered(boxes, size) > 0).reshape(2500, -1).all(1)
    assert covered.sum() > 1000  # ten cases make ten thousand
    boxes, image = boxes[covered], image[covered]
    x0, y0, x1, y1 = footprint or (0.0, 0.0, 1.0, 1.0)
    cells = (boxes - torch.tensor([x0, y0, x0, y0])) / torch.tensor([x1 - x0, y1 - y0] * 2)
    rois = torch.cat([image[:, None], cells * torch.tensor([*grid_hw[::-1]] * 2)], dim=1)
    dense = torch.cat([maps.to_dense(), torch.ones(5, 1, *grid_hw)], dim=1)
    pooled = roi_align(dense, rois, size or (1, 1), sampling_ratio=-1, aligned=True)
    expected = (pooled[:, :-1] / pooled[:, -1:]).softmax(1)
    found = maps[image].pool(boxes, size)
    torch.testing.assert_close(found, expected if size else expected[:, :, 0, 0], atol=1e-5, rtol=0)


def test_x_is_x_and_y_is_y():
    """A class that lives in the top right corner cell wins in that corner alone."""
    logits = torch.zeros(1, 2, 3, 5)
    logits[0, 1, 0, 4] = 9.0
    tokens = ScoreMap.from_logits(logits).pool(BOX, (3, 5))[0, 1]
    assert (tokens > 0.6).nonzero().tolist() == [[0, 4]]
    corner = ScoreMap.from_logits(logits).pool(torch.tensor([[0.8, 0.0, 1.0, 1 / 3]]))
    assert corner[0, 1] > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_planes_give_float32_labels(dtype):
    maps = random_maps(2, (4, 4))
    half = ScoreMap(
        maps.classes, maps.planes.to(dtype), maps.rest.to(dtype), maps.profile.to(dtype), num_classes=CLASSES
    )
    found = half.pool(BOX.expand(2, 4))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, maps.pool(BOX.expand(2, 4)), atol=5e-3, rtol=0)


def test_a_trainers_autocast_rounds_nothing(device):
    maps = random_maps(4, (9, 9)).coded().to(device)
    boxes = torch.tensor(oracle.random_boxes(4, 12, 0.1), dtype=torch.float32)
    for size in (None, (4, 4)):
        expected = maps.pool(boxes, size)
        with torch.autocast(device.type, torch.bfloat16):
            torch.testing.assert_close(maps.pool(boxes, size), expected, atol=0, rtol=0)


def test_labels_do_not_depend_on_where_maps_and_boxes_are(device):
    maps = random_maps(4, (5, 6), footprint=(0.0, 0.1, 1.0, 0.9))
    boxes = torch.tensor(oracle.random_boxes(4, 13, 0.2), dtype=torch.float32)
    expected = maps.pool(boxes, (2, 3), uncovered="nearest")
    for there in (boxes, boxes.to(device)):
        found = maps.to(device).pool(there, (2, 3), uncovered="nearest")
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.pool(boxes.to(device), (2, 3), uncovered="nearest"), expected, atol=1e-5, rtol=0)


def test_a_confident_coded_map_excludes_no_class_that_is_possible():
    """A probability of 0.97 has code 0, as 1 has; in probability space the other 3 % must not vanish with it."""
    logits = torch.tensor([0.97, 0.02, 0.01]).log().reshape(1, 3, 1, 1)
    label = ScoreMap.from_logits(logits, planes=1, profile=1).coded().pool(BOX, space="probability")
    assert (label[0, 1:] > 0.005).all()


@pytest.mark.parametrize("space", ["log", None, "Logit"])
def test_an_unknown_space_is_refused(space):
    with pytest.raises(InvalidValueError, match="'logit', 'probability'"):
        random_maps(1, (2, 2)).pool(BOX, space=space)


def test_a_crop_outside_the_footprint_raises_or_takes_the_nearest_cells():
    maps = random_maps(2, (3, 4), footprint=(0.25, 0.0, 0.75, 1.0))
    boxes = torch.tensor([[0.3, 0.1, 0.6, 0.4], [0.05, 0.0, 0.2, 1 / 3]])
    with pytest.raises(LabelError, match=r"box 1 .*outside"):
        maps.pool(boxes)
    found = maps.pool(boxes, uncovered="nearest", sparse=True)
    assert found.covered.tolist() == [1.0, 0.0]
    top_left = maps.to_dense()[1, :, 0, 0].softmax(0)
    torch.testing.assert_close(found.dense()[1], top_left, atol=1e-5, rtol=0)
    with pytest.raises(InvalidValueError, match="'raise' or 'nearest'"):
        maps.pool(boxes, uncovered="ignore")


def test_sparse_labels_are_printed_by_shape():
    sparse = random_maps(2, (3, 3)).pool(BOX.expand(2, 4), (2, 2), sparse=True)
    assert repr(sparse) == f"SparseLabels((2, 16, 2, 2) of {CLASSES} classes, torch.float32)"


def test_a_high_temperature_brings_back_classes_that_had_no_probability_left():
    maps = ScoreMap.from_logits(torch.tensor([0.0, -150.0]).reshape(1, 2, 1, 1), 2, 0)
    found = maps.pool(BOX, temperature=150.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0]]).softmax(1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(InvalidValueError, match="temperature must be above 0"):
        random_maps(1, (2, 2)).pool(BOX, temperature=temperature)


def test_a_flip_mirrors_what_is_covered_of_the_tokens_too():
    maps, flip = random_maps(2, (4, 4), footprint=(0.25, 0.0, 1.0, 1.0)), torch.tensor([True, False])
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).expand(2, 4)
    plain, flipped = (maps.pool(boxes, (2, 4), flip=f, sparse=True, uncovered="nearest") for f in (None, flip))
    assert plain.covered[0, 0].tolist() != plain.covered[0, 0].flip(0).tolist()
    expected = torch.stack([plain.covered[0].flip(1), plain.covered[1]])
    torch.testing.assert_close(flipped.covered, expected, atol=0, rtol=0)
