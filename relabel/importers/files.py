"""The files of a published archive, read without trusting them; runs in processes of its own.

One file is one image: a tensor (2, k, H, W). Its first half is the logits of the k best classes of each cell, its
second half their ids, as floats.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import ImageError
from relabel.paths import read_regular

MAX_BYTES = 1 << 23
"""Of a file: 100 times the largest that was ever published. A larger one is no map, and may unpack to anything."""
_MAX_NUMBERS = 1 << 22
_MOST_UNPACKED = 4
"""Times `MAX_BYTES`; torch itself compresses nothing."""
_LARGEST_HALF = float(np.finfo(np.float16).max)
_DIGEST_BYTES = 16
_loading = threading.Lock()
"""Python's filter of warnings is the process's; and two threads would load no faster than one."""


class MapKind(NamedTuple):
    """What a file holds: its dtype's name, k, and the last two axes as they are stored."""

    dtype: str
    top: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the tensor."""
        return 2, self.top, self.rows, self.columns


class Files(NamedTuple):
    """Some files of an archive: paths below its folder, "" where an image has none; C, the classes of its teacher."""

    folder: str
    names: Sequence[str]
    num_classes: int


@dataclass(slots=True)
class LoadedFiles:
    """What some files hold.

    Attributes:
        reasons: for each name, why it is no map; "" for a map, and where there is no name.
        places: by kind, which of the names have it.
        maps: by kind, (n, 2, k, rows, columns) float32.
        digest: of the files' names and bytes, to be added up modulo 2^128, in any order.
    """

    reasons: list[str]
    places: dict[MapKind, list[int]] = field(default_factory=dict)
    maps: dict[MapKind, NDArray[np.float32]] = field(default_factory=dict)
    digest: int = 0


@dataclass(slots=True)
class Scan:
    """What a look at files found; two of them can be added.

    Attributes:
        files: how many were looked at.
        kinds: how many of them are maps of each kind.
        most: for each kind, the most classes that any one map lists.
        listed: the classes that the maps list, all of them together.
        digest: see `LoadedFiles`.
        reasons: why files are no maps: up to a few examples.
    """

    files: int = 0
    kinds: Counter[MapKind] = field(default_factory=Counter)
    most: dict[MapKind, int] = field(default_factory=dict)
    listed: int = 0
    digest: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, other: Scan) -> None:
        """Take in another look, at other files."""
        self.files += other.files
        self.kinds += other.kinds
        self.listed += other.listed
        self.digest = added(self.digest, other.digest)
        self.reasons = (self.reasons + other.reasons)[:3]
        for kind, most in other.most.items():
            self.most[kind] = max(most, self.most.get(kind, 0))


def scan(files: Files) -> Scan:
    """Look at files, for what a store of them would be."""
    loaded = load(files)
    reasons = [reason for reason in loaded.reasons if reason]
    found = Scan(files=sum(map(bool, files.names)), digest=loaded.digest, reasons=reasons[:3])
    for kind, maps in loaded.maps.items():
        # (n, C): whether any cell of a map lists a class.
        listed = np.zeros((len(maps), files.num_classes), np.bool_)
        np.put_along_axis(listed, maps[:, 1].reshape(len(maps), -1).astype(np.int64), True, axis=1)
        counts = listed.sum(axis=1)
        found.kinds[kind] = len(maps)
        found.most[kind] = int(counts.max())
        found.listed += int(counts.sum())
    return found


def added(first: int, second: int) -> int:
    """The digest of two sets of files."""
    return (first + second) % (1 << 8 * _DIGEST_BYTES)


def load(files: Files) -> LoadedFiles:
    """Read and check files; what is wrong with one is said, and the others are read all the same."""
    loaded = LoadedFiles([""] * len(files.names))
    tensors: dict[MapKind, list[NDArray[np.float32]]] = {}
    for place, name in enumerate(files.names):
        if not name:
            continue
        try:
            data = _bytes(Path(files.folder) / name)
            loaded.digest = added(loaded.digest, _digest(name, data))
            kind, array = _read(data, files.num_classes)
        except ImageError as error:
            loaded.reasons[place] = f"{name}: {error}"
            continue
        loaded.places.setdefault(kind, []).append(place)
        tensors.setdefault(kind, []).append(array)
    for kind, arrays in tensors.items():
        maps = np.stack(arrays)
        wrong = content_faults(maps, files.num_classes)
        places = loaded.places[kind]
        for index, what in wrong.items():
            loaded.reasons[places[index]] = f"{files.names[places[index]]}: {what}"
        good = [index for index in range(len(maps)) if index not in wrong]
        if good:
            loaded.maps[kind] = maps[good] if wrong else maps
            loaded.places[kind] = [places[index] for index in good]
        else:
            del loaded.places[kind]
    return loaded


def content_faults(maps: NDArray[np.float32], num_classes: int) -> dict[int, str]:
    """Number in the batch to what is wrong with it, of maps (n, 2, k, H, W)."""
    scores, ids = maps[:, 0], maps[:, 1]
    # Comparisons with NaN are false, so each of these is the sound case.
    sound = {
        "its scores are not finite (NaN or infinity)": np.isfinite(scores),
        "a score is too large for float16, which a store keeps": ~(np.abs(scores) > _LARGEST_HALF),
        f"a class id is no whole number from 0 to {num_classes - 1}": (ids == np.rint(ids))
        & (ids >= 0)
        & (ids < num_classes),
        "a cell lists a class twice": np.diff(np.sort(ids, axis=1), axis=1) != 0,
    }
    faults: dict[int, str] = {}
    for what, cells in sound.items():
        for index in np.flatnonzero(~cells.reshape(len(maps), -1).all(axis=1)).tolist():
            faults.setdefault(index, what)
    return faults


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error


def _digest(name: str, data: bytes) -> int:
    content = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
    named = hashlib.blake2b(content + name.encode(), digest_size=_DIGEST_BYTES)
    return int.from_bytes(named.digest(), "little")


def _read(data: bytes, num_classes: int) -> tuple[MapKind, NDArray[np.float32]]:
    """A file's kind and its numbers, (2, k, H, W) float32, whatever their strides were."""
    value = _loaded(data)
    try:
        return _map(value, num_classes)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Of the dozens of kinds of tensors that torch saves, some have no shape or no numbers to be looked at.
        raise ImageError(f"a tensor that cannot be read ({type(error).__name__})") from error


