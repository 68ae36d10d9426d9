"""Which classes a map speaks of: all of its teacher's, or a subset of them, in a wanted order.

A subset is the name of one of timm's ImageNet subsets (``imagenet-1k``, ``imagenet-12k``, ...), whose classes are found
in the teacher's own by their WordNet ids, or a text file with a class a line: its number in the teacher's answer or its
WordNet id, and after a blank its name, if it has one. Class 0 of the map is the first line's. What is kept is
renormalised: pooling knows no other classes.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import KeptRecord
from relabel.paths import expanded
from relabel.teacher.spec import IMAGENET_SUBSET

_log = logging.getLogger(__name__)

_SHOWN = 5
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Kept:
    """The teacher's numbers of the classes that are kept, in order, -1 for one it lacks; their names; a description."""

    numbers: tuple[int, ...]
    names: tuple[str, ...] | None
    record: KeptRecord


class KeptClasses(nn.Module):
    """A dense model (B, 3, h, w) to (B, C, H, W) that answers for the kept classes only.

    A class that the teacher lacks has the lowest score of those it has, at every cell.
    """

    _numbers: Tensor
    _lacking: Tensor

    def __init__(self, forward: Callable[[Tensor], Tensor], numbers: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self._forward = forward
        wanted = torch.tensor(numbers, device=device)
        # Class 0 stands in for those that are lacking, until their scores are put in its place.
        self.register_buffer("_numbers", wanted.clamp(min=0), persistent=False)
        self.register_buffer("_lacking", (wanted < 0).nonzero()[:, 0], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Dense logits of the kept classes."""
        answer = self._forward(images)
        logits = answer.index_select(1, self._numbers)
        if len(self._lacking):
            had = logits.index_fill(1, self._lacking, torch.inf)
            lowest = had.amin(1, keepdim=True).expand(-1, len(self._lacking), -1, -1)
            logits = logits.index_copy(1, self._lacking, lowest)
        return logits


def imagenet_classes(num_classes: int) -> dict[str, str] | None:
    """The names of classes, such as "tench, Tinca tinca", by WordNet id, in the order of a teacher's.

    As timm tells them: by how many they are; None where it knows no subset of ImageNet with so many.
    """
    from timm.data.imagenet_info import infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    return _subset(subset) if subset else None


def kept_classes(
    wanted: str, num_classes: int, wordnet_ids: Iterable[str], names: tuple[str, ...] | None, teacher: str
) -> Kept:
    """Find wanted classes among a teacher's.

    Args:
        wanted: a subset's name or a file, see above.
        num_classes: of the teacher.
        wordnet_ids: of the teacher's classes, empty where they are not known.
        names: of the teacher's classes, for those to which a file gives none.
        teacher: its name, for errors.

    Raises:
        TeacherError: no such subset or file, a class that the teacher does not have, or one that stands twice.
    """
    # A subset's name may come from a manifest, and a manifest names no file to be read.
    is_file = not IMAGENET_SUBSET.fullmatch(wanted) and expanded(wanted).is_file()
    listed = _lines(expanded(wanted)) if is_file else list(_subset(wanted).items())
    places = {wordnet_id: number for number, wordnet_id in enumerate(wordnet_ids)}
    if not places and any(_WORDNET_ID.fullmatch(entry) for entry, _ in listed):
        raise TeacherError(
            f"the WordNet ids of the {num_classes} classes of {teacher} are not known, so --classes {wanted} cannot be "
            "found among them. Give a file of their numbers, a class a line"
        )
    numbers = [int(entry) if entry.isdecimal() else places.get(entry, -1) for entry, _ in listed]
    if (most := max(numbers)) >= num_classes:
        raise TeacherError(f"--classes {wanted} has class {most}; {teacher} has the classes 0 to {num_classes - 1}")
    lacking = [f"{entry} {called}" for (entry, called), number in zip(listed, numbers, strict=True) if number < 0]
    if len(lacking) > len(listed) // 10:
        raise TeacherError(
            f"{teacher} lacks {len(lacking)} of the {len(listed)} classes of --classes {wanted} "
            f"({', '.join(lacking[:_SHOWN])}, ...). Take a teacher that has them, or list those that it has"
        )
    if len({number for number in numbers if number >= 0}) + len(lacking) < len(numbers):
        twice = next(number for number in numbers if number >= 0 and numbers.count(number) > 1)
        raise TeacherError(f"--classes {wanted} lists class {twice} of {teacher} twice; list each once")
    if lacking:
        _log.warning(
            "%s lacks %d of the %d classes of %s (%s): they get the lowest score of the others",
            *(teacher, len(lacking), len(listed), wanted, "; ".join(lacking)),
        )
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).hexdigest()
    called = tuple(
        called or (names[number] if names and number >= 0 else entry)
        for (entry, called), number in zip(listed, numbers, strict=True)
    )
    selection = "file" if is_file else re.sub(r"^imagenet-?", "imagenet-", wanted.lower())
    record = KeptRecord(selection=selection, count=len(listed), of=num_classes, digest=digest)
    return Kept(tuple(numbers), called, record)


def _subset(wanted: str) -> dict[str, str]:
    """The names of the classes of one of timm's subsets, by WordNet id."""
    from timm.data.imagenet_info import ImageNetInfo

    try:
        info: Any = ImageNetInfo(wanted)
    except AssertionError as error:
        # timm's own way to say that it knows no such subset.
        raise TeacherError(
            f"--classes {wanted}: no such file, and no subset of ImageNet that timm knows. Give imagenet-1k, "
            "imagenet-12k, ..., or a text file with the number of a class on each line"
        ) from error
    return dict(info.label_descriptions(as_dict=True))


def _lines(path: Path) -> list[tuple[str, str]]:
    """The entries of a file, and their names, empty where they have none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(f"--classes {path} cannot be read as UTF-8 text: {error}") from error
    entries: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry, _, called = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if not (entry.isascii() and entry.isdecimal()) and not _WORDNET_ID.fullmatch(entry):
            raise TeacherError(
                f"{path}, line {number}: {entry[:40]!r} is neither the number of a class nor a WordNet id "
                "(n01440764). Expected one of them at the start of each line, and a name after it if you like"
            )
        entries.append((entry, called.strip()))
    if len(entries) < 2:
        raise TeacherError(f"--classes {path} lists {len(entries)} classes; a soft label needs two or more")
    return entries
