"""What is wrong with a store: a finding, how findings are told, and what thousands of them may come down to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBERS = re.compile(r"""-?\d+(\.\d+)*( '[^']*'| "[^"]*")?""")
"""What is left out of a finding's words to know findings of one kind, the names of classes with their numbers."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken promise. `shard` and `row` are -1, and `key` empty, where it is about more than one."""

    shard: int
    row: int
    key: str
    what: str


def class_text(number: int, names: Sequence[str] | None) -> str:
    """A class for a person: its number, and its name where that is known.

    >>> class_text(1, ("tench", "goldfish"))
    "1 'goldfish'"
    >>> class_text(1, None), class_text(-1, ("tench", "goldfish"))
    ('1', '-1')
    """
    return f"{number} {names[number]!r}" if names is not None and 0 <= number < len(names) else str(number)


def abridged(findings: Sequence[Finding], each: int) -> tuple[list[Finding], dict[str, int]]:
    """The first `each` findings of every kind, in their order, and how many more, by the words of the kind's first.

    A kind is what a finding says, but for numbers and the classes that they name: the wrong folder of images is two
    kinds, not a million.
    """
    seen: Counter[str] = Counter()
    shown: list[Finding] = []
    first: dict[str, str] = {}
    for finding in findings:
        kind = _NUMBERS.sub("#", finding.what)
        seen[kind] += 1
        first.setdefault(kind, finding.what)
        if seen[kind] <= each:
            shown.append(finding)
    return shown, {first[kind]: count - each for kind, count in seen.items() if count > each}


def no_common_key(stored: str, there: str = "") -> str:
    """The probable cause where no key of a store is among the images: one of its keys, and one of theirs if known."""
    theirs = f" Theirs are such as {there!r}." if there else ""
    return (
        f"no key of the store, such as {stored!r}, is among these images: another image set, another root folder, or "
        f"tars instead of a folder. Give what was labelled.{theirs}"
    )
