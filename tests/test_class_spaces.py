"""Whether ground truth and labels speak of the same classes: the names of timm and torchvision are the oracles."""

from __future__ import annotations

import pytest
from timm.data.imagenet_info import ImageNetInfo
from torchvision.models import ResNet18_Weights

from relabel.manifest import class_spaces

IMAGENET = ImageNetInfo("imagenet-1k").label_descriptions(as_dict=True)
IDS, NAMES = tuple(IMAGENET), tuple(IMAGENET.values())


@pytest.mark.parametrize(
    ("names", "truths", "are_same"),
    [
        (NAMES, IDS, True),
        (ResNet18_Weights.DEFAULT.meta["categories"], IDS, True),
        (IDS, IDS, True),
        (NAMES, tuple(name.replace(" ", "_").upper() for name in NAMES), True),
        (None, IDS, None),
        # Called otherwise than here, which no table of names tells from other classes.
        ((*NAMES[:-1], "fungus"), IDS, None),
        (NAMES, (*IDS[:-1], "n99999999"), False),
        (NAMES[::-1], NAMES, False),
        (NAMES, IDS[:100], False),
        (("cat", "dog"), ("even", "odd"), False),
        (None, ("even", "odd"), False),
    ],
)
def test_names_and_wordnet_ids_are_compared_by_what_they_mean(names, truths, are_same):
    assert class_spaces(names, 1000 if names is None else len(names), truths).are_same is are_same


def test_what_differs_is_said():
    assert class_spaces(NAMES, 1000, ("even", "odd")).why == (
        "the images are of 2 classes ('even', 'odd'), the teacher of 1000 ('tench, Tinca tinca', 'goldfish, Carassius "
        "auratus', ...)"
    )
    assert class_spaces(NAMES[::-1], 1000, NAMES).why.endswith(": the same names in another order")


def test_of_numbers_only_those_that_the_teacher_lacks_tell():
    assert class_spaces(NAMES, 1000, None, 1000).are_same is False
    numbers = class_spaces(NAMES, 1000, None, 999)
    assert (numbers.are_same, "have no names" in numbers.why) == (None, True)
    assert class_spaces(NAMES, 1000, None).why == ""
