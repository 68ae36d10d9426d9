"""The keys of a whole store: each once, and together what the manifest's fingerprint was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relabel.findings import Finding
from relabel.manifest import fingerprint
from relabel.store import StoreReader
from relabel.verify.files import read_column
from relabel.verify.rows import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """The rows with a key of one shard, without the keys themselves: 1.28 million of them would fill the memory.

    Attributes:
        rows: (n,) int64 numbers in the store, ascending.
        key_hashes: (n,) int64, Python's hash of each key: good within this process.
        image_hashes: (n,) uint64.
        labels: (n,) int32.
        comparable: (n,) bool, whether the last two are known, and could be read.
    """

    rows: NDArray[np.int64]
    key_hashes: NDArray[np.int64]
    image_hashes: NDArray[np.uint64]
    labels: NDArray[np.int32]
    comparable: NDArray[np.bool_]


def shard_rows(columns: Columns, first: int) -> ShardRows | None:
    """What of a shard's columns is needed later; `first` is the store's number of its first row. None without keys."""
    if "key" not in columns:
        return None
    rows = np.flatnonzero(columns["key"] != "")
    keys: list[str] = columns["key"][rows].tolist()
    zeros = np.zeros(len(columns["key"]), np.uint64)
    image_hashes = columns.get("image_hash", zeros)[rows].astype(np.uint64)
    return ShardRows(
        rows=first + rows,
        key_hashes=np.fromiter(map(hash, keys), np.int64, len(keys)),
        image_hashes=image_hashes,
        labels=columns.get("label", zeros)[rows].astype(np.int32),
        # Where the images were not at hand, no hash is known.
        comparable=(image_hashes != 0) & ("label" in columns),
    )


class KeyTable:
    """The rows of all shards, to be found by key.

    Attributes:
        rows: see `ShardRows`; of all shards whose keys could be read.
        image_hashes, labels, comparable: likewise.
        is_complete: whether that is every shard of the store.
        class_names: of the labels; None where they are only numbers.
    """

    def __init__(self, reader: StoreReader, shards: Sequence[ShardRows | None]) -> None:
        self._reader = reader
        self.class_names = reader.manifest.data.class_names
        known = [shard for shard in shards if shard is not None]
        self.is_complete = len(known) == reader.num_shards
        self.rows = np.concatenate([np.empty(0, np.int64), *(shard.rows for shard in known)])
        self.image_hashes = np.concatenate([np.empty(0, np.uint64), *(shard.image_hashes for shard in known)])
        self.labels = np.concatenate([np.empty(0, np.int32), *(shard.labels for shard in known)])
        self.comparable = np.concatenate([np.empty(0, np.bool_), *(shard.comparable for shard in known)])
        hashes = np.concatenate([np.empty(0, np.int64), *(shard.key_hashes for shard in known)])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, key: str) -> int:
        """The place of a key in `rows`, or -1.

        By 64-bit hash alone: two keys share one with a probability of 1e-7 in a store of 1.28 million, and then their
        images' hashes differ.
        """
        wanted = hash(key)
        place = int(np.searchsorted(self._hashes, wanted))
        return int(self._order[place]) if place < len(self) and self._hashes[place] == wanted else -1

    def keys(self, places: NDArray[np.intp]) -> Iterator[tuple[int, int, str]]:
        """(shard, row, key) of some places, ascending; reads the files of their shards again."""
        current = -1
        keys: list[str] = []
        for number in self.rows[places].tolist():
            shard, row = divmod(number, self._reader.rows_per_shard)
            if shard != current:
                current, keys = shard, read_column(self._reader, "key", shard).tolist()
            yield shard, row, keys[row]

    def findings(self) -> Iterator[Finding]:
        """Every key that stands twice, and a wrong fingerprint."""
        same = self._hashes[1:] == self._hashes[:-1]
        places = np.unique(np.concatenate([self._order[:-1][same], self._order[1:][same]]))
        first: dict[str, tuple[int, int]] = {}
        for shard, row, key in self.keys(places):
            if key in first:
                yield Finding(shard, row, key, "the key stands twice; first in shard {} row {}".format(*first[key]))
            else:
                first[key] = (shard, row)
        data = self._reader.manifest.data
        if not data.counts:
            # The listing was skipped: there was no more to make a fingerprint of.
            wrong = fingerprint(data.shards) != data.fingerprint
        else:
            every = (key for _, _, key in self.keys(np.arange(len(self))))
            wrong = self.is_complete and fingerprint(every) != data.fingerprint
        if wrong:
            yield Finding(-1, -1, "", "the keys are not those that the manifest's fingerprint was made of")
