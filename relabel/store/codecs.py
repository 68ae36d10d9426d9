"""The codecs of format 1, a class each, from the libraries that zarr-python uses itself; loaded at first use."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relabel.manifest import MOST_SHARD_BYTES, Compression

_ZSTD_LEVEL = 3
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_FLAGS, _ZSTD_CHECKSUM = 0b0001_1100, 0b0000_0100
"""In a frame's descriptor: the bits that format 1 fixes, and of those the one that is set."""
DECODING_ERRORS = (RuntimeError, ValueError, OverflowError, SystemError)
"""What the codecs raise on damaged data. Not MemoryError: no more is asked for than what belongs there."""
MOST_TEXT_BYTES = 1 << 16
"""Of a string. Paths end at 4,096 bytes and names in tars a little later; what is longer is no key."""
_ZSTD_BLOCK = 1 << 17
_MOST_BLOCKS = 1 << 16
"""What a block of a frame may become, and how many are counted where a frame does not say how long its content is."""
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


class Codec(Protocol):
    """How bytes of an array become a chunk that carries its own checksum, and back.

    `metadata` is the codec's entry in an array's zarr.json, behind that of `bytes`.
    """

    metadata: dict[str, Any]

    def encode(self, data: bytes) -> bytes:
        """A chunk; called in threads."""

    def most_bytes(self, length: int) -> int:
        """The most bytes that the chunk of so many bytes can have."""

    def content(self, chunk: Any, length: int | None = None, most: int = MOST_SHARD_BYTES) -> Any:
        """A chunk's bytes, which must have that length if one is given, and never more than `most`.

        No more memory is taken, whatever the chunk says. Raises one of `DECODING_ERRORS`.
        """

    def decode(self, chunks: Sequence[bytes], into: NDArray[Any]) -> None:
        """Decode n chunks into the n rows of an array; raises one of `DECODING_ERRORS`."""

    def check(self, chunks: Sequence[bytes]) -> None:
        """Raise ValueError where `decode` may read one of them and format 1 does not write it."""


class _Zstd:
    """A zstd frame with its content's checksum."""

    metadata: dict[str, Any] = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": True}}  # noqa: RUF012

    def encode(self, data: bytes) -> bytes:
        frame: bytes = _numcodecs().zstd.compress(data, level=_ZSTD_LEVEL, checksum=True)
        return frame

    def most_bytes(self, length: int) -> int:
        """What does not compress grows by 3 bytes a block, and other writers make more blocks than they need."""
        return length + (length >> 6) + 1024

    def content(self, chunk: Any, length: int | None = None, most: int = MOST_SHARD_BYTES) -> bytearray | bytes:
        told = _told_length(chunk)
        if told is not None and length is not None and told != length:
            raise ValueError(f"{told} bytes instead of {length}")
        wanted = told if length is None else length
        if (asked := _most_content(chunk) if wanted is None else wanted) > most:
            raise ValueError(f"its content may take {asked} bytes, and at most {most} belong there")
        if wanted is None:
            content: bytes = _numcodecs().zstd.decompress(chunk)
            return content
        # Not numcodecs' own buffer, which is as long as all frames together say that they are.
        into = bytearray(wanted)
        _numcodecs().zstd.decompress(chunk, into)
        return into

    def decode(self, chunks: Sequence[bytes], into: NDArray[Any]) -> None:
        """Decode them together.

        zstd takes frames one behind another as one message, and so makes its context once and not n times, which takes
        as long as the decoding. numcodecs trusts the length of the first frame; behind one without a length it takes
        the array's. So that no row can slide into the next, every frame must say that it has the length of a row.
        """
        length = into[:1].nbytes
        if chunks and all(map(bytes.startswith, chunks, itertools.repeat(_frame_header(length)))):
            _numcodecs().zstd.decompress(b"".join([_EMPTY_FRAME, *chunks]), into)
            return
        for chunk, row in zip(chunks, into, strict=True):
            # Other writers may leave the length out; and into a larger array numcodecs decodes a shorter one silently.
            row.reshape(-1).view(np.uint8)[:] = np.frombuffer(self.content(chunk, length), np.uint8)

    def check(self, chunks: Sequence[bytes]) -> None:
        """A decoder lets pass a frame without a checksum, and a bit of its header."""
        heads = {chunk[:5] for chunk in chunks}
        if not all(len(h) == 5 and h[:4] == _ZSTD_MAGIC and h[4] & _ZSTD_FLAGS == _ZSTD_CHECKSUM for h in heads):
            raise ValueError("it is not a zstd frame with a checksum")


