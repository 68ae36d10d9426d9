"""The keys of a whole store: each once, and together what the manifest's fingerprint was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.findings import Finding
from relabel.manifest import fingerprint
from relabel.store import StoreReader
from relabel.verify.files import read_column
from relabel.verify.rows import Columns

_ROW = np.dtype([("row", "i8"), ("key_hash", "i8"), ("image_hash", "u8"), ("label", "i4"), ("comparable", "?")])
"""What is kept of a row with a key, without the key itself: 1.28 million of them would fill the memory.

Its number in the store; Python's hash of the key, good within this process; the image's hash and its label, and whether
the last two are known, and could be read.
"""


def shard_rows(columns: Columns, first: int) -> NDArray[Any] | None:
    """(n,) of `_ROW`, ascending; `first` is the store's number of the shard's first row. None without keys."""
    if "key" not in columns:
        return None
    rows = np.flatnonzero(columns["key"] != "")
    found = np.zeros(len(rows), _ROW)
    found["row"] = first + rows
    found["key_hash"] = [hash(key) for key in columns["key"][rows].tolist()]
    for name in ("image_hash", "label"):
        if name in columns:
            found[name] = columns[name][rows]
    # Where the images were not at hand, no hash is known.
    found["comparable"] = (found["image_hash"] != 0) & ("label" in columns)
    return found


class KeyTable:
    """The rows of all shards, to be found by key.

    Attributes:
        rows: (n,) numbers in the store of all rows whose keys could be read, ascending.
        image_hashes, labels: (n,) of their images.
        comparable: (n,) bool, whether the last two are known, and could be read.
        is_complete: whether that is every shard of the store.
        is_part: whether some were not to be looked at.
        class_names: of the labels; None where they are only numbers.
    """

    def __init__(self, reader: StoreReader, shards: Sequence[NDArray[Any] | None], *, is_part: bool = False) -> None:
        self._reader, self.is_part = reader, is_part
        self.class_names = reader.manifest.data.class_names
        known = [shard for shard in shards if shard is not None]
        self.is_complete = len(known) == reader.num_shards
        rows = np.concatenate([np.empty(0, _ROW), *known])
        self.rows, self.image_hashes, self.labels = rows["row"], rows["image_hash"], rows["label"]
        self.comparable, hashes = rows["comparable"], rows["key_hash"]
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
