"""Reading a store in a trainer's hot path: no zarr-python, no file descriptor held a shard, one read a row."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, LabelError, StoreError
from relabel.manifest import Manifest
from relabel.store import codecs
from relabel.store.files import StoreFiles, store_files
from relabel.store.layout import ABSENT, FAILED, ArraySpec, array_metadata, arrays_of
from relabel.store.rows import RowBatch, RowTable

_SHOWN = 8
_REPAIR = (
    "Restore the file from a copy, or delete the shard's files (all of its number) and run `relabel generate` again"
)


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a store, from its group's attributes.

    Raises:
        StoreError: no store of a known format is there.
    """
    return _manifest(store_files(path))


class StoreReader:
    """Rows of a store by number, ``shard * rows_per_shard + row``. Picklable; safe in forked and spawned workers.

    Args:
        path: the store's folder, or a URL that fsspec opens.
        partial: whether a store may be opened whose shards are not all published.

    Raises:
        StoreError: not a store, or not finished.
        DamagedStoreError: a file of a published shard is missing, or an array's metadata was changed.
    """

    def __init__(self, path: str | Path, *, partial: bool = False) -> None:
        self.files: StoreFiles = store_files(path)
        self.manifest = _manifest(self.files)
        self.arrays = arrays_of(self.manifest)
        self.num_shards = len(self.manifest.data.shards)
        self.rows_per_shard = self.manifest.data.rows_per_shard
        for spec in self.arrays.values():
            _check_metadata(self.files, spec, self.manifest)
        self.published = self._published(partial)
        self._reset()

    def _reset(self) -> None:
        self._shards: dict[int, _MappedShard] = {}
        self._open: dict[int, _OpenFile] = {}
        # Half of what is left after a trainer's own files; beyond that the oldest is closed.
        self._most_open = max(8, min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_shards", "_open", "_most_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, rows: NDArray[np.int64]) -> RowBatch:
        """The coded maps of n rows, in their order.

        Raises:
            LabelError: a row that has no map; says why.
            DamagedStoreError: a file was changed, cut or removed.
        """
        rows = np.asarray(rows, np.int64)
        self._check_range(rows)
        out = {
            name: np.empty((len(rows), *self.arrays[name].tail), self.arrays[name].dtype)
            for name in ("classes", "scores", "profile", "footprint")
            if name in self.arrays
        }
        classes, scores, profile, footprint = (out.get(n) for n in ("classes", "scores", "profile", "footprint"))
        shards, inside = np.divmod(rows, self.rows_per_shard)
        for i, (shard, row) in enumerate(zip(shards.tolist(), inside.tolist(), strict=True)):
            mapped = self._shards.get(shard) or self._map(shard)
            self._read_scores(mapped, row, scores[i])  # type: ignore[index]
            classes[i] = mapped.classes[row]  # type: ignore[index]
            profile[i] = mapped.profile[row]  # type: ignore[index]
            if footprint is not None and mapped.footprint is not None:
                footprint[i] = mapped.footprint[row]
        return RowBatch(**out)

    def table(self, shard: int) -> RowTable:
        """The row arrays of a shard, all `rows_per_shard` of them.

        Raises:
            DamagedStoreError: a file was changed, cut or removed.
        """
        if shard not in self.published:
            raise StoreError(f"shard {shard} of {self.files.where} is not published")
        strings = {name: self._strings(name, shard) for name in ("key", "error")}
        return RowTable(
            keys=strings["key"],
            image_hashes=self._column("image_hash", shard),
            labels=self._column("label", shard),
            statuses=self._column("status", shard),
            errors=strings["error"],
        )

    def stored_rows(self, shard: int) -> NDArray[np.bool_]:
        """(rows_per_shard,) whether a row has a map, from the shard's index."""
        mapped = self._shards.get(shard) or self._map(shard)
        stored: NDArray[np.bool_] = mapped.index[:, 0] != ABSENT
        return stored

    def size_bytes(self) -> int:
        """The bytes of all files of the store, where it is a local one."""
        root = self.files.local("zarr.json").parent
        return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())

    def _check_range(self, rows: NDArray[np.int64]) -> None:
        last = self.num_shards * self.rows_per_shard
        if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= last)):
            span = f"{rows.min()} .. {rows.max()}" if rows.size else f"shape {rows.shape}"
            raise LabelError(
                f"rows must be one axis of numbers in [0, {last}); got {span}. Take them from LabelMaps.rows"
            )

    def _published(self, partial: bool) -> frozenset[int]:
        names = {spec.name: self.files.names(spec.name) for spec in self.arrays.values()}
        status = self.arrays["status"]
        done = frozenset(s for s in range(self.num_shards) if status.file_name(s) in names["status"])
        if len(done) < self.num_shards and not partial:
            raise StoreError(
                f"{self.num_shards - len(done)} of {self.num_shards} shards of {self.files.where} are not published "
                "yet: finish `relabel generate`, or pass partial=True to use the others"
            )
        lost = [
            f"{spec.name}/{spec.file_name(shard)}"
            for spec in self.arrays.values()
            for shard in sorted(done)
            if spec.file_name(shard) not in names[spec.name]
        ]
        if lost and not partial:
            raise DamagedStoreError(
                f"{self.files.where} lacks {len(lost)} files of published shards ({', '.join(lost[:_SHOWN])}). "
                + _REPAIR
            )
        return done

    def _map(self, shard: int) -> _MappedShard:
        if shard not in self.published:
            raise LabelError(
                f"shard {shard} of {self.files.where} is not published, so its images have no labels yet: "
                "finish `relabel generate`"
            )
        mapped = _MappedShard(self, shard)
        self._shards[shard] = mapped
        return mapped

    def _read_scores(self, mapped: _MappedShard, row: int, into: NDArray[Any]) -> None:
        offset, length = mapped.index[row].tolist()
        if offset == ABSENT:
            raise self._no_map(mapped.shard, row)
        file = self._open.get(mapped.shard) or self._open_scores(mapped.shard)
        try:
            data = os.pread(file.descriptor, length, offset)
            if len(data) != length:
                raise ValueError(f"{len(data)} bytes where the index promises {length}")
            if self.manifest.scores.compression == "none":
                _copy_checked(data, into)
            else:
                codecs.zstd_decompress()(data, into)
        except (RuntimeError, ValueError, OverflowError, OSError) as error:
            raise DamagedStoreError(
                f"{self.files.where}: row {row} of scores/{self.arrays['scores'].file_name(mapped.shard)} is "
                f"damaged ({error}). {_REPAIR}"
            ) from error

    def _no_map(self, shard: int, row: int) -> LabelError:
        table = self.table(shard)
        if table.statuses[row] == FAILED:
            return LabelError(
                f"the image {table.keys[row]!r} (row {shard * self.rows_per_shard + row}) has no label, it failed when "
                f"the store was made: {table.errors[row]}"
            )
        return LabelError(f"row {shard * self.rows_per_shard + row} holds no image; take rows from LabelMaps.rows")

    def _open_scores(self, shard: int) -> _OpenFile:
        path = self.files.local(f"scores/{self.arrays['scores'].file_name(shard)}")
        try:
            file = _OpenFile(path)
        except FileNotFoundError as error:
            raise DamagedStoreError(f"{path} is gone. {_REPAIR}") from error
        while len(self._open) >= self._most_open:
            # No lock: a read that still holds the file keeps it open until it is done.
            self._open.pop(next(iter(self._open)), None)
        self._open[shard] = file
        return file

    def _bytes(self, name: str, shard: int) -> bytes:
        file = f"{name}/{self.arrays[name].file_name(shard)}"
        try:
            return self.files.local(file).read_bytes()
        except OSError as error:
            raise DamagedStoreError(f"{self.files.where}: cannot read {file}: {error.strerror}. {_REPAIR}") from error

    def _column(self, name: str, shard: int) -> NDArray[Any]:
        spec = self.arrays[name]
        data = self._bytes(name, shard)
        out = np.empty((self.rows_per_shard, *spec.tail), spec.dtype)
        try:
            codecs.zstd_decompress()(data, out)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(name, shard, error) from error
        return out

    def _strings(self, name: str, shard: int) -> list[str]:
        data = self._bytes(name, shard)
        try:
            values: list[str] = codecs.decode_strings(codecs.zstd_decompress()(data)).tolist()
        except (RuntimeError, ValueError) as error:
            raise self._damaged(name, shard, error) from error
        if len(values) != self.rows_per_shard:
            raise self._damaged(name, shard, f"{len(values)} strings for {self.rows_per_shard} rows")
        return values

    def _damaged(self, name: str, shard: int, why: object) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.files.where}: {name}/{self.arrays[name].file_name(shard)} is damaged ({why}). {_REPAIR}"
        )