class _Crc32c:
    """The bytes themselves, and behind them their crc32c in 4 bytes, little endian."""

    metadata: dict[str, Any] = {"name": "crc32c"}  # noqa: RUF012

    def encode(self, data: bytes) -> bytes:
        return data + crc32c()(data).to_bytes(4, "little")

    def most_bytes(self, length: int) -> int:
        """Which is exactly what it has."""
        return length + 4

    def content(self, chunk: Any, length: int | None = None, most: int = MOST_SHARD_BYTES) -> Any:
        """A view where the chunk is an array."""
        if length is not None and len(chunk) != self.most_bytes(length):
            raise ValueError(f"{len(chunk)} bytes instead of {self.most_bytes(length)}")
        if len(chunk) < 4 or crc32c()(chunk) != _CRC32C_RESIDUE:
            raise ValueError("its checksum does not agree")
        return chunk[:-4]

    def decode(self, chunks: Sequence[bytes], into: NDArray[Any]) -> None:
        length = into[:1].nbytes
        data = np.frombuffer(b"".join([self.content(chunk, length) for chunk in chunks]), np.uint8)
        into.reshape(len(chunks), -1).view(np.uint8)[:] = data.reshape(len(chunks), length)

    def check(self, chunks: Sequence[bytes]) -> None:
        """There is no other way to write it."""


ZSTD, CRC32C = _Zstd(), _Crc32c()
CODECS: dict[Compression, Codec] = {"zstd": ZSTD, "none": CRC32C}
"""Of score maps, by the name of the compression in the manifest."""


def checksums_of(chunks: Sequence[bytes]) -> NDArray[np.uint32]:
    """(n,) the checksums that chunks carry as their last 4 bytes: both codecs', of what is in them."""
    return np.frombuffer(b"".join([chunk[-4:] for chunk in chunks]), "<u4")


ENTRY_BYTES = 16
"""Of a row in a shard's index: the offset and the length of its inner chunk, 8 bytes each."""


def index_bytes(rows: int) -> int:
    """The length of the index of so many rows, which is the end of a file of score maps."""
    return CRC32C.most_bytes(ENTRY_BYTES * rows)


def encode_index(index: NDArray[np.uint64]) -> bytes:
    """The offset and the length of each row's inner chunk, (R, 2), and their checksum."""
    return CRC32C.encode(index.astype("<u8").tobytes())


def decode_index(end: Any, rows: int) -> NDArray[np.uint64]:
    """The inverse, (R, 2), a view; raises ValueError where the end of the file is damaged."""
    return index_of(CRC32C.content(end, ENTRY_BYTES * rows), rows)


def index_of(entries: Any, rows: int) -> NDArray[np.uint64]:
    """The same of the end of a file without its checksum, which was found right before."""
    index: NDArray[np.uint64] = np.frombuffer(entries, "<u8").reshape(rows, 2)
    return index


def encode_strings(values: Sequence[str]) -> bytes:
    """vlen-utf8: the number of strings, then each one's length in bytes and its bytes; 4-byte little endian numbers."""
    parts = [len(values).to_bytes(4, "little")]
    for value in values:
        encoded = value.encode()
        parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)


def decode_strings(data: bytes, rows: int) -> NDArray[np.object_]:
    """The inverse of `encode_strings`, (rows,); raises ValueError where the data is damaged."""
    # The decoder makes room for as many as the data says.
    if (count := int.from_bytes(data[:4], "little")) != rows:
        raise ValueError(f"{count} strings for {rows} rows")
    decoded: NDArray[np.object_] = _numcodecs().vlen.VLenUTF8().decode(data)
    if (longest := max(map(len, decoded.tolist()), default=0)) > MOST_TEXT_BYTES:
        raise ValueError(f"a text of {longest} characters, and at most {MOST_TEXT_BYTES} bytes belong there")
    return decoded


def text_bytes(rows: int) -> int:
    """The most bytes that so many strings may be encoded as."""
    return min(4 + rows * (4 + MOST_TEXT_BYTES), MOST_SHARD_BYTES)


def _told_length(frame: Any) -> int | None:
    """How long the header of a zstd frame says that its content is; None where it does not say."""
    head = bytes(frame[:18])
    start = _length_start(head)
    # Two bytes count from 256 on, for shorter content takes one.
    count = (head[4] >> 5 & 1, 2, 4, 8)[head[4] >> 6]
    return int.from_bytes(head[start : start + count], "little") + (256 if count == 2 else 0) if count else None


def _length_start(head: bytes) -> int:
    """Where a frame's header tells its content's length, or would: behind its flags, its window and its dictionary."""
    if len(head) < 6 or not head.startswith(_ZSTD_MAGIC):
        raise ValueError("it is not a zstd frame")
    return 5 + (not head[4] >> 5 & 1) + (0, 1, 2, 4)[head[4] & 3]


def _most_content(frame: Any) -> int:
    """The most that a frame without a length, and what follows it, may become: its blocks say that."""
    place, most = _length_start(bytes(frame[:18])), 0
    for _ in range(_MOST_BLOCKS):
        header = int.from_bytes(bytes(frame[place : place + 3]), "little")
        kind, size = header >> 1 & 3, header >> 3
        most += size if kind < 2 else _ZSTD_BLOCK
        place += 3 + (1 if kind == 1 else size)
        if header & 1:
            # The checksum of the content; and another frame behind it is none that a writer of strings makes.
            return most if len(frame) <= place + 4 else sys.maxsize
    return sys.maxsize


@functools.lru_cache(4)
def _frame_header(length: int) -> bytes:
    """How a frame of that much content begins: magic number, flags (with a checksum), perhaps a window, the length."""
    frame = ZSTD.encode(bytes(length))
    return frame[: _length_start(frame) + (frame[4] >> 5 & 1, 2, 4, 8)[frame[4] >> 6]]
