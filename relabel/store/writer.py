"""Writing a store: one writer a shard, every file whole, `status` last.

A shard is finished when its status file is there, and that file is there only once all others are on the disk. While a
shard is made, its status file exists under a temporary name, locked: two writers of one shard are impossible, and a
writer that dies leaves nothing that a later one cannot tell from a finished shard.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError, StoreBusyError, StoreError
from relabel.geometry import Footprint
from relabel.manifest import PER_ROW, Manifest
from relabel.store import codecs
from relabel.store.digest import shard_digest
from relabel.store.disk import check_way, disk_errors, make_way, sync, write_all
from relabel.store.files import store_files
from relabel.store.layout import ABSENT, LABELED, ArraySpec, arrays_of, published_shards
from relabel.store.locks import FileLock, lock_file
from relabel.store.maps import RowBatch
from relabel.store.rows import RowTable, check_text


class StoreWriter:
    """A store that shards can be added to."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        # Of a manifest of 25,000 shards it takes a tenth of a second: once, not for every shard.
        self.identity = manifest.identity()
        self.arrays = arrays_of(manifest)

    def published(self) -> frozenset[int]:
        """The shards that are finished.

        Raises:
            StoreError: the store's folder cannot be read.
        """
        return published_shards(self.manifest, store_files(self.path).names("status"))

    def claim(self, shard: int, *, again: bool = False, patience_seconds: float = 1.0) -> ShardWriter:
        """Take a shard, to write it; another process that only sweeps lets go of it in a moment.

        With `again` it may be a finished one, which stays what it is until the new one is published.

        Raises:
            StoreBusyError: another process has it, or has just published it.
            StoreError: the folder cannot be written, or its file system has no locks.
        """
        lock = self._locked(shard, patience_seconds)
        if not again and self._status_file(shard).exists():
            self._let_go(shard, lock)
            raise StoreBusyError(f"another process has published shard {shard} of {self.path}; run again")
        return ShardWriter(self, shard, lock)

    def check_way(self, shard: int) -> None:
        """Whether every file of a shard may be written, or removed; changes nothing.

        Raises:
            StoreError: a user's folder, which is not empty, is in a file's place.
        """
        with disk_errors(self.path):
            for spec in self.arrays.values():
                check_way(self._file(spec, shard))

    def temporary(self, spec: ArraySpec, shard: int) -> Path:
        """Where a shard's file of an array is written before it is renamed."""
        return self.path / spec.name / spec.temporary_name(shard)

    def sweep(self) -> None:
        """Remove what writers that died have left; shards that are being written now are left alone.

        Raises:
            StoreError: the folder cannot be written.
        """
        files = store_files(self.path)
        left = set()
        for spec in self.arrays.values():
            names = files.names(spec.name)
            left |= {s for s in range(len(self.manifest.data.shards)) if spec.temporary_name(s) in names}
        for shard in left:
            with contextlib.suppress(StoreBusyError):
                self._let_go(shard, self._locked(shard, patience_seconds=0))

    def _locked(self, shard: int, patience_seconds: float) -> FileLock:
        """A shard that nobody else writes, sweeps or retracts until it is let go of."""
        if not 0 <= shard < len(self.manifest.data.shards):
            raise InvalidValueError(f"the store has {len(self.manifest.data.shards)} shards; got shard {shard}")
        with disk_errors(self.path):
            lock = lock_file(self.temporary(self.arrays["status"], shard), patience_seconds=patience_seconds)
        if lock is None:
            raise StoreBusyError(
                f"another process is writing shard {shard} of {self.path}. Let it finish, or give each process a --rank"
            )
        return lock

    def _let_go(self, shard: int, lock: FileLock) -> None:
        """Remove a locked shard's temporary files, the lock's own last, and let go of it."""
        try:
            with disk_errors(self.path):
                for spec in self.arrays.values():
                    _remove(self.temporary(spec, shard))
        finally:
            lock.release()

    def _unpublish(self, shard: int) -> None:
        status = self._status_file(shard)
        if os.path.lexists(status):
            _remove(status)
            sync(status.parent)

    def _file(self, spec: ArraySpec, shard: int) -> Path:
        return self.path / spec.name / spec.file_name(shard)

    def _status_file(self, shard: int) -> Path:
        return self._file(self.arrays["status"], shard)


