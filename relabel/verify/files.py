"""The files of a store, read byte for byte: stricter than a trainer's reader, and one damaged file hides no other."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, StoreError
from relabel.store import StoreReader, codecs
from relabel.store.descriptors import OpenFile
from relabel.store.digest import shard_digest
from relabel.store.files import ForbiddenError, ScarceError, read_bytes, unreadable
from relabel.store.layout import ABSENT, ArraySpec


def read_column(reader: StoreReader, name: str, shard: int) -> NDArray[Any]:
    """A shard's (R, *tail) of an array that is not sharded, or (1, *tail) of one without rows; strings as objects.

    Raises:
        DamagedStoreError: the file cannot be read, or is not what format 1 writes.
        ForbiddenError: this user may not read it.
        ScarceError: memory or descriptors ran out.
    """
    spec, data = reader.arrays[name], read_file(reader, name, shard)
    try:
        spec.codec.check([data])
        plain = spec.content(data, reader.rows_per_shard)
        column = _strings(plain, reader.rows_per_shard) if spec.dtype == "string" else _numbers(plain, spec)
    except codecs.DECODING_ERRORS as error:
        raise DamagedStoreError(f"{_file(spec, shard)} is damaged: {error}") from error
    return column


def read_file(reader: StoreReader, name: str, shard: int) -> bytes:
    """A shard's file of an array; raises as `read_column`."""
    spec = reader.arrays[name]
    reader.refresh(shard)
    try:
        return read_bytes(reader.files, _file(spec, shard), spec.most_bytes(reader.rows_per_shard))
    except OSError as error:
        raise _unread(_file(spec, shard), error) from error


def found_digest(reader: StoreReader, shard: int) -> NDArray[np.uint8]:
    """(2, 32): what a shard's `digest` should hold, by the files that are there; all of them can be read."""
    files = ((name, read_file(reader, name, shard)) for name in reader.arrays if name != "digest")
    return shard_digest(reader.identity, shard, files)


class ScoreFile:
    """A shard's score maps: the index read and checked at once, the maps on demand.

    Attributes:
        claimed: (R,) bool, whether the index has an entry for a row.
        stored: (R,) bool, whether it leads to bytes of the file.
        faults: (row, what is wrong) for everything that the index says wrongly; row -1 is the file as a whole.
        is_broken: whether there are such, or a map that was read is damaged.

    Raises:
        DamagedStoreError: the file or its index cannot be read.
        ForbiddenError: this user may not read it.
        ScarceError: memory or descriptors ran out; of every method.
    """

    def __init__(self, reader: StoreReader, shard: int) -> None:
        self._spec = reader.arrays["scores"]
        self._name = _file(self._spec, shard)
        try:
            self._file = OpenFile(reader.files.local(self._name))
            size = os.fstat(self._file.descriptor).st_size - codecs.index_bytes(reader.rows_per_shard)
            if size < 0:
                raise DamagedStoreError(f"{self._name} is damaged: it is too short for the index of its rows")
            end = self._file.read(codecs.index_bytes(reader.rows_per_shard), size)
            self._index = codecs.decode_index(end, reader.rows_per_shard)
        except OSError as error:
            raise _unread(self._name, error) from error
        except ValueError as error:
            raise DamagedStoreError(f"{self._name} is damaged: the index: {error}") from error
        self.claimed = (self._index != ABSENT).any(axis=1)
        self.stored, faults = _index_faults(self._index, size)
        self.faults = [(row, f"the index of {self._name}: {what}") for row, what in faults]
        self.is_broken = bool(faults)

    def read(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.uint32], list[tuple[int, str]]]:
        """The maps (n, K + 1, H, W) of some stored rows, the checksums (n,) that they carry, and (number in `rows`,
        what) for those that are damaged."""
        maps = np.zeros((len(rows), *self._spec.tail), self._spec.little)
        carried = np.zeros(len(rows), np.uint32)
        try:
            carried[:] = self._decode(rows, maps)
        except (OSError, *codecs.DECODING_ERRORS):
            # Once more one by one, to name the rows.
            faults = []
            for i in range(len(rows)):
                try:
                    carried[i] = self._decode(rows[i : i + 1], maps[i : i + 1])[0]
                except OSError as error:
                    if isinstance(what := _unread(self._name, error), ScarceError):
                        raise what from error
                    faults.append((i, str(what)))
                except codecs.DECODING_ERRORS as error:
                    faults.append((i, f"its map in {self._name} is damaged: {error}"))
            self.is_broken |= bool(faults)
            return maps, carried, faults
        return maps, carried, []

    def _decode(self, rows: NDArray[np.intp], into: NDArray[Any]) -> NDArray[np.uint32]:
        chunks = self._chunks(self._index[rows].tolist())
        self._spec.codec.check(chunks)
        self._spec.codec.decode(chunks, into)
        return codecs.checksums_of(chunks)

    def _chunks(self, entries: list[list[int]]) -> list[bytes]:
        """The bytes at (offset, length); in one read where they lie one behind another, as they were written."""
        most = self._spec.most_chunk_bytes() + 1
        first, end = entries[0][0], sum(entries[-1])
        if end - first == sum(length for _, length in entries) <= most * len(entries):
            data = self._file.read(end - first, first)
            return [data[offset - first : offset - first + length] for offset, length in entries]
        return [self._file.read(min(length, most), offset) for offset, length in entries]


