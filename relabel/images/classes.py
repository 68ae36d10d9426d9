"""What a source calls its classes: numbers, or names whose label is their place among all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from relabel.errors import SourceError

_NUMBER = re.compile(r"[+-]?[0-9]+")
MOST_CLASSES = 10**9
"""Labels are kept as int32, and no data set has so many classes."""


def class_names(texts: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names that classes have, sorted; None where they are numbers, or there are none.

    Args:
        texts: each class as the source writes it, and where it does so.

    Raises:
        SourceError: some are numbers and some are names, so that neither reading can be right.
    """
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    names = sorted(texts.keys() - numbers)
    if numbers and names:
        raise SourceError(
            f"a class is the number {numbers[0]} in {texts[numbers[0]]} and the name {names[0]!r} in "
            f"{texts[names[0]]}: write numbers everywhere, or names"
        )
    return tuple(names) or None


def numbers_of(names: tuple[str, ...] | None) -> dict[str, int] | None:
    """The label of each name."""
    return None if names is None else {name: number for number, name in enumerate(names)}


def label_of(text: str, numbers: Mapping[str, int] | None) -> int:
    """The label of a class, by its number among the names; -1 for "" and where it is unknown.

    With None the text is the number itself.

    Raises:
        KeyError: there is no such class.
    """
    if not text:
        return -1
    if numbers is not None:
        return numbers[text]
    if not _NUMBER.fullmatch(text):
        raise KeyError(text)
    return int(text) if _is_label(text) else -1


def is_class(text: str) -> bool:
    """Whether a text says a class, by a name or a number, or -1 that it is not known; other numbers mean nothing."""
    return not _NUMBER.fullmatch(text) or _is_label(text) or text == "-1"


def _is_label(number: str) -> bool:
    return len(number) < len(str(MOST_CLASSES)) and int(number) >= 0