class ShardWriter:
    """A claimed shard. Rows are added in any order and grouping; the files depend on the rows alone."""

    def __init__(self, store: StoreWriter, shard: int, lock: FileLock) -> None:
        self.shard = shard
        self._store = store
        self._manifest = store.manifest
        self._lock = lock
        self._maps: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, rows: NDArray[np.intp], batch: RowBatch) -> None:
        """Take the maps of some rows and compress them now.

        Args:
            rows: (n,) numbers in the shard, each of them once.
            batch: their maps.

        Raises:
            InvalidValueError: a row outside the shard or given before, or maps of another shape or dtype.
            StoreError: the shard was published or closed.
        """
        self._require_open()
        numbers = np.asarray(rows).tolist()
        if len(set(numbers)) != len(numbers) or not self._maps.keys().isdisjoint(numbers):
            raise InvalidValueError(f"each row of shard {self.shard} can be added once; got one of {numbers} again")
        size = self._manifest.data.rows_per_shard
        if numbers and not 0 <= min(numbers) <= max(numbers) < size:
            raise InvalidValueError(f"rows must lie in [0, {size}); got {min(numbers)} .. {max(numbers)}")
        self._check(batch, len(numbers))
        for name in ("classes", "profile", "footprint"):
            if name in self._columns:
                self._columns[name][numbers] = getattr(batch, name)
        spec = self._store.arrays["scores"]
        little = np.ascontiguousarray(batch.scores, spec.little)
        chunks = [spec.codec.encode(scores.tobytes()) for scores in little]
        self._maps.update(zip(numbers, chunks, strict=True))
        self._columns["checksum"][numbers] = codecs.checksums_of(chunks)

    def publish(self, table: RowTable) -> None:
        """Write and rename every file, `status` last; afterwards the shard is finished.

        Args:
            table: the first rows of the shard, at most `rows_per_shard`; the others hold no image.

        Raises:
            InvalidValueError: a labelled row without a map, or a map without one; a key that UTF-8 cannot say.
            StoreError: the disk is full, or another file system error; the shard is not published. Or it was before.
        """
        self._require_open()
        self._check_table(table)
        for name, values in table.columns.items():
            if name in self._columns:
                self._columns[name][: len(table)] = values
                self._columns[name][len(table) :] = self._store.arrays[name].fill
        files = {s.name: self._encoded(s, table) for s in self._store.arrays.values() if s.name != "digest"}
        self._columns["digest"] = shard_digest(self._store.identity, self.shard, files.items())
        files["digest"] = self._encoded(self._store.arrays["digest"], table)
        self.restore(files)

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Publish the shard as these bytes of each array's file, as `publish` does; they are not looked at.

        Raises:
            StoreError: as `publish`.
        """
        self._require_open()
        # Before anything is taken away: what cannot be wholly replaced stays what it is.
        self._store.check_way(self.shard)
        with disk_errors(self._store.path):
            others = [spec for spec in self._store.arrays.values() if spec.name != "status"]
            for spec in others:
                self._write(spec, files[spec.name])
            # One that is written again is missing from here on, and never half old and half new.
            self._store._unpublish(self.shard)
            for spec in others:
                self._rename(spec)
            self._publish_status(files["status"])

    def retract(self) -> None:
        """Remove what is there of the shard, its status first: it is missing from then on, and readers are told so.

        Raises:
            StoreError: its files cannot be removed.
        """
        self._require_open()
        self._store.check_way(self.shard)
        with disk_errors(self._store.path):
            self._store._unpublish(self.shard)
            for spec in self._store.arrays.values():
                _remove(self._store._file(spec, self.shard))

    def close(self) -> None:
        """Let go of the shard; what was not published leaves no temporary file behind."""
        if self._lock.is_held:
            self._store._let_go(self.shard, self._lock)

    @functools.cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Made when they are first filled: who only retracts or restores needs none."""
        return {
            spec.name: np.full(spec.shape(self._manifest)[1:], spec.fill, spec.little)
            for spec in self._store.arrays.values()
            if spec.dtype != "string" and not spec.is_sharded
        }

    def _require_open(self) -> None:
        if not self._lock.is_held:
            raise StoreError(f"shard {self.shard} was published or closed before; claim it again to write it")

    def _check(self, batch: RowBatch, count: int) -> None:
        one, given = self._manifest.footprint, batch.footprint if isinstance(batch.footprint, Footprint) else PER_ROW
        if given != one:
            raise InvalidValueError(
                f"this store has {'a footprint per row' if one == PER_ROW else f'one footprint for all rows, {one}'}; "
                f"got {'one per row' if given == PER_ROW else given}"
            )
        for name in ("classes", "scores", "profile", "footprint"):
            spec, array = self._store.arrays.get(name), getattr(batch, name)
            if spec is not None and (array.shape != (count, *spec.tail) or array.dtype != spec.dtype):
                raise InvalidValueError(
                    f"{name} must be {(count, *spec.tail)} of {spec.dtype}; got {array.shape} of {array.dtype}"
                )

    def _check_table(self, table: RowTable) -> None:
        labeled = set(np.flatnonzero(table.statuses == LABELED).tolist())
        if len(table) > self._manifest.data.rows_per_shard or labeled != self._maps.keys():
            raise InvalidValueError(
                f"shard {self.shard} takes at most {self._manifest.data.rows_per_shard} rows, with a map for each "
                f"labelled one; got {len(table)} rows, {len(labeled)} labelled and {len(self._maps)} maps"
            )
        check_text((*table.keys, *table.errors))

    def _encoded(self, spec: ArraySpec, table: RowTable) -> bytes:
        if spec.is_sharded:
            return self._shard_bytes()
        if spec.dtype == "string":
            padding = [""] * (self._manifest.data.rows_per_shard - len(table))
            return spec.codec.encode(codecs.encode_strings([*table.columns[spec.name], *padding]))
        return spec.codec.encode(self._columns[spec.name].tobytes())

    def _shard_bytes(self) -> bytes:
        """Inner chunks in the order of their rows, then the index: offset and length of each, and its crc32c."""
        index = np.full((self._manifest.data.rows_per_shard, 2), ABSENT, np.uint64)
        parts: list[bytes] = []
        offset = 0
        for row in sorted(self._maps):
            index[row] = offset, len(self._maps[row])
            parts.append(self._maps[row])
            offset += len(self._maps[row])
        return b"".join([*parts, codecs.encode_index(index)])

    def _write(self, spec: ArraySpec, data: bytes) -> None:
        temporary = self._store.temporary(spec, self.shard)
        # What lies there is dead, and may be anything: a pipe would be waited for, a link followed.
        _remove(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _publish_status(self, data: bytes) -> None:
        write_all(self._lock.descriptor, data)
        self._rename(self._store.arrays["status"])
        self._lock.release()

    def _rename(self, spec: ArraySpec) -> None:
        file = self._store._file(spec, self.shard)
        make_way(file)
        self._store.temporary(spec, self.shard).replace(file)
        sync(file.parent)


def _remove(file: Path) -> None:
    """A file of the store, or whatever is in its place; a folder only if it is empty."""
    make_way(file)
    file.unlink(missing_ok=True)
