"""What binds the files of a shard to each other, to the shard's number and to the manifest; and shards to a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError

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
    wholes, ends = [], []
    # One at a time, for they may come from a disk.
    for name, data in files:
        wholes.append((name, len(data), hashlib.sha256(data).digest()))
        ends.append((name, len(data), hashlib.sha256(data[:ENDS_BYTES] + data[-ENDS_BYTES:]).digest()))
    both = [_bound(identity, shard, parts) for parts in (wholes, ends)]
    return np.frombuffer(b"".join(both), np.uint8).reshape(2, 32)


def ends_digest(identity: bytes, shard: int, files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """32 bytes, the second of `shard_digest`, of (array, length of the file, its first and last `ENDS_BYTES`)."""
    return _bound(identity, shard, [(name, length, hashlib.sha256(ends).digest()) for name, length, ends in files])


def store_digest(identity: bytes, shards: NDArray[np.uint8]) -> str:
    """64 hexadecimal digits that two stores share if and only if every byte of what they hold is the same.

    The sha256 of the manifest's identity and of `digest`, (S, 2, 32), as it is stored.
    """
    return hashlib.sha256(identity + shards.tobytes()).hexdigest()


def check_store_digest(digest: str) -> None:
    """Refuse what is no `store_digest`.

    Raises:
        InvalidValueError: it is not 64 hexadecimal digits.
    """
    if re.fullmatch("[0-9a-f]{64}", digest) is None:
        raise InvalidValueError(
            "a store's digest is 64 hexadecimal digits in small letters, as `relabel inspect STORE --digest` prints; "
            f"got {digest[:80]!r}"
        )


def _bound(identity: bytes, shard: int, parts: Iterable[tuple[str, int, bytes]]) -> bytes:
    digest = hashlib.sha256(identity + _number(shard))
    for name, length, part in parts:
        digest.update(name.encode() + b"\0" + _number(length) + part)
    return digest.digest()


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")
