"""How a list of images differs from the list that a store was made of: which are new, gone, or elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from relabel.errors import DamagedStoreError, LabelError, StoreError
from relabel.manifest import DataRecord
from relabel.store.keys import KeyIndex
from relabel.store.reader import StoreReader

_SHOWN = 3


def list_changes(store: Path, ours: DataRecord, keys: Iterable[str]) -> tuple[str, ...]:
    """A few words on each kind of change: on images, or on tars where their keys are not known.

    Empty where there is none, or where the store cannot be read: what is wrong with it is then another matter.

    Args:
        store: a store's folder.
        ours: what the manifest of another one says of its images.
        keys: of those, in the order of its rows; none where their listing was skipped.
    """
    try:
        return _changes(StoreReader(store, partial=True), ours, keys)
    except (StoreError, LabelError):
        return ()


def _changes(reader: StoreReader, ours: DataRecord, keys: Iterable[str]) -> tuple[str, ...]:
    theirs = reader.manifest.data
    listed = list(keys)
    if not listed:
        new, gone = _less(ours.shards, theirs.shards), _less(theirs.shards, ours.shards)
        return _told((new, "tars are new"), (gone, "tars are gone"))
    there = {}
    for shard in sorted(reader.published):
        with contextlib.suppress(DamagedStoreError):
            there[shard] = reader.keys(shard)
    if not there:
        return ()
    size = reader.rows_per_shard
    rows = KeyIndex((shard * size, names) for shard, names in there.items()).rows(listed)
    known = set(rows[rows >= 0].tolist())
    are_gone = [
        key for shard, names in there.items() for i, key in enumerate(names) if key and shard * size + i not in known
    ]
    among = "" if len(there) == reader.num_shards else f" or in its {reader.num_shards - len(there)} unpublished shards"
    told = _told(
        ([listed[i] for i in np.flatnonzero(rows < 0).tolist()], f"images are new{among}"),
        (are_gone, "images are gone"),
        ([listed[i] for i in _moved(rows // size, theirs, ours)], "images are in another tar"),
    )
    if not told and (np.diff(rows) < 0).any():
        return ("the same images are in another order",)
    return told


def _moved(shards: np.ndarray[tuple[int, ...], np.dtype[np.int64]], theirs: DataRecord, ours: DataRecord) -> list[int]:
    """Which images are in a tar of another name; of files in a folder, the shard only follows from their order."""
    if theirs.kind != "webdataset" or ours.kind != "webdataset":
        return []
    names = np.repeat(np.array(ours.shards), ours.counts)
    return np.flatnonzero((shards >= 0) & (np.array(theirs.shards)[shards] != names)).tolist()


def _less(some: Sequence[str], others: Sequence[str]) -> list[str]:
    known = frozenset(others)
    return [name for name in some if name not in known]


def _told(*kinds: tuple[Sequence[str], str]) -> tuple[str, ...]:
    return tuple(
        f"{len(names)} {what}: {', '.join(map(repr, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''}"
        for names, what in kinds
        if names
    )
