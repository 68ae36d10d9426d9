"""Stores that were labelled in parts, made one: their rows are copied as they are, no teacher runs."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError, ManifestMismatchError, StoreError
from relabel.findings import class_text
from relabel.manifest import DataRecord, Manifest, fingerprint
from relabel.paths import located
from relabel.plan import ShardTask
from relabel.progress import Progress
from relabel.store import NO_IMAGE, StoreReader, StoreWriter, create_or_open, remaining
from relabel.store.keys import rows_of_one_key

_TOGETHER = 512
"""Rows whose maps are in memory at a time."""
_SHOWN = 8
_WITHIN = 32
"""Bits of a row's number in its shard, where rows of all stores are counted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSummary:
    """What a merge did: `shards` of the new store, how many of them were there already, and the images of all."""

    stores: int
    shards: int
    shards_skipped: int
    images: int
    seconds: float


def merge(stores: Sequence[str | Path], out: str | Path, *, show_progress: bool = True) -> MergeSummary:
    """Make one store of several that the same teacher made of other images, in their order.

    Rows are copied as they are coded, shard by shard, each checked on the way; a merge that was stopped goes on with
    the same call. Of tars, the new store is the one that `generate` makes of all tars in that order. Of folders and
    lists it is that of a list of all their images; where they call their classes by name, labels are numbered anew
    among all names.

    Args:
        stores: folders or URLs, at least two.
        out: the new store's folder.
        show_progress: a bar on stderr.

    Raises:
        InvalidValueError: fewer than two stores, or a key or a tar that two of them have.
        ManifestMismatchError: they were made otherwise, or `out` is there and another store.
        StoreError: one of them is no store or not finished, or the new one cannot be written.
        DamagedStoreError: files of one are missing, or do not belong there.
    """
    started, path = time.perf_counter(), located(out)
    if len(stores) < 2 or path in map(located, stores):
        raise InvalidValueError(f"a merge takes two stores or more, and a new one that is none of them; got {out}")
    if "://" in str(out):
        raise StoreError(f"{out} is a URL, and merge makes local folders. Copy the store there afterwards")
    readers = [StoreReader(store) for store in stores]
    _refuse_others(readers)
    parts = [_Part(reader, shard) for reader in readers for shard in range(reader.num_shards)]
    rows = sum(reader.num_shards * reader.rows_per_shard for reader in readers)
    with Progress("reading keys", rows, unit="rows", shown=show_progress) as bar:
        writer = create_or_open(path, replace(readers[0].manifest, data=_data(parts, bar), versions=_versions(readers)))
    tasks = [ShardTask(i, name, 0, 1) for i, name in enumerate(writer.manifest.data.shards)]
    left = remaining(writer, tasks)
    with Progress(
        "merging", sum(parts[task.shard].count for task in left.tasks), unit="images", shown=show_progress
    ) as bar:
        for task in left.tasks:
            _copy(parts[task.shard], writer, task.shard, again=task.shard in left.again)
            bar.advance(parts[task.shard].count)
    for failure in left.blocked:
        raise StoreError(f"{failure.reason}, and merge again. All shards but {len(left.blocked)} are published")
    return MergeSummary(
        stores=len(readers),
        shards=len(tasks),
        shards_skipped=len(tasks) - len(left.tasks),
        images=sum(part.count for part in parts),
        seconds=time.perf_counter() - started,
    )


class _Part:
    """A shard of one of the stores."""

    def __init__(self, reader: StoreReader, shard: int) -> None:
        self.reader, self.shard = reader, shard
        self.name = reader.manifest.data.shards[shard]
        self.count = int((reader.statuses(shard) != NO_IMAGE).sum())

    def read_keys(self) -> list[str]:
        """Of its images."""
        return self.reader.keys(self.shard)[: self.count]


def _refuse_others(readers: Sequence[StoreReader]) -> None:
    first = readers[0]
    for reader in readers[1:]:
        differences = first.manifest.difference(reader.manifest, besides=("data",))
        if differences:
            raise ManifestMismatchError(
                f"{reader.files.where} was not made as {first.files.where} was, so their labels do not belong together "
                "(the first's value != the other's):"
                + "".join(f"\n  {line}" for line in differences[:_SHOWN])
                + "\nLabel the images of one of them again as the other's were, with generate. What relabel.write or "
                "relabel import made in two runs is of two sources, and stays two stores"
            )
    kinds = {reader.manifest.data.kind for reader in readers}
    if len(kinds) > 1 and "webdataset" in kinds:
        raise ManifestMismatchError(
            "images of tars and of files have keys of two kinds, and one data set cannot have both; got "
            + ", ".join(sorted(kinds))
        )


