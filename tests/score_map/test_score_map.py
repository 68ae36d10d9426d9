"""What a score map refuses to be, and how it travels."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch

from relabel.errors import InvalidValueError
from relabel.score_map import NOT_STORED, ScoreMap

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def tensors(**changed):
    """Arguments of a good map of 2 images: K = 2, M = 1, C = 5, 3 x 4 cells."""
    good = {
        "classes": torch.tensor([[0, 1, 2], [4, 2, 0]]),
        "planes": torch.full((2, 2, 3, 4), -2.0),
        "rest": torch.full((2, 3, 4), -3.0),
        "profile": torch.zeros(2, 2),
        "num_classes": 5,
    }
    return good | changed


def with_value(name, value):
    tensor = tensors()[name].clone()
    tensor[(1,) + (0,) * (tensor.ndim - 1)] = value
    return {name: tensor}


def codes(**changed):
    coded = {
        "planes": torch.full((2, 2, 3, 4), 16, dtype=torch.uint8),
        "rest": torch.full((2, 3, 4), 24, dtype=torch.uint8),
        "profile": torch.zeros(2, 2, dtype=torch.int8),
    }
    return tensors(**coded | changed)


def footprints(*xyxy):
    return {"footprint": torch.tensor([[0.0, 0.0, 1.0, 1.0], list(xyxy)])}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (tensors(planes=torch.zeros(2, 2, 3)), r"planes \(B, K, H, W\)"),
        (tensors(classes=torch.zeros(2, dtype=torch.int64)), r"classes \(B, K \+ M\)"),
        (tensors(classes=torch.zeros(3, 3, dtype=torch.int64)), r"classes must be \(2, 3\)"),
        (tensors(rest=torch.zeros(2, 4, 3)), r"rest must be \(2, 3, 4\).*got \(2, 4, 3\)"),
        (tensors(profile=torch.zeros(2, 1)), r"profile must be \(2, 2\)"),
        (tensors(profile=None), "1 profile classes need a profile"),
        (tensors(footprint=torch.zeros(4)), r"footprint must be \(2, 4\)"),
        (tensors(num_classes=2), "K = 2, M = 1"),
        (tensors(planes=torch.zeros(2, 4, 3, 4)), "M = -1"),
        (tensors(planes=torch.zeros(2, 0, 3, 4)), "K = 0"),
        (tensors(planes=torch.zeros(2, 2, 0, 4), rest=torch.zeros(2, 0, 4)), "0 x 4 cells"),
        (tensors(planes=torch.zeros(2, 2, 3, 4, dtype=torch.float16)), "float16 and torch.float32"),
        (tensors(planes=torch.zeros(2, 2, 3, 4).int(), rest=torch.zeros(2, 3, 4).int()), "int32"),
        (tensors(classes=torch.zeros(2, 3)), "never floats"),
        (tensors(classes=torch.zeros(2, 3, dtype=torch.bool)), "never floats; got torch.bool"),
        (tensors(profile=torch.zeros(2, 2, dtype=torch.int64)), "profile is floating, in nats, or int8"),
        (tensors(footprint=torch.zeros(2, 4, dtype=torch.int64)), "one Footprint for all maps, or floating"),
        (tensors(**with_value("classes", 5)), r"\[0, 5\); got 0 .. 5"),
        (tensors(**with_value("classes", -1)), r"\[0, 5\); got -1"),
        (tensors(**with_value("classes", 2)), "list 1 repeats one"),
        (tensors(**with_value("planes", math.nan)), "holes=True"),
        (tensors(**with_value("planes", -math.inf)), "is infinite"),
        (tensors(**with_value("planes", math.inf), holes=True), "is infinite"),
        (tensors(**with_value("rest", math.nan), holes=True), "rest needs a score"),
        (codes(planes=torch.full((2, 2, 3, 4), NOT_STORED, dtype=torch.uint8)), "holes=True"),
        (codes(rest=torch.full((2, 3, 4), NOT_STORED, dtype=torch.uint8), holes=True), "rest needs a score"),
        (tensors(**footprints(0.2, 0, 0.1, 1)), "image 1 is"),
        (tensors(**footprints(1, 0, 2, 1)), "overlaps the image"),
        (tensors(**footprints(math.nan, 0, 1, 1)), "image 1 is"),
        (tensors(**footprints(0, 0, math.inf, 1)), "image 1 is"),
    ],
)
def test_what_has_no_meaning_together_is_no_map(arguments, what):
    with pytest.raises(InvalidValueError, match=what):
        ScoreMap(**arguments)


@pytest.mark.parametrize("arguments", [tensors(), codes(), codes(profile=torch.zeros(2, 2)), tensors(holes=True)])
def test_floats_and_codes_are_maps(arguments):
    assert ScoreMap(**arguments).pool(WHOLE.expand(2, 4)).sum().item() == pytest.approx(2)


def test_without_a_profile_all_other_classes_are_worth_the_rest():
    maps = ScoreMap(torch.tensor([[1]]), torch.full((1, 1, 2, 2), -1.0), torch.full((1, 2, 2), -2.0), num_classes=3)
    expected = torch.tensor([[-2.0, -1.0, -2.0]]).softmax(1)
    torch.testing.assert_close(maps.pool(WHOLE), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64])
def test_ids_of_every_integer_dtype_work_everywhere(dtype):
    plain = ScoreMap(**codes())
    maps = replace(plain, classes=plain.classes.to(dtype))
    boxes = WHOLE.expand(2, 4)
    torch.testing.assert_close(maps.pool(boxes), plain.pool(boxes))
    torch.testing.assert_close(maps.to_dense(), plain.to_dense())
    assert maps[torch.tensor([1, 0])].classes.long().tolist() == plain.classes.flip(0).tolist()
    assert maps.decoded().coded().classes.dtype == dtype


@pytest.mark.parametrize(
    "index", [slice(1, None), torch.tensor([1]), torch.tensor([False, True]), [1]], ids=["slice", "ids", "mask", "list"]
)
def test_some_of_the_images(index):
    footprint = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.25, 1.0, 0.75]])
    maps = ScoreMap(**tensors(footprint=footprint))
    some = maps[index]
    assert len(some) == 1
    assert some.footprint.tolist() == footprint[1:].tolist()
    torch.testing.assert_close(some.to_dense(), maps.to_dense()[1:])


def test_a_map_travels_between_processes():
    maps = ScoreMap(**codes(footprint=torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)))
    arrived = pickle.loads(pickle.dumps(maps))
    assert repr(arrived) == repr(maps)
    torch.testing.assert_close(arrived.to_dense(), maps.to_dense())


def test_the_footprint_stays_where_boxes_are(device):
    maps = ScoreMap(**tensors(footprint=torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))).to(device)
    assert maps.planes.device.type == maps.classes.device.type == device.type
    assert maps.footprint.device.type == "cpu"
    assert len(maps[torch.tensor([1], device=device)]) == 1


@pytest.mark.parametrize(
    ("boxes", "arguments", "what"),
    [
        (WHOLE, {}, "2 maps need as many boxes; got 1"),
        (WHOLE.expand(2, 4), {"flip": torch.tensor([True])}, r"flip must be \(2,\)"),
        (WHOLE.expand(2, 4), {"flip": [True, False]}, r"flip must be \(2,\), one a box; got a list"),
        (WHOLE.expand(2, 4), {"flip": torch.zeros(2, 1)}, r"flip must be \(2,\)"),
        (WHOLE.expand(2, 4), {"fill": "mean"}, "fill must be 'rest'"),
    ],
)
def test_a_label_of_nothing_is_refused(boxes, arguments, what):
    with pytest.raises(InvalidValueError, match=what):
        ScoreMap(**tensors()).pool(boxes, **arguments)


def test_covered_is_known_without_a_label():
    maps = ScoreMap(**tensors(footprint=torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]])))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 1.0]])
    assert maps.covered(boxes).tolist() == [1.0, 0.5]
    assert maps.covered(boxes, (1, 2)).tolist() == [[[1.0, 1.0]], [[0.0, 1.0]]]