class _OpenFile:
    """A descriptor that closes with its last reference."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _MappedShard:
    """The parts of a shard that are looked at row by row, mapped once and checked against their checksums."""

    def __init__(self, reader: StoreReader, shard: int) -> None:
        self.shard = shard
        rows = reader.rows_per_shard
        whole = _mapped(reader, "scores", shard)
        size = len(whole) - 4 - 16 * rows
        if size < 0:
            raise reader._damaged("scores", shard, f"{len(whole)} bytes are too few for the index of {rows} rows")
        index = _checked(reader, "scores", shard, whole[size:])
        self.index = index.view("<u8").reshape(rows, 2)
        stored = self.index[self.index[:, 0] != ABSENT]
        if len(stored) and (stored.astype(np.float64).sum(1).max() > size):
            raise reader._damaged("scores", shard, "its index points outside the file")
        self.classes = self._raw(reader, "classes")
        self.profile = self._raw(reader, "profile")
        self.footprint = reader._column("footprint", shard) if "footprint" in reader.arrays else None

    def _raw(self, reader: StoreReader, name: str) -> NDArray[Any]:
        spec = reader.arrays[name]
        whole = _mapped(reader, name, self.shard)
        expected = reader.rows_per_shard * spec.row_bytes() + 4
        if len(whole) != expected:
            raise reader._damaged(name, self.shard, f"{len(whole)} bytes instead of {expected}")
        data = _checked(reader, name, self.shard, whole)
        return data.view(np.dtype(spec.dtype).newbyteorder("<")).reshape(reader.rows_per_shard, *spec.tail)


def _mapped(reader: StoreReader, name: str, shard: int) -> NDArray[np.uint8]:
    """A file's bytes, mapped; unlike mmap before Python 3.13, torch keeps no descriptor for it."""
    file = f"{name}/{reader.arrays[name].file_name(shard)}"
    path = reader.files.local(file)
    try:
        size = path.stat().st_size
        if size == 0:
            raise reader._damaged(name, shard, "it is empty")
        mapped: NDArray[np.uint8] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except (OSError, RuntimeError) as error:
        raise DamagedStoreError(f"{reader.files.where}: cannot map {file}: {error}. {_REPAIR}") from error
    return mapped