def _versions(readers: Sequence[StoreReader]) -> dict[str, str]:
    """As far as they agree."""
    each = [reader.manifest.versions for reader in readers]
    return {name: told for name, told in each[0].items() if all(other.get(name) == told for other in each)}


def _data(parts: Sequence[_Part], bar: Progress) -> DataRecord:
    """What is said of all images together."""
    records = [part.reader.manifest.data for part in parts]
    _refuse_twice(parts, bar)
    counts = tuple(part.count for part in parts)
    size = max(record.rows_per_shard for record in records)
    kind = records[0].kind
    names = tuple(part.name for part in parts)
    if kind == "webdataset":
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise InvalidValueError(
                f"two stores have a shard of the tar {', '.join(twice[:_SHOWN])}, and a store names its shards by "
                "them: rename the tars, and label those of one store again"
            )
        if not any(record.counts for record in records):
            # Nothing was listed, and so it is with all of them together.
            return DataRecord(kind=kind, shards=names, counts=(), rows_per_shard=size, fingerprint=fingerprint(names))
    else:
        ends = list(itertools.accumulate(counts))
        names = tuple(f"images {end - count} to {end}" for end, count in zip(ends, counts, strict=True))
    return DataRecord(
        kind=kind if kind in ("webdataset", "written") else "list",
        shards=names,
        counts=counts,
        rows_per_shard=max(counts),
        fingerprint=fingerprint(key for part in parts for key in part.read_keys()),
        class_names=_class_names(parts),
    )


def _class_names(parts: Sequence[_Part]) -> tuple[str, ...] | None:
    each = {part.reader.manifest.data.class_names: part for part in parts}
    if None not in each:
        return tuple(sorted({name for names in each for name in names or ()}))
    named = sorted({name for names in each for name in names or ()})
    for part in parts if named else ():
        # Without any label there is none to be read wrongly.
        if part.reader.manifest.data.class_names is None and (part.reader.table(part.shard).labels >= 0).any():
            raise ManifestMismatchError(
                f"the classes of {part.reader.files.where} are numbers, and those of another store have names, so its "
                "labels would be read wrongly. Label its images again, from folders or with names in both"
            )
    return tuple(named) or None


def _refuse_twice(parts: Sequence[_Part], bar: Progress) -> None:
    """Every key must be of one image."""

    def counted() -> Iterator[tuple[int, list[str]]]:
        for number, part in enumerate(parts):
            yield number << _WITHIN, part.read_keys()
            bar.advance(part.reader.rows_per_shard)

    told = []
    for pair in rows_of_one_key(counted()).tolist():
        found = [(parts[row >> _WITHIN], row & (1 << _WITHIN) - 1) for row in pair]
        first, second = (part.read_keys()[row] for part, row in found)
        if first == second:
            told.append(f"{first!r} ({' and '.join(part.reader.files.where for part, _ in found)})")
    if told:
        raise InvalidValueError(
            f"labels follow keys, so each must be of one image; {len(told)} stand twice: {', '.join(told[:_SHOWN])}. "
            "Rename the images in one data set and label them again, or leave a store out"
        )


def _copy(part: _Part, writer: StoreWriter, shard: int, *, again: bool) -> None:
    """Copy a shard's rows; only its labels may be numbered anew."""
    reader, table = part.reader, part.reader.table(part.shard).first(part.count)
    with writer.claim(shard, again=again) as claimed:
        for start in range(0, part.count, _TOGETHER):
            rows = start + np.flatnonzero(table.statuses[start : start + _TOGETHER] == 1)
            claimed.add(rows, reader.read(part.shard * reader.rows_per_shard + rows))
        claimed.publish(replace(table, labels=_renumbered(table.labels, part, writer.manifest)))


def _renumbered(labels: NDArray[np.int32], part: _Part, manifest: Manifest) -> NDArray[np.int32]:
    old, new = part.reader.manifest.data.class_names, manifest.data.class_names
    if old == new or old is None or new is None:
        return labels
    if labels.max(initial=-1) >= len(old):
        raise InvalidValueError(
            f"{part.reader.files.where} has the label {class_text(int(labels.max()), old)} of {len(old)} classes; run "
            "`relabel verify shards` on it"
        )
    place: dict[str, Any] = {name: number for number, name in enumerate(new)}
    # -1, not known, takes the last entry.
    return np.array([*(place[name] for name in old), -1], np.int32)[labels]
