"""Writing a store: one writer a shard, every file whole, `status` last.

A shard is finished when its status file is there, and that file is there only once all others are on the disk. While a
shard is made, its status file exists under a temporary name, locked: two writers of one shard are impossible, and a
writer that dies leaves nothing that a later one cannot tell from a finished shard.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError, ManifestMismatchError, StoreBusyError, StoreError
from relabel.manifest import Manifest
from relabel.store import codecs
from relabel.store.layout import ABSENT, LABELLED, ArraySpec, arrays_of, create_arrays
from relabel.store.reader import read_manifest
from relabel.store.rows import RowBatch, RowTable

_SHOWN = 12


def create_or_open(path: Path, manifest: Manifest) -> StoreWriter:
    """A writer of the store at `path`, which is created if it is not there.

    Left-over temporary files of writers that died are removed.

    Raises:
        ManifestMismatchError: the store there was made otherwise; lists the differences.
        StoreError: something else is there, or the folder cannot be written.
    """
    with _disk_errors(path):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            _create(path, manifest)
        theirs = read_manifest(path)
        differences = theirs.difference(manifest)
        if differences:
            more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            raise ManifestMismatchError(
                f"{path} was made otherwise, so this run must not add to it (the store's value != this run's):"
                + "".join(f"\n  {line}" for line in differences[:_SHOWN])
                + more
                + "\nGive another STORE, or the teacher, options and images that made this one"
            )
        writer = StoreWriter(path, theirs)
        writer.sweep()
    return writer


def _create(path: Path, manifest: Manifest) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        create_arrays(str(draft), manifest)
        for file in draft.rglob("*"):
            _sync(file)
        # Lost to another process that created the same store: use theirs.
        with contextlib.suppress(FileExistsError, OSError):
            draft.rename(path)
            _sync(path.parent)
        if not path.is_dir():
            raise StoreError(f"cannot create the folder {path}; is its place writable?")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class StoreWriter:
    """A store that shards can be added to."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.arrays = arrays_of(manifest)

    def published(self) -> frozenset[int]:
        """The shards that are finished."""
        return frozenset(
            int(file.name.split(".")[1]) for file in (self.path / "status").iterdir() if file.name.startswith("c.")
        )

    def claim(self, shard: int, *, patience_seconds: float = 1.0) -> ShardWriter:
        """Take a shard, to write it; another process that only sweeps lets go of it in a moment.

        Raises:
            StoreBusyError: another process has it, or has just published it.
        """
        if not 0 <= shard < len(self.manifest.data.shards):
            raise InvalidValueError(f"the store has {len(self.manifest.data.shards)} shards; got shard {shard}")
        with _disk_errors(self.path):
            return ShardWriter(self, shard, _locked(self, shard, time.monotonic() + patience_seconds))

    def temporary(self, spec: ArraySpec, shard: int) -> Path:
        """Where a shard's file of an array is written before it is renamed."""
        return self.path / spec.name / f".{spec.file_name(shard)}.tmp"

    def sweep(self) -> None:
        """Remove what writers that died have left; shards that are being written now are left alone."""
        left = {
            int(file.name.split(".")[2])
            for name in self.arrays
            for file in (self.path / name).glob(".c.*.tmp")
            if file.name.split(".")[2].isdigit()
        }
        for shard in left:
            with contextlib.suppress(StoreBusyError), self.claim(shard, patience_seconds=0):
                pass
        for shard in left & self.published():
            for spec in self.arrays.values():
                self.temporary(spec, shard).unlink(missing_ok=True)