def _checked(reader: StoreReader, name: str, shard: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The data without the crc32c behind it, which must agree."""
    if codecs.crc32c()(data[:-4].tobytes()) != int.from_bytes(data[-4:].tobytes(), "little"):
        raise reader._damaged(name, shard, "its checksum does not agree")
    return data[:-4]


def _copy_checked(data: bytes, into: NDArray[Any]) -> None:
    if len(data) != into.nbytes + 4:
        raise ValueError(f"{len(data)} bytes instead of {into.nbytes + 4}")
    if codecs.crc32c()(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("its checksum does not agree")
    into.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8, into.nbytes)


def _manifest(files: StoreFiles) -> Manifest:
    group = _json(files, "zarr.json")
    if group.get("node_type") != "group" or group.get("zarr_format") != 3:
        raise StoreError(f"{files.where} is not a relabel store: its zarr.json is not that of a zarr v3 group")
    try:
        return Manifest.from_json(group.get("attributes", {}))
    except StoreError as error:
        raise type(error)(f"{files.where}: {error}") from error


def _json(files: StoreFiles, name: str) -> dict[str, Any]:
    try:
        value = json.loads(files.local(name).read_text())
    except (OSError, DamagedStoreError) as error:
        raise StoreError(
            f"{files.where} is not a relabel store: it has no {name}. Give the folder that `relabel generate` wrote"
        ) from error
    except ValueError as error:
        raise StoreError(f"{files.where}: {name} is not JSON ({error})") from error
    return value if isinstance(value, dict) else {}


def _check_metadata(files: StoreFiles, spec: ArraySpec, manifest: Manifest) -> None:
    found = _json(files, f"{spec.name}/zarr.json")
    expected = array_metadata(spec, manifest)
    wrong = [name for name, value in expected.items() if found.get(name) != value]
    if wrong:
        raise DamagedStoreError(
            f"{files.where}: {spec.name}/zarr.json does not agree with the manifest in {', '.join(wrong)}: "
            f"{wrong[0]} is {found.get(wrong[0])!r}, expected {expected[wrong[0]]!r}. It was edited, or is damaged"
        )
