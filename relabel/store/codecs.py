"""The codecs of format 1, from the libraries that zarr-python uses itself; loaded at first use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.store.layout import ZSTD_LEVEL


@functools.cache
def crc32c() -> Callable[[Any], int]:
    """A function from bytes to their crc32c."""
    import google_crc32c

    value: Callable[[Any], int] = google_crc32c.value
    return value


@functools.cache
def zstd_compress() -> Callable[[Any], bytes]:
    """A function from bytes to a zstd frame with a checksum; safe in threads."""
    from numcodecs.zstd import compress

    return functools.partial(compress, level=ZSTD_LEVEL, checksum=True)


@functools.cache
def zstd_decompress() -> Callable[..., Any]:
    """``decompress(frame, into=None)``; raises RuntimeError where the frame or its checksum is wrong."""
    from numcodecs.zstd import decompress

    into: Callable[..., Any] = decompress
    return into


def with_crc32c(data: bytes) -> bytes:
    """The data, then its crc32c in 4 bytes, little endian."""
    return data + crc32c()(data).to_bytes(4, "little")


def encode_strings(values: Sequence[str]) -> bytes:
    """vlen-utf8: the number of strings, then each one's length in bytes and its bytes; 4-byte little endian numbers."""
    parts = [len(values).to_bytes(4, "little")]
    for value in values:
        encoded = value.encode()
        parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)


def decode_strings(data: bytes) -> NDArray[np.object_]:
    """The inverse of `encode_strings`; raises ValueError where the data is damaged."""
    from numcodecs.vlen import VLenUTF8

    decoded: NDArray[np.object_] = VLenUTF8().decode(data)
    return decoded