def _map(value: Any, num_classes: int) -> tuple[MapKind, NDArray[np.float32]]:
    if not isinstance(value, Tensor):
        raise ImageError(f"holds a {type(value).__name__}, not a tensor (2, k, H, W)")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ImageError("not a dense tensor")
    dtype = str(value.dtype).removeprefix("torch.")
    if value.ndim != 4 or value.shape[0] != 2 or 0 in value.shape:
        raise ImageError(f"a tensor {tuple(value.shape)}, not (2, k, H, W)")
    # A view of a few bytes may claim any size.
    if value.numel() > _MAX_NUMBERS or not value.is_floating_point():
        raise ImageError(f"a tensor {tuple(value.shape)} of {dtype}, not floats (2, k, H, W)")
    # Every whole number up to it: 2,048 of float16.
    exact = int(2 / torch.finfo(value.dtype).eps)
    if num_classes > exact:
        raise ImageError(f"class ids of {dtype} are exact up to {exact} only, and there are {num_classes} classes")
    if value.shape[1] > num_classes:
        raise ImageError(f"lists {value.shape[1]} classes at a cell, of {num_classes}")
    array: NDArray[np.float32] = value.detach().resolve_neg().to(torch.float32).contiguous().numpy()
    return MapKind(dtype, *array.shape[1:]), array


def _loaded(data: bytes) -> Any:
    try:
        # torch warns of some files, once or for each; the reason that a row gets must not depend on that.
        with _loading, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _refuse_bomb(data)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text says how to load it all the same, which runs what the file says.
        raise ImageError("damaged, or it holds more than tensors and numbers: not loaded") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Damage leads torch to a dozen kinds of errors, and none of them may end a run over a million files.
        raise ImageError(f"damaged or cut: not a file of torch.save ({type(error).__name__})") from error


def _refuse_bomb(data: bytes) -> None:
    """A zip file of a few kilobytes, as which torch saves, may unpack to any size."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > _MOST_UNPACKED * MAX_BYTES:
            raise ImageError(f"unpacks to {size} bytes, far above any map's; not read")