class ShardWriter:
    """A claimed shard. Rows are added in any order and grouping; the files depend on the rows alone."""

    def __init__(self, store: StoreWriter, shard: int, lock: int) -> None:
        self.shard = shard
        self._store = store
        self._manifest = store.manifest
        self._lock: int | None = lock
        rows = self._manifest.data.rows_per_shard
        self._maps: dict[int, bytes] = {}
        self._columns: dict[str, NDArray[Any]] = {
            spec.name: np.full((rows, *spec.tail), spec.fill, spec.dtype)
            for spec in store.arrays.values()
            if spec.dtype != "string" and spec.packing != "sharded"
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: NDArray[np.intp], batch: RowBatch) -> None:
        """Take the maps of some rows and compress them now."""
        expected = {name: self._store.arrays[name] for name in ("classes", "scores", "profile")}
        for name, spec in expected.items():
            array = getattr(batch, name)
            if array.shape != (len(rows), *spec.tail) or array.dtype != spec.dtype:
                raise InvalidValueError(
                    f"{name} must be {(len(rows), *spec.tail)} of {spec.dtype}; got {array.shape} of {array.dtype}"
                )
        if "footprint" in self._columns:
            if batch.footprint is None:
                raise InvalidValueError("this store keeps a footprint for each row; got none")
            self._columns["footprint"][rows] = batch.footprint
        self._columns["classes"][rows] = batch.classes
        self._columns["profile"][rows] = batch.profile
        pack = codecs.with_crc32c if self._manifest.scores.compression == "none" else codecs.zstd_compress()
        for row, scores in zip(rows.tolist(), np.ascontiguousarray(batch.scores), strict=True):
            self._maps[row] = pack(scores.tobytes())

    def publish(self, table: RowTable) -> None:
        """Write and rename every file, `status` last; afterwards the shard is finished.

        Raises:
            StoreError: the disk is full, or another file system error; the shard is not published.
        """
        labelled = set(np.flatnonzero(table.statuses == LABELLED).tolist())
        if len(table) > self._manifest.data.rows_per_shard or labelled != self._maps.keys():
            raise InvalidValueError(
                f"shard {self.shard} takes at most {self._manifest.data.rows_per_shard} rows, with a map for each "
                f"labelled one; got {len(table)} rows, {len(labelled)} labelled and {len(self._maps)} maps"
            )
        columns = {"image_hash": table.image_hashes, "label": table.labels, "status": table.statuses}
        for name, values in columns.items():
            self._columns[name][: len(table)] = values
        with _disk_errors(self._store.path):
            for spec in self._store.arrays.values():
                if spec.name != "status":
                    self._write(spec, self._encoded(spec, table))
            self._publish_status()

    def close(self) -> None:
        """Let go of the shard; what was not published leaves nothing behind."""
        if self._lock is None:
            return
        for spec in self._store.arrays.values():
            self._store.temporary(spec, self.shard).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def _encoded(self, spec: ArraySpec, table: RowTable) -> bytes:
        if spec.packing == "sharded":
            return self._shard_bytes()
        if spec.dtype == "string":
            values = table.keys if spec.name == "key" else table.errors
            padding = [""] * (self._manifest.data.rows_per_shard - len(values))
            return codecs.zstd_compress()(codecs.encode_strings([*values, *padding]))
        little = self._columns[spec.name].astype(np.dtype(spec.dtype).newbyteorder("<"), copy=False).tobytes()
        return codecs.with_crc32c(little) if spec.packing == "raw" else codecs.zstd_compress()(little)

    def _shard_bytes(self) -> bytes:
        """Inner chunks in the order of their rows, then the index: offset and length of each, and its crc32c."""
        index = np.full((self._manifest.data.rows_per_shard, 2), ABSENT, "<u8")
        parts: list[bytes] = []
        offset = 0
        for row in sorted(self._maps):
            index[row] = offset, len(self._maps[row])
            parts.append(self._maps[row])
            offset += len(self._maps[row])
        return b"".join([*parts, codecs.with_crc32c(index.tobytes())])

    def _write(self, spec: ArraySpec, data: bytes) -> None:
        temporary = self._store.temporary(spec, self.shard)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        self._rename(spec)

    def _publish_status(self) -> None:
        spec = self._store.arrays["status"]
        if self._lock is None:
            raise StoreError(f"shard {self.shard} was closed before it was published")
        os.ftruncate(self._lock, 0)
        _write_all(self._lock, codecs.zstd_compress()(self._columns["status"].tobytes()))
        self._rename(spec)
        os.close(self._lock)
        self._lock = None

    def _rename(self, spec: ArraySpec) -> None:
        folder = self._store.path / spec.name
        self._store.temporary(spec, self.shard).replace(folder / spec.file_name(self.shard))
        _sync(folder)


def _locked(store: StoreWriter, shard: int, deadline: float) -> int:
    """A descriptor of the shard's temporary status file, locked."""
    spec = store.arrays["status"]
    path = store.temporary(spec, shard)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise StoreBusyError(
                f"another process is writing shard {shard} of {store.path}. "
                "Let it finish, or give each process a --rank"
            ) from error
        except OSError:
            os.close(descriptor)
            raise
        try:
            ours = path.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            ours = False
        if not ours:
            # Its owner renamed or removed it between our open and our lock.
            os.close(descriptor)
            continue
        if (store.path / spec.name / spec.file_name(shard)).exists():
            path.unlink()
            os.close(descriptor)
            raise StoreBusyError(f"another process has just published shard {shard} of {store.path}; run again")
        return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}. Shards published so far are safe; "
            "make room or mend the permissions, and run the same command again"
        ) from error
