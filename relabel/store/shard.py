"""The files of one shard, as a reader sees them: mapped where rows are looked up one by one, else decoded whole."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, StoreError
from relabel.store import codecs
from relabel.store.files import StoreFiles, open_regular, read_bytes
from relabel.store.layout import ABSENT, ArraySpec


@dataclass(frozen=True, slots=True, eq=False)
class MappedShard:
    """What a shard knows of its R rows besides the maps themselves.

    The index and the arrays are views of the files, whose pages all processes share.

    Attributes:
        index: (R, 2) uint64, offset and length of each row's inner chunk of `scores`; `ABSENT` where there is none.
        classes: (R, K + M).
        profile: (R, M + 1) int8.
        footprint: (R, 4) float32, or None where the manifest has one for all.
    """

    index: NDArray[np.uint64]
    classes: NDArray[Any]
    profile: NDArray[np.int8]
    footprint: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Reads shards of R rows; every method raises DamagedStoreError where a file is missing, cut or changed."""

    files: StoreFiles
    arrays: dict[str, ArraySpec]
    rows: int

    def map(self, shard: int) -> MappedShard:
        """Map and check the index, classes and profile."""
        return MappedShard(
            index=self._index(shard),
            classes=self._raw("classes", shard),
            profile=self._raw("profile", shard),
            footprint=self.column("footprint", shard) if "footprint" in self.arrays else None,
        )

    def column(self, name: str, shard: int) -> Any:
        """All rows of an array that is one compressed chunk a shard: (R, *tail), or a list of R strings."""
        spec = self.arrays[name]
        try:
            data = read_bytes(self.files, self._file(name, shard), spec.most_bytes(self.rows))
        except OSError as error:
            raise self.unreadable(name, shard, error) from error
        try:
            if spec.dtype == "string":
                column = codecs.decode_strings(spec.content(data, self.rows), self.rows).tolist()
            else:
                content = spec.content(data, self.rows)
                # A copy, because bytes give an array that cannot be written to, which torch warns of.
                column = np.frombuffer(content, spec.little).reshape(self.rows, *spec.tail).astype(spec.dtype)
        except codecs.DECODING_ERRORS as error:
            raise self.damaged(name, shard, error) from error
        return column

    def path(self, name: str, shard: int) -> Path:
        """A local path of a shard's file of an array."""
        return self.files.local(self._file(name, shard))

    def damaged(self, name: str, shard: int, why: object) -> DamagedStoreError:
        """The error for a damaged file, to be raised."""
        return DamagedStoreError(
            f"{self.files.where}: {self._file(name, shard)} is damaged ({why}). {self.files.repair}"
        )

    def unreadable(self, name: str, shard: int, error: OSError) -> StoreError:
        """The error for a file that is gone or cannot be read, to be raised."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return StoreError(f"cannot read {self._file(name, shard)}: {error.strerror}. Raise `ulimit -n`")
        if error.errno in (errno.EINVAL, errno.EFBIG):
            return self.damaged(name, shard, error.strerror)
        return DamagedStoreError(
            f"{self.files.where}: cannot read {self._file(name, shard)}: {error.strerror or error}. {self.files.repair}"
        )

    def _file(self, name: str, shard: int) -> str:
        return f"{name}/{self.arrays[name].file_name(shard)}"

    def _index(self, shard: int) -> NDArray[np.uint64]:
        whole = self._mapped("scores", shard)
        chunks = len(whole) - codecs.index_bytes(self.rows)
        if chunks < 0:
            raise self.damaged("scores", shard, f"{len(whole)} bytes are too few for the index of {self.rows} rows")
        try:
            index = codecs.decode_index(whole[chunks:], self.rows)
        except ValueError as error:
            raise self.damaged("scores", shard, error) from error
        stored = index[(index != ABSENT).any(1)]
        # Each by itself first: their sum may wrap.
        if (stored > chunks).any() or (stored.sum(1) > chunks).any():
            raise self.damaged("scores", shard, "its index points outside the file")
        return index

    def _raw(self, name: str, shard: int) -> NDArray[Any]:
        spec, whole = self.arrays[name], self._mapped(name, shard)
        try:
            content = codecs.CRC32C.content(whole, self.rows * spec.row_bytes())
        except ValueError as error:
            raise self.damaged(name, shard, error) from error
        return np.frombuffer(content, spec.little).reshape(self.rows, *spec.tail)

    def _mapped(self, name: str, shard: int) -> NDArray[np.uint8]:
        """A file's bytes, mapped; unlike mmap before Python 3.13, torch keeps no descriptor for it."""
        path = self.path(name, shard)
        try:
            with os.fdopen(open_regular(path, self.arrays[name].most_bytes(self.rows)), "rb") as file:
                size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise self.damaged(name, shard, "it is empty")
            mapped: NDArray[np.uint8] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        except OSError as error:
            raise self.unreadable(name, shard, error) from error
        except (RuntimeError, ValueError) as error:
            raise self.damaged(name, shard, error) from error
        mapped.flags.writeable = False
        return mapped
