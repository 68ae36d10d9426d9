"""The files of one shard, as a reader sees them: mapped where rows are looked up one by one, else decoded whole."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, StoreError
from relabel.store import codecs
from relabel.store.descriptors import OpenFile
from relabel.store.digest import ENDS_BYTES
from relabel.store.files import ForbiddenError, ScarceError, StoreFiles, read_bytes, unreadable
from relabel.store.layout import ABSENT, ArraySpec

MAPPED = ("scores", "classes", "profile", "checksum")
"""The arrays whose files are mapped, four mappings a shard."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class LostFileError(DamagedStoreError):
    """A file that is not there: lost, or, if it was there before, taken away under the reader."""


class Ends(NamedTuple):
    """A file's length, its first and its last `ENDS_BYTES`, and its stamp."""

    length: int
    data: bytes
    stamp: int


def stamp_of(path: Path | str) -> int:
    """A number that a file of this name keeps until another takes its place, or it is changed; 0 where there is none.

    One that is other says nothing: a change of its permissions or a copy of the store has another, too.
    """
    try:
        return _stamp(os.stat(path))  # noqa: PTH116 - as text, see `ShardFiles.around_number`
    except OSError:
        return 0


def _stamp(status: os.stat_result) -> int:
    # Whole numbers have the same hash in every process.
    return hash((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@dataclass(frozen=True, slots=True, eq=False)
class MappedShard:
    """What a shard knows of its R rows besides the maps themselves.

    The index and the arrays are views of the files, whose pages all processes share.

    Attributes:
        index: (R, 2) uint64, offset and length of each row's inner chunk of `scores`; `ABSENT` where there is none.
        classes: (R, K + M).
        profile: (R, M + 1) int8.
        checksum: (R,) uint32, the checksum that each row's inner chunk ends in; 0 where there is none.
        footprint: (R, 4) float32, or None where the manifest has one for all.
    """

    index: NDArray[np.uint64]
    classes: NDArray[Any]
    profile: NDArray[np.int8]
    checksum: NDArray[np.uint32]
    footprint: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Reads shards of R rows; every method raises DamagedStoreError where a file is missing, cut or changed."""

    files: StoreFiles
    arrays: dict[str, ArraySpec]
    rows: int

    def map(self, shard: int, *, is_sound: bool) -> MappedShard:
        """Map the index and the arrays that rows are looked up in, and check them unless they were found sound."""
        return MappedShard(
            index=self._index(shard, is_sound),
            classes=self._raw("classes", shard, is_sound),
            profile=self._raw("profile", shard, is_sound),
            checksum=self._raw("checksum", shard, is_sound),
            footprint=self.column("footprint", shard) if "footprint" in self.arrays else None,
        )

    def open(self, shard: int) -> OpenFile:
        """A shard's file of score maps, to be read row by row."""
        try:
            return OpenFile(self.path("scores", shard))
        except OSError as error:
            raise self.unreadable("scores", shard, error) from error

    def ends(self, name: str, shard: int) -> Ends:
        """The ends of a shard's file of an array."""
        try:
            file = OpenFile(self.path(name, shard))
            status = os.fstat(file.descriptor)
            first = file.read(ENDS_BYTES, 0)
            last = file.read(ENDS_BYTES, status.st_size - ENDS_BYTES) if status.st_size > ENDS_BYTES else first
        except OSError as error:
            raise self.unreadable(name, shard, error) from error
        return Ends(status.st_size, first + last, _stamp(status))

    def refresh(self, shards: Sequence[int], *, anew: bool = False) -> list[bool]:
        """See `StoreFiles.refresh`."""
        others = self.arrays.keys() - {"digest"}
        files = [[self._file(name, shard) for name in ("digest", *others)] for shard in shards]
        return self.files.refresh(files, self.arrays["digest"].most_bytes(self.rows), anew=anew)

    def stamp(self, name: str, shard: int) -> int:
        """`stamp_of` a shard's file of an array."""
        return stamp_of(self.path(name, shard))

    def around_number(self, name: str) -> tuple[str, str]:
        """What the path of an array's file, in a folder, says before and after the shard's number.

        As text: it is asked for of each shard each second, and a Path takes longer to make than the system to answer.
        """
        before, _, after = self.arrays[name].file_name(0).partition("0")
        return f"{self.files.where}/{name}/{before}", after

    def column(self, name: str, shard: int) -> Any:
        """A shard of an array that is one chunk a shard: (R, *tail), (1, *tail) if not `per_row`, or R strings."""
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
                column = np.frombuffer(content, spec.little).reshape(-1, *spec.tail).astype(spec.dtype)
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
        what = unreadable(f"cannot read {self._file(name, shard)}", error)
        if isinstance(what, (ScarceError, ForbiddenError)):
            return what
        if error.errno in (errno.EINVAL, errno.EFBIG):
            return self.damaged(name, shard, error.strerror)
        # A link that leads nowhere is there, and was when the store was opened.
        is_gone = error.errno in _GONE and not (error.filename and Path(error.filename).is_symlink())
        return (LostFileError if is_gone else DamagedStoreError)(f"{self.files.where}: {what}. {self.files.repair}")

    def foreign(self, shard: int) -> DamagedStoreError:
        """The error for a shard whose files do not belong together or to the store, to be raised."""
        try:
            # Of a file that is not even whole that is what should be said.
            self.map(shard, is_sound=False)
            for name in self.arrays.keys() - MAPPED:
                self.column(name, shard)
        except DamagedStoreError as error:
            return error
        return DamagedStoreError(
            f"{self.files.where}: the files of shard {shard} do not belong together, or not to this store: one of them "
            f"is of another shard, of another run or of another store, or was changed. {self.files.repair}"
        )

    def _file(self, name: str, shard: int) -> str:
        return f"{name}/{self.arrays[name].file_name(shard)}"

    def _index(self, shard: int, is_sound: bool) -> NDArray[np.uint64]:
        whole = self._mapped("scores", shard)
        chunks = len(whole) - codecs.index_bytes(self.rows)
        if chunks < 0:
            raise self.damaged("scores", shard, f"{len(whole)} bytes are too few for the index of {self.rows} rows")
        try:
            if is_sound:
                return codecs.index_of(whole[chunks:-4], self.rows)
            index = codecs.decode_index(whole[chunks:], self.rows)
        except ValueError as error:
            raise self.damaged("scores", shard, error) from error
        stored = index[(index != ABSENT).any(1)]
        # Each by itself first: their sum may wrap.
        if (stored > chunks).any() or (stored.sum(1) > chunks).any():
            raise self.damaged("scores", shard, "its index points outside the file")
        return index

    def _raw(self, name: str, shard: int, is_sound: bool) -> NDArray[Any]:
        spec, whole = self.arrays[name], self._mapped(name, shard)
        try:
            content = whole[:-4] if is_sound else codecs.CRC32C.content(whole, self.rows * spec.row_bytes())
            return np.frombuffer(content, spec.little).reshape(self.rows, *spec.tail)
        except ValueError as error:
            raise self.damaged(name, shard, error) from error

    def _mapped(self, name: str, shard: int) -> NDArray[np.uint8]:
        """A file's bytes, mapped; unlike mmap before Python 3.13, torch keeps no descriptor for it."""
        path, most = self.path(name, shard), self.arrays[name].most_bytes(self.rows)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise self.damaged(name, shard, "it is no regular file")
            if not 0 < status.st_size <= most:
                raise self.damaged(name, shard, f"it has {status.st_size} bytes, and 1 to {most} belong there")
            whole = torch.from_file(str(path), shared=False, size=status.st_size, dtype=torch.uint8)
        except OSError as error:
            raise self.unreadable(name, shard, error) from error
        except (RuntimeError, ValueError) as error:
            raise self._unmapped(name, shard, error) from error
        mapped: NDArray[np.uint8] = whole.numpy()
        mapped.flags.writeable = False
        return mapped

    def _unmapped(self, name: str, shard: int, error: Exception) -> StoreError:
        """The error for a file that torch cannot map, which tells the system's own only at the end of its text."""
        number = re.search(r"\((\d+)\)$", str(error))
        if number is None:
            return self.damaged(name, shard, error)
        return self.unreadable(name, shard, OSError(int(number[1]), os.strerror(int(number[1]))))
