"""Reading a store in a trainer's hot path: no zarr-python, no file descriptor held a shard, one read a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, LabelError, RelabelError, StoreError
from relabel.manifest import PER_ROW
from relabel.store import codecs
from relabel.store.belonging import Belonging
from relabel.store.descriptors import OpenFile, OpenShards
from relabel.store.digest import check_store_digest
from relabel.store.files import StoreFiles, store_files
from relabel.store.layout import ABSENT, FAILED, LABELED, arrays_of, published_shards
from relabel.store.maps import Group, RowBatch, groups_of
from relabel.store.metadata import check_arrays, load_manifest
from relabel.store.rows import ARRAYS, RowTable
from relabel.store.shard import MAPPED, MappedShard, ShardFiles, stamp_of

_SHOWN = 8
_SLAB_BYTES = 100_000
_NO_OFFSET = 1 << 63  # beyond any byte of a file


class StoreReader:
    """Rows of a store by number, ``shard * rows_per_shard + row``.

    Picklable; safe in threads, and in forked and spawned workers. Whatever takes the place of the store or of a shard
    while it is open is never mixed with what was read before, in this process or in the one that it comes from. Files
    are mapped: a published file may be replaced by another under its name. One that is written over, as `cp` does, is
    noticed within a second, and rows that are read in that second may be wrong; one that is cut ends the reader's
    process (SIGBUS).

    Args:
        path: the store's folder, or a URL that fsspec opens.
        partial: whether a store may be opened whose shards are not all published.
        lenient: whether the metadata of arrays may be damaged, for one who tells of it: it follows from the manifest.
        digest: the one that the store must have, as `digest` tells it; None takes any.

    Raises:
        StoreError: not a store, or not finished, or another than that of `digest`.
        DamagedStoreError: a file of a published shard is missing, or an array's metadata was changed.

    Attributes:
        manifest: what made the store.
        identity: 32 bytes, the manifest's.
        published: the shards that were finished when the reader was made.
        num_shards: S.
        rows_per_shard: R.
    """

    def __init__(
        self, path: str | Path, *, partial: bool = False, digest: str | None = None, lenient: bool = False
    ) -> None:
        self.files: StoreFiles = store_files(path)
        # Before it is read: a store that takes its place in between is then another one.
        root = stamp_of(self.files.local("zarr.json"))
        self.manifest = load_manifest(self.files)
        self.arrays = arrays_of(self.manifest)
        self.num_shards = len(self.manifest.data.shards)
        self.rows_per_shard = self.manifest.data.rows_per_shard
        if not lenient:
            check_arrays(self.files, self.manifest)
        self._beside = [name for name in ("classes", "profile", "footprint") if name in self.arrays]
        self._shard_files = ShardFiles(self.files, self.arrays, self.rows_per_shard)
        self.published, lost = self._published(partial)
        self._belonging = Belonging(self._shard_files, self.manifest, root=root, lost=lost)
        # Of a manifest of 25,000 shards it takes a tenth of a second: once, not for every shard.
        self.identity = self._belonging.identity
        if digest is not None:
            self._require(digest)
        self._reset()

    def _reset(self) -> None:
        self._open: OpenShards[MappedShard] = OpenShards(self._mapped, self._opened, self._belonging.is_kept)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def check(self, shard: int) -> None:
        """Whether the files of a shard belong together and to this store, by small reads; nothing is opened without it.

        Raises:
            StoreError: the shard is not published, or a file cannot be read.
            DamagedStoreError: a file is missing or cut, or is of another shard, run or store.
            ReplacedStoreError: the shard was labelled again, or the store replaced, since the reader was made.
        """
        self._require_published(shard)
        self._open.sparing(lambda: self._belonging.check(shard))

    def refresh(self, shard: int) -> None:
        """Have a shard copied again from a URL if it is another there, for one who reads files by their names.

        Raises:
            StoreError: the URL does not answer.
        """
        self._belonging.refresh([shard])

    def digest(self) -> str:
        """The store's digest, 64 hexadecimal digits, the same for two stores if all that they hold is.

        Raises:
            StoreError: the store is not finished, and so has none.
            DamagedStoreError, ReplacedStoreError: as `check`.
        """
        if len(self.published) < self.num_shards:
            raise StoreError(
                f"{self.files.where} has no digest before it is finished: {self.num_shards - len(self.published)} of "
                f"its {self.num_shards} shards are not published. Finish `relabel generate`"
            )
        return self._belonging.digest()

    def read(self, rows: NDArray[np.int64]) -> RowBatch:
        """The coded maps of n rows, in their order; a row may be asked for twice.

        Raises:
            LabelError: a row that has no map; says why.
            DamagedStoreError, ReplacedStoreError: as `check`.
        """
        rows = self._checked(rows)
        shards, inside = np.divmod(rows, self.rows_per_shard)
        order = np.argsort(shards, kind="stable")
        groups = groups_of(shards, inside, order)
        try:
            batch = self._read(rows, order, groups)
        except DamagedStoreError:
            if not self._open.forget_changed((group.shard for group in groups), at_once=True):
                raise
        else:
            if not self._open.forget_changed(group.shard for group in groups):
                return batch
        return self._read(rows, order, groups)

    def _read(self, rows: NDArray[np.int64], order: NDArray[np.intp], groups: list[Group]) -> RowBatch:
        out: dict[str, Any] = {
            name: np.empty((len(rows), *self.arrays[name].tail), self.arrays[name].dtype) for name in self._beside
        }
        checksums: list[bytes] = []
        for group in groups:
            mapped = self._open.map(group.shard)
            for name in self._beside:
                out[name][group.places] = getattr(mapped, name)[group.rows]
            checksums.append(mapped.checksum[group.rows].tobytes())
        out["scores"] = self._read_scores(groups, rows, order, b"".join(checksums))
        if self.manifest.footprint != PER_ROW:
            return RowBatch(footprint=self.manifest.footprint, **out)
        return RowBatch(**out)

    def table(self, shard: int) -> RowTable:
        """The row arrays of a shard, all `rows_per_shard` of them.

        Raises:
            StoreError: the shard is not published.
            DamagedStoreError, ReplacedStoreError: as `check`.
        """
        columns = self.columns(shard, *ARRAYS)
        return RowTable(**{name: columns[array] for array, name in ARRAYS.items()})

    def keys(self, shard: int) -> list[str]:
        """The keys of a shard's `rows_per_shard` rows, "" where a row holds no image; decodes no other file.

        Raises:
            StoreError: the shard is not published.
            DamagedStoreError, ReplacedStoreError: as `check`.
        """
        keys: list[str] = self.columns(shard, "key")["key"]
        return keys

    def statuses(self, shard: int) -> NDArray[np.uint8]:
        """(rows_per_shard,) 0 no image, 1 labelled, 2 failed; decodes no other file, and raises as `keys` does."""
        statuses: NDArray[np.uint8] = self.columns(shard, "status")["status"]
        return statuses

    def columns(self, shard: int, *names: str) -> dict[str, Any]:
        """Row arrays of a shard by their names, `rows_per_shard` long; decodes no other, and raises as `table` does."""
        self._require_published(shard)

        def read() -> dict[str, Any]:
            return {name: self._shard_files.column(name, shard) for name in names}

        return self._open.sparing(lambda: self._belonging.settled(shard, names, read))

    def _checked(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        rows, last = np.asarray(rows), self.num_shards * self.rows_per_shard
        whole = rows.astype(np.int64, copy=False)
        # Without a sign, what is below 0 is beyond all rows.
        if len(rows) and whole.view(np.uint64).max() >= last:
            raise LabelError(
                f"rows must lie in [0, {last}); got {rows.min()} .. {rows.max()}. Take them from LabelMaps.rows"
            )
        return whole

    def _require(self, digest: str) -> None:
        check_store_digest(digest)
        if (found := self.digest()) != digest:
            raise StoreError(
                f"{self.files.where} is another store than the one that was asked for: its digest is {found}, and not "
                f"{digest}. Get the store of that digest, or look at this one and use its own"
                + (f". Its copies are in {self.files.cache}" if self.files.cache else "")
            )

    def _published(self, partial: bool) -> tuple[frozenset[int], frozenset[int]]:
        """The finished shards, and those of them that lack a file."""
        names = {name: self.files.names(name) for name in self.arrays}
        done = published_shards(self.manifest, names["status"])
        if len(done) < self.num_shards and not partial:
            raise StoreError(
                f"{self.num_shards - len(done)} of {self.num_shards} shards of {self.files.where} are not published "
                "yet: finish `relabel generate`, or pass partial=True to use the others"
            )
        lost = [
            (shard, f"{spec.name}/{spec.file_name(shard)}")
            for spec in self.arrays.values()
            for shard in sorted(done)
            if spec.file_name(shard) not in names[spec.name]
        ]
        if lost and not partial:
            raise DamagedStoreError(
                f"{self.files.where} lacks {len(lost)} files of published shards "
                f"({', '.join(name for _, name in lost[:_SHOWN])}). " + self.files.repair
            )
        return done, frozenset(shard for shard, _ in lost)

    def _require_published(self, shard: int) -> None:
        if shard not in self.published:
            raise StoreError(
                f"shard {shard} of {self.files.where} is not published; it has shards 0 .. {self.num_shards - 1}, "
                f"of which {len(self.published)} are"
            )

    def _mapped(self, shard: int) -> MappedShard:
        if shard not in self.published:
            raise LabelError(
                f"shard {shard} of {self.files.where} is not published, so its images have no labels yet: "
                "finish `relabel generate`"
            )
        names = (*MAPPED, "footprint") if "footprint" in self.arrays else MAPPED
        sound = self._belonging.is_sound
        mapped = self._belonging.settled(
            shard, names, lambda: self._shard_files.map(shard, is_sound=bool(sound[shard]))
        )
        sound[shard] = True
        return mapped

    def _opened(self, shard: int) -> OpenFile:
        return self._belonging.settled(shard, ("scores",), lambda: self._shard_files.open(shard))

    def _read_scores(
        self, groups: list[Group], rows: NDArray[np.int64], order: NDArray[np.intp], checksums: bytes
    ) -> NDArray[Any]:
        """(n, K + 1, H, W), decoded in small slabs: a buffer as large as a batch is new memory each time."""
        spec = self.arrays["scores"]
        scores = np.empty((len(rows), *spec.tail), spec.little)
        slab = np.empty((min(len(rows), 1 + _SLAB_BYTES // spec.row_bytes()), *spec.tail), spec.little)
        chunks = itertools.chain.from_iterable(map(self._chunks, groups))
        ends: list[bytes] = []
        for start in range(0, len(rows), len(slab) or 1):
            places = order[start : start + len(slab)]
            decoded, some = slab[: len(places)], list(itertools.islice(chunks, len(places)))
            self._decode(some, rows[places], decoded)
            scores[places] = decoded
            ends += [chunk[-4:] for chunk in some]
        if (carried := b"".join(ends)) != checksums:
            raise self._other_rows(carried, checksums, rows[order])
        return scores.astype(spec.dtype, copy=False)

    def _chunks(self, group: Group) -> Iterator[bytes]:
        """The inner chunks of a group's rows, one after the other; empty where there is none."""
        entries: list[list[int]] = self._open.map(group.shard).index[group.rows].tolist()
        # A chunk that claims more is damaged, and so is what is read of it.
        most = self.arrays["scores"].most_chunk_bytes() + 1
        file = self._open.file(group.shard)
        try:
            for offset, length in entries:
                # No file has what `ABSENT`, or an index that was written over, may claim.
                yield file.read(min(length, most), offset) if offset < _NO_OFFSET else b""
        except OSError as error:
            # A file that was taken away on a network file system is a stale one.
            self._belonging.check(group.shard)
            raise self._shard_files.unreadable("scores", group.shard, error) from error

    def _other_rows(self, carried: bytes, checksums: bytes, rows: NDArray[np.int64]) -> DamagedStoreError:
        """The error for inner chunks, each of them whole, that carry other checksums than their rows have."""
        is_other = np.frombuffer(carried, "<u4") != np.frombuffer(checksums, "<u4")
        shard, inside = divmod(int(rows[is_other][0]), self.rows_per_shard)
        return self._shard_files.damaged("scores", shard, f"row {inside}: its map is that of another row or run")

    def _decode(self, chunks: list[bytes], rows: NDArray[np.int64], into: NDArray[Any]) -> None:
        decode = self.arrays["scores"].codec.decode
        try:
            decode(chunks, into)
        except codecs.DECODING_ERRORS:
            # Once more one by one, to name the row.
            for i, chunk in enumerate(chunks):
                try:
                    decode([chunk], into[i : i + 1])
                except codecs.DECODING_ERRORS as error:
                    raise self._no_map(int(rows[i]), error) from error

    def _no_map(self, row: int, error: Exception) -> RelabelError:
        """Why a row has no map: it never had one, or it is damaged."""
        shard, inside = divmod(row, self.rows_per_shard)
        if self._open.map(shard).index[inside, 0] != ABSENT:
            return self._shard_files.damaged("scores", shard, f"row {inside}: {error}")
        table = self.table(shard)
        if table.statuses[inside] == LABELED:
            return self._shard_files.damaged("scores", shard, f"row {inside} is labelled and has no map")
        if table.statuses[inside] == FAILED:
            return LabelError(
                f"the image {table.keys[inside]!r} (row {row}) has no label, it failed when the store was made: "
                + table.errors[inside]
            )
        return LabelError(f"row {row} holds no image; take rows from LabelMaps.rows")
