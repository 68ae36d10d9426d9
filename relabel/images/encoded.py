"""Encoded images and what every source of them can do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

IMAGE_EXTENSIONS = frozenset({"bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"})


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as it is stored: its key, its bytes, and its ground truth class, -1 where unknown."""

    key: str
    data: bytes
    label: int


@dataclass(frozen=True, slots=True)
class SourcePart:
    """A part of a source, and its keys in reading order. `name` says nothing of where the part lies."""

    name: str
    keys: tuple[str, ...]


class ImageSource(Protocol):
    """A folder or a set of tars."""

    @property
    def kind(self) -> Literal["webdataset", "folder"]:
        """Which of the two."""

    def parts(self) -> tuple[str, ...]:
        """The names of the parts, in order, without reading them."""

    def listing(self, *, workers: int, progress: Callable[[int], None]) -> tuple[SourcePart, ...]:
        """Every part's keys; `progress` is called with the number of images just found, from many threads at once.

        Raises:
            SourceError: a part is damaged or empty, or a key stands twice; all such are named.
        """

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """At most `count` images of a part from number `first` on, in the order of the listing.

        Raises:
            SourceError: the part cannot be read to its end, holds a key twice, or is longer than `first` + `count`
                where it was never listed.
        """


def image_hash(data: bytes) -> int:
    """A 64-bit digest of an encoded image: blake2b of 8 bytes, little endian."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's, in any case."""
    _, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in IMAGE_EXTENSIONS


def is_utf8(name: str) -> bool:
    """Whether a name, as the operating system gave it, has UTF-8 bytes: a store keeps no other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
