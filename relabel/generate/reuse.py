"""Labels that an older store has of the same images are copied, so that a data set may grow or shrink."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, InvalidValueError, ManifestMismatchError
from relabel.generate.doubts import tell_of_change
from relabel.geometry import Footprint
from relabel.images import EncodedImage, Listing
from relabel.manifest import Manifest
from relabel.paths import expanded, located
from relabel.plan import ShardTask
from relabel.progress import Progress
from relabel.store import LABELED, Row, RowBatch, StoreReader
from relabel.store.keys import KeyIndex

_log = logging.getLogger(__name__)

_TOGETHER = 64
"""Images that are looked up at a time: a read of many rows costs each of them less, and their bytes are held."""

Numbered = tuple[int, EncodedImage]
"""An image, and its number in its shard."""


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Rows of a shard with maps that an older store had; `places` are their numbers in the shard."""

    places: list[int]
    rows: list[Row]
    maps: RowBatch


class OldStore:
    """A store that is the same as one that is being made, but for the images. Used by one thread.

    Args:
        path: the older store's folder or URL; it need not be finished.
        manifest: of the store that is being made.
        store: that store's folder.

    Raises:
        InvalidValueError: they are one store.
        ManifestMismatchError: the older one was made otherwise; lists the differences.
        StoreError: it is none, or cannot be read.
    """

    def __init__(self, path: str, manifest: Manifest, store: Path) -> None:
        where = path if "://" in path else expanded(path)
        if isinstance(where, Path) and located(where) == located(store):
            raise InvalidValueError(
                f"the older store and the new one are both {store}. Give another STORE: the older one stays as it is "
                "until you delete it"
            )
        self._reader = StoreReader(where, partial=True)
        theirs = self._reader.manifest
        if differences := theirs.difference(manifest, besides=("data",)):
            raise ManifestMismatchError(
                f"{path} was made otherwise, so its labels cannot be copied (its value != this run's):"
                + "".join(f"\n  {line}" for line in differences)
                + "\nGive the teacher and options that made it, or leave out --reuse"
            )
        self._versions = theirs.versions, manifest.versions
        rows = self._reader.num_shards * self._reader.rows_per_shard
        # 0 where there is nothing to copy: no image's bytes are known by it.
        self._hashes = np.zeros(rows, np.uint64)
        self._sizes_hw, self._orientations = np.zeros((rows, 2), np.uint32), np.zeros(rows, np.uint8)
        self._index = KeyIndex(())
        self._lacking: dict[int, int] | None = None
        self._told: set[int] = set()

    def read(self, listing: Listing, tasks: Sequence[ShardTask], *, shown: bool) -> None:
        """Read what the store knows of its images, and how many of each task's it lacks by their keys."""
        tell_of_change(self._reader.files.where, *self._versions)
        published = sorted(self._reader.published)
        with Progress("reading the older store", len(published), unit="shards", shown=shown) as progress:
            self._index = KeyIndex(self._keys(published, progress))
        if listing.fingerprints:
            keys = {part.name: part.keys for part in listing.parts}
            self._lacking = {
                task.shard: self._lacks(keys[task.source][task.first : task.first + task.count]) for task in tasks
            }

    def lacks(self, task: ShardTask) -> int:
        """How many of a task's images it has no label of, as far as keys tell; all that there may be, without."""
        return task.count if self._lacking is None else self._lacking[task.shard]

    def sort(self, images: Iterator[Numbered]) -> Iterator[Copied | Numbered]:
        """Copies of those images whose labels the store has, a few together; the other images one by one."""
        while some := list(itertools.islice(images, _TOGETHER)):
            rows = self._rows([image for _, image in some])
            maps = self._maps(rows)
            if maps is not None:
                found = np.flatnonzero(rows >= 0).tolist()
                yield self._copied([some[i] for i in found], rows[found], maps)
            yield from (one for one, row in zip(some, rows.tolist(), strict=True) if row < 0)

    def _keys(self, published: Sequence[int], progress: Progress) -> Iterator[tuple[int, list[str]]]:
        """The keys of each shard, by the number of its first row; what else is known of its rows is kept."""
        for shard in published:
            first = shard * self._reader.rows_per_shard
            try:
                table = self._reader.table(shard)
            except DamagedStoreError as error:
                self._tell(shard, error)
                continue
            there = slice(first, first + len(table))
            self._hashes[there] = np.where(table.statuses == LABELED, table.image_hashes, np.uint64(0))
            self._sizes_hw[there], self._orientations[there] = table.sizes_hw, table.orientations
            yield first, table.keys
            progress.advance(1)

    def _lacks(self, keys: Sequence[str]) -> int:
        rows = self._index.rows(keys)
        return int(((rows < 0) | (self._hashes[rows] == 0)).sum())

    def _rows(self, images: Sequence[EncodedImage]) -> NDArray[np.int64]:
        """The rows (n,) of n images, -1 where the key, or the image of this key, is not there."""
        rows = self._index.rows([image.key for image in images])
        for i in np.flatnonzero(rows >= 0).tolist():
            stored = int(self._hashes[rows[i]])
            if not stored or images[i].image_hash != stored:
                rows[i] = -1
        return rows

    def _maps(self, rows: NDArray[np.int64]) -> RowBatch | None:
        """The maps of those rows that have one; the others become -1."""
        if not (rows >= 0).any():
            return None
        with contextlib.suppress(DamagedStoreError):
            return self._reader.read(rows[rows >= 0])
        # Which of them, is found out one by one.
        for i in np.flatnonzero(rows >= 0).tolist():
            try:
                self._reader.read(rows[i : i + 1])
            except DamagedStoreError as error:
                self._tell(int(rows[i]) // self._reader.rows_per_shard, error)
                rows[i] = -1
        return self._maps(rows)

    def _copied(self, images: Sequence[Numbered], rows: NDArray[np.int64], maps: RowBatch) -> Copied:
        """What only decoding an image tells comes from the store, what its source says of it from there."""
        one = maps.footprint
        boxes = [one] * len(maps) if isinstance(one, Footprint) else [Footprint(*box) for box in one.tolist()]
        told = [
            Row(
                key=image.key,
                image_hash=int(self._hashes[row]),
                label=image.label,
                size_hw=tuple(self._sizes_hw[row].tolist()),
                orientation=int(self._orientations[row]),
                footprint=footprint,
            )
            for (_, image), row, footprint in zip(images, rows.tolist(), boxes, strict=True)
        ]
        return Copied([place for place, _ in images], told, maps)

    def _tell(self, shard: int, error: DamagedStoreError) -> None:
        if shard not in self._told:
            self._told.add(shard)
            _log.warning(
                "shard %d of the older store %s is damaged; what it cannot give is labelled anew: %s",
                *(shard, self._reader.files.where, error),
            )
