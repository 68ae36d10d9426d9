"""Whether a store's ground truth and its labels speak of the same classes, as far as their names and numbers tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGENET_IDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
_IMAGENET_NAMES = frozenset(
    {
        "221f7849f5908b778db7307b706ddb587a17dcfe0a0f7ff7810bee8e42810e2d",
        "d5e6cd53830ded0189e874f698055ce3d037b9d78899ca1270769d22aa30b46e",
    }
)
"""sha256 of ImageNet-1k's WordNet ids, sorted; and of its names in that order, as timm and as torchvision have them."""
_SPELLED_OTHERWISE = 0.5
"""Of two lists whose names agree at more places than that, the others may be spelled otherwise."""
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class ClassSpaces:
    """Whether the ground truth's classes are the labels' own, number by number; None where nobody knows.

    `why` is for a person; "" where there is no ground truth. `are_reordered`: the same names in another order.
    """

    are_same: bool | None
    why: str
    are_reordered: bool = False


def class_spaces(
    names: Sequence[str] | None, num_classes: int, truths: Sequence[str] | None, most_truth: int = -1
) -> ClassSpaces:
    """Compare the classes of labels with those of the ground truth.

    Args:
        names: of the labels' classes, None where they are not known.
        num_classes: how many those are.
        truths: the names of the ground truth's classes, None where they are only numbers.
        most_truth: the largest of those numbers, -1 where there is none.

    >>> class_spaces(("tabby cat", "red_fox"), 2, ("Tabby_Cat", "red fox")).are_same
    True
    >>> class_spaces(None, 1000, None, 999).are_same
    """
    if truths is None:
        if most_truth >= num_classes:
            return ClassSpaces(
                False, f"a ground truth is {most_truth}, and the teacher's classes end at {num_classes - 1}"
            )
        unnamed = "the ground truth's classes have no names to compare with the teacher's"
        return ClassSpaces(None, unnamed if most_truth >= 0 else "")
    mine, theirs = _plain(names or ()), _plain(truths)
    shown = f"the images are of {len(theirs)} classes ({_some(truths)}), the teacher of {num_classes} ({_some(names)})"
    if len(theirs) != num_classes:
        return ClassSpaces(False, shown)
    if names is None:
        return ClassSpaces(None, "the teacher's classes have no names to compare with the ground truth's")
    if mine == theirs or (_digest(theirs) == _IMAGENET_IDS and _digest(mine) in _IMAGENET_NAMES):
        return ClassSpaces(True, f"both are the same {num_classes} classes")
    if sorted(mine) == sorted(theirs):
        return ClassSpaces(False, f"{shown}: the same names in another order", are_reordered=True)
    agree = sum(a == b for a, b in zip(mine, theirs, strict=True))
    ids = sum(bool(_WORDNET_ID.fullmatch(text)) for text in theirs)
    if agree > _SPELLED_OTHERWISE * num_classes or (ids == num_classes and _digest(mine) not in _IMAGENET_NAMES):
        # What a WordNet id is called elsewhere is not known here.
        return ClassSpaces(None, f"{shown}: as many, and named otherwise")
    return ClassSpaces(False, shown)


def _plain(names: Sequence[str]) -> list[str]:
    """The first of several words for a class, however it is written."""
    return [name.partition(",")[0].replace("_", " ").casefold().strip() for name in names]


def _digest(plain: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(plain).encode(errors="replace")).hexdigest()


def _some(names: Sequence[str] | None) -> str:
    if names is None:
        return "whose names are not known"
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
