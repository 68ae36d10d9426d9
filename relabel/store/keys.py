"""From keys or hashes of images to rows, in arrays that forked workers share and spawned ones receive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from relabel.errors import LabelError


class KeyIndex:
    """Rows by key: sorted 64-bit digests and their rows, 16 bytes an image, where a dict would take 200.

    Two of a million keys share a digest once in 30 million stores; that store is refused when its index is made. A key
    that the store lacks is taken for another once in 10 trillion.

    Args:
        shards: (number of the shard's first row, the keys of its rows, empty where a row holds no image).
    """

    def __init__(self, shards: Iterable[tuple[int, Sequence[str]]]) -> None:
        self._digests, self._rows = _sorted(shards)
        twice = _twice(self._digests, self._rows)
        if len(twice):
            first_row, second_row = twice[0]
            raise LabelError(
                f"rows {first_row} and {second_row} of the store have the same key, so labels cannot be found by key. "
                "Run `relabel verify shards` on it"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The rows (n,) of n keys, -1 where the store has no such key."""
        return _found(_digests(keys), self._digests, self._rows)


class ImageIndex:
    """Rows by the hash of an encoded image. Of those that hold one image any serves, and a labelled one is answered.

    Args:
        hashes: (n,) uint64 of all rows, 0 where not known.
        has_label: (n,) bool.
    """

    def __init__(self, hashes: NDArray[np.uint64], has_label: NDArray[np.bool_]) -> None:
        known = np.flatnonzero(hashes)
        # The first of each hash is one that has a label.
        known = known[np.lexsort((~has_label[known], hashes[known]))]
        self._hashes, first = np.unique(hashes[known], return_index=True)
        self._rows = known[first].astype(np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows (n,) of images of n hashes, -1 where the store has none."""
        return _found(hashes, self._hashes, self._rows)


def rows_of_one_key(shards: Iterable[tuple[int, Sequence[str]]]) -> NDArray[np.int64]:
    """(n, 2) rows that share a key, or, once in millions of stores, its digest; `shards` as for `KeyIndex`."""
    return _twice(*_sorted(shards))


def _found(wanted: NDArray[np.uint64], digests: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows (n,) of n digests among those of `rows`, ascending; -1 where there is none."""
    if not len(digests):
        return np.full(len(wanted), -1, np.int64)
    place = np.searchsorted(digests, wanted).clip(max=len(digests) - 1)
    return np.where(digests[place] == wanted, rows[place], -1)


def _sorted(shards: Iterable[tuple[int, Sequence[str]]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The digests of all keys, ascending, and their rows."""
    digests, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first, keys in shards:
        used = [i for i, key in enumerate(keys) if key]
        digests.append(_digests([keys[i] for i in used]))
        rows.append(first + np.array(used, np.int64))
    every = np.concatenate(digests)
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate(rows)[order]


def _twice(digests: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    same = np.flatnonzero(digests[1:] == digests[:-1])
    return np.stack([rows[same], rows[same + 1]], axis=1)


def _digests(keys: Sequence[str]) -> NDArray[np.uint64]:
    # Python's own hash differs from process to process, and an index is sent to workers.
    # A file's name that is no UTF-8 can be asked for, and is in no store.
    joined = b"".join([hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest() for key in keys])
    return np.frombuffer(joined, "<u8").astype(np.uint64)
