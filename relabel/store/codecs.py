"""The codecs of format 1, from the libraries that zarr-python uses itself; loaded at first use."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.store.layout import ZSTD_LEVEL

DECODING_ERRORS = (RuntimeError, ValueError, OverflowError, MemoryError, SystemError)
"""What the codecs raise on damaged data; a damaged length may ask for more memory than there is."""
# Of a message and the crc32c behind it, whatever the message.
_CRC32C_RESIDUE = 0x48674BC7
# An empty zstd frame that does not say how long its content is.
_EMPTY_FRAME = bytes.fromhex("28b52ffd 00 00 010000")

_IMPORTING = threading.Lock()


@functools.cache
def _numcodecs() -> ModuleType:
    # Its submodules import each other, so two threads that each start with another one fail.
    with _IMPORTING:
        import numcodecs.vlen
        import numcodecs.zstd
    loaded: ModuleType = numcodecs
    return loaded


@functools.cache
def crc32c() -> Callable[[Any], int]:
    """A function from bytes, or a contiguous array, to their crc32c."""
    import google_crc32c

    value: Callable[[Any], int] = google_crc32c.value
    return value


@functools.cache
def zstd_compress() -> Callable[[Any], bytes]:
    """A function from bytes to a zstd frame with a checksum; safe in threads."""
    return functools.partial(_numcodecs().zstd.compress, level=ZSTD_LEVEL, checksum=True)


@functools.cache
def zstd_decompress() -> Callable[..., Any]:
    """``decompress(frame, into=None)``; raises one of `DECODING_ERRORS` where the frame or its checksum is wrong."""
    into: Callable[..., Any] = _numcodecs().zstd.decompress
    return into


def with_crc32c(data: bytes) -> bytes:
    """The data, then its crc32c in 4 bytes, little endian."""
    return data + crc32c()(data).to_bytes(4, "little")


def without_crc32c(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view of the data before the crc32c behind it; raises ValueError where they disagree."""
    if len(data) < 4 or crc32c()(data) != _CRC32C_RESIDUE:
        raise ValueError("its checksum does not agree")
    return data[:-4]


def decode_zstd(frames: Sequence[bytes], into: NDArray[Any]) -> None:
    """Decompress n frames into the n rows of an array; raises one of `DECODING_ERRORS`.

    zstd takes frames one behind another as one message, and so makes its context once and not n times, which takes
    as long as the decoding. numcodecs trusts the length of the first frame; behind one without a length it takes the
    array's. So that no row can slide into the next, every frame must say that it has the length of a row.
    """
    length = into[:1].nbytes
    if frames and all(map(bytes.startswith, frames, itertools.repeat(_frame_header(length)))):
        zstd_decompress()(b"".join([_EMPTY_FRAME, *frames]), into)
        return
    for frame, row in zip(frames, into, strict=True):
        # Other writers may leave the length out; and into a larger array numcodecs decodes a shorter frame silently.
        row.reshape(-1).view(np.uint8)[:] = np.frombuffer(decode_zstd_bytes(frame, length), np.uint8)


def decode_zstd_bytes(frame: Any, length: int) -> bytes:
    """The content of a frame, which must have that length; raises one of `DECODING_ERRORS`."""
    content: bytes = zstd_decompress()(frame)
    if len(content) != length:
        raise ValueError(f"{len(content)} bytes instead of {length}")
    return content


def decode_raw(chunks: Sequence[bytes], into: NDArray[Any]) -> None:
    """Copy n chunks, each with a crc32c behind it, into the n rows of an array; raises ValueError."""
    check, length = crc32c(), into[:1].nbytes + 4
    for chunk in chunks:
        if len(chunk) != length:
            raise ValueError(f"{len(chunk)} bytes instead of {length}")
        if check(chunk) != _CRC32C_RESIDUE:
            raise ValueError("its checksum does not agree")
    data = np.frombuffer(b"".join(chunks), np.uint8).reshape(len(chunks), length)[:, :-4]
    into.reshape(len(chunks), -1).view(np.uint8)[:] = data


def encode_strings(values: Sequence[str]) -> bytes:
    """vlen-utf8: the number of strings, then each one's length in bytes and its bytes; 4-byte little endian numbers."""
    parts = [len(values).to_bytes(4, "little")]
    for value in values:
        encoded = value.encode()
        parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)


def decode_strings(data: bytes) -> NDArray[np.object_]:
    """The inverse of `encode_strings`; raises ValueError where the data is damaged."""
    decoded: NDArray[np.object_] = _numcodecs().vlen.VLenUTF8().decode(data)
    return decoded


@functools.lru_cache(4)
def _frame_header(length: int) -> bytes:
    """How a frame of that much content begins: magic number, flags (with a checksum), perhaps a window, the length."""
    frame = zstd_compress()(bytes(length))
    has_window = not frame[4] >> 5 & 1
    length_bytes = (0 if has_window else 1, 2, 4, 8)[frame[4] >> 6]
    return frame[: 5 + has_window + length_bytes]
