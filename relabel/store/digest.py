"""What binds the files of a shard to each other, to the shard's number and to the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

ENDS_BYTES = 4096
"""Of each end of a file: a page, which holds the beginning of the first row and every file's own checksum."""


def shard_digest(identity: bytes, shard: int, files: Iterable[tuple[str, bytes]]) -> NDArray[np.uint8]:
    """(2, 32): the digest of all bytes of a shard's files, and one of their lengths and ends, for a few small reads.

    Each is a sha256 of the manifest's identity, the shard's number, and for each file of the shard in the order of its
    arrays, `digest` left out: the array's name, a zero byte, the file's length, and the sha256 of all of it, or of its
    first and its last 4,096 bytes. Numbers are 8 bytes, little endian.

    Args:
        identity: 32 bytes, `Manifest.identity`.
        shard: its number.
        files: (array, bytes of the file), in the order of `arrays_of`.
    """
    digests = [hashlib.sha256(identity + _number(shard)) for _ in range(2)]
    for name, data in files:
        for digest, part in zip(digests, (data, data[:ENDS_BYTES] + data[-ENDS_BYTES:]), strict=True):
            digest.update(name.encode() + b"\0" + _number(len(data)) + hashlib.sha256(part).digest())
    return np.frombuffer(b"".join(digest.digest() for digest in digests), np.uint8).reshape(2, 32)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")
