"""A store against the images that it claims to label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relabel.errors import SourceError
from relabel.findings import Finding, class_text, no_common_key
from relabel.images import EncodedImage, ImageSource, Span
from relabel.verify.keys import KeyTable


@dataclass(slots=True)
class _Outcome:
    """What the images were like, gathered by many threads: the places of those in the table, and what is wrong."""

    places: list[int] = field(default_factory=list)
    differences: list[tuple[int, str]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def compare_images(
    source: ImageSource, table: KeyTable, pool: Executor, progress: Callable[[int], None]
) -> tuple[int, list[Finding]]:
    """How many images were compared (those whose hash is known), and every difference in keys, bytes or ground truth.

    Keys are looked up wherever they are, so that images may have been moved between tars. A part that cannot be read is
    a finding, and the others are compared all the same.
    """

    outcome = _Outcome()

    def compare(spans: Iterable[Span]) -> None:
        for part in spans:
            try:
                for image in source.read(*part):
                    _compare(image, table, outcome)
                    progress(1)
            except SourceError as error:
                outcome.unreadable.append(str(error))

    list(pool.map(compare, source.spans(table.class_names)))
    strangers, found = sorted(outcome.strangers), np.array(outcome.places, np.int64)
    findings = [
        *(Finding(-1, -1, "", what) for what in outcome.unreadable),
        *_differences(table, outcome.differences),
        *_common_cause(table, found, strangers),
        *_strangers(table, strangers),
        *_miscounted(table, found, all_were_read=not outcome.unreadable),
    ]
    return int(table.comparable[found].sum()) - len(outcome.failed) + (0 if table.is_part else len(strangers)), findings


def _compare(image: EncodedImage, table: KeyTable, outcome: _Outcome) -> None:
    place = table.find(image.key)
    if place < 0:
        outcome.strangers.append(image.key)
        return
    outcome.places.append(place)
    if not table.comparable[place]:
        return
    if image.error:
        outcome.failed.append(place)
        outcome.differences.append((place, f"its image was read when it was labelled, and now fails: {image.error}"))
    elif table.image_hashes[place] != image.image_hash:
        outcome.differences.append((place, "the image's bytes are not those that were labelled"))
    if table.labels[place] != image.label:
        # The image's number may be of classes that were renamed since, so that only the store's has a sure name.
        stored = class_text(int(table.labels[place]), table.class_names)
        what = f"its ground truth is {image.label} and the store says {stored}"
        outcome.differences.append((place, what))


def _differences(table: KeyTable, differences: list[tuple[int, str]]) -> Iterator[Finding]:
    differences.sort()
    names = table.keys(np.array([place for place, _ in differences], np.int64))
    for (shard, row, key), (_, what) in zip(names, differences, strict=True):
        yield Finding(shard, row, key, what)


def _strangers(table: KeyTable, keys: list[str]) -> Iterator[Finding]:
    if table.is_complete:
        for key in keys:
            yield Finding(-1, -1, key, "an image of this key is there, and the store has no row for it")
    elif keys and not table.is_part:
        what = f"{len(keys)} images have no row that can be read; shards are missing or damaged, and may hold theirs"
        yield Finding(-1, -1, "", what)


def _common_cause(table: KeyTable, found: NDArray[np.int64], strangers: list[str]) -> Iterator[Finding]:
    """What thousands of findings may come down to."""
    if strangers and not len(found) and not table.is_part:
        for _, _, key in table.keys(np.arange(min(1, len(table)))):
            yield Finding(-1, -1, "", no_common_key(key, strangers[0]))


def _miscounted(table: KeyTable, found: NDArray[np.int64], *, all_were_read: bool) -> Iterator[Finding]:
    """Rows whose key no image has, or more than one."""
    times = np.bincount(found, minlength=len(table))
    for shard, row, key in table.keys(np.flatnonzero(times > 1)):
        yield Finding(shard, row, key, "more than one image has this key")
    lost = np.flatnonzero(times == 0)
    if all_were_read:
        for shard, row, key in table.keys(lost):
            yield Finding(shard, row, key, "no image of this key is there")
    elif len(lost):
        what = f"{len(lost)} rows have no image that can be read; it may be among those that cannot"
        yield Finding(-1, -1, "", what)