def _unread(file: str, error: OSError) -> StoreError:
    """What is wrong with a file that cannot be read, to be raised: it is damaged, forbidden, or not at fault."""
    what = unreadable(f"{file} cannot be read", error)
    return what if isinstance(what, (ScarceError, ForbiddenError)) else DamagedStoreError(str(what))


def _file(spec: ArraySpec, shard: int) -> str:
    return f"{spec.name}/{spec.file_name(shard)}"


def _strings(data: bytes, rows: int) -> NDArray[np.object_]:
    values = codecs.decode_strings(data, rows)
    # Each was found by its length and is UTF-8, so that there can only be more behind them.
    if 4 + 4 * rows + len("".join(values.tolist()).encode()) != len(data):
        raise ValueError("its strings are not encoded as vlen-utf8 says")
    return values


def _numbers(data: bytes, spec: ArraySpec) -> NDArray[Any]:
    return np.frombuffer(data, spec.little).reshape(-1, *spec.tail)


def _index_faults(index: NDArray[np.uint64], size: int) -> tuple[NDArray[np.bool_], list[tuple[int, str]]]:
    """Which rows can be read, and what is wrong: chunks must lie side by side and fill the file up to the index."""
    absent = index == ABSENT
    halves = np.flatnonzero(absent[:, 0] != absent[:, 1])
    faults = [(row, "its entry is half empty") for row in halves.tolist()]
    offset, length = index[:, 0], index[:, 1]
    limit = np.uint64(size)
    inside = ~absent.any(axis=1) & (length <= limit) & (offset <= limit - np.minimum(length, limit))
    outside = np.flatnonzero(~absent.any(axis=1) & ~inside)
    faults += [(row, "its entry points outside the file") for row in outside.tolist()]
    rows = np.flatnonzero(inside)[np.argsort(offset[inside], kind="stable")]
    starts = offset[rows]
    # Up to where those before each one reach, and all of them. Lists of a shard's rows would take a fifth of its time.
    reached = np.concatenate([np.zeros(1, np.uint64), np.maximum.accumulate(starts + length[rows])])
    is_shared = starts < reached[:-1]
    unclaimed = int((starts - reached[:-1])[~is_shared].sum()) + size - int(reached[-1])
    if unclaimed:
        faults.append((-1, f"{unclaimed} bytes of the file belong to no row"))
    if is_shared.any():
        faults.append((-1, "two rows share bytes of the file"))
        # Not read once more for each row that claims them: a thousand may claim what takes long to decode.
        inside[rows[is_shared]] = False
    return inside, faults
