"""Encoded images, and what a source of them says of itself."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relabel.errors import ImageError, SourceError
from relabel.manifest import DataRecord, Kind, fingerprint
from relabel.plan import ShardTask, plan

NOT_UTF8 = "its name is not valid UTF-8, and a store keeps no other; rename it"
MAX_BYTES = 1 << 30
"""Of one image: five times the pixels that are decoded at most. A larger one is not read, for a few would fill the
memory."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as it is stored: its key, its bytes, and its ground truth class, -1 where unknown.

    `error` says why there are no bytes, "" where there are: that image alone has failed, and the others are read.
    """

    key: str
    data: bytes
    label: int
    error: str = ""

    def encoded(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: there are none, as `error` says.
        """
        if self.error:
            raise ImageError(self.error)
        return self.data

    @property
    def image_hash(self) -> int:
        """`image_hash` of its bytes; 0 where there are none, as wherever a store does not know them."""
        return 0 if self.error else image_hash(self.data)


@dataclass(frozen=True, slots=True)
class SourcePart:
    """A part of a source, and its keys in reading order. `name` says nothing of where the part lies."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source is, once its keys were read.

    Attributes:
        tasks: the shards that it is cut into.
        record: what the manifest says of it.
        fingerprints: the digest of each task's keys; empty, as are `parts` and the record's counts, where reading the
            keys was skipped, and then a task's count is an upper bound.
        parts: the keys.
        left_out: how many files are no images of it, or not quite, by what they are: a suffix, as a rule.
        most_label: the largest ground truth; -1 where there is none, or none is known.
    """

    tasks: tuple[ShardTask, ...]
    record: DataRecord
    fingerprints: tuple[str, ...]
    parts: tuple[SourcePart, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    most_label: int = -1

    @classmethod
    def of(
        cls,
        kind: Kind,
        parts: tuple[SourcePart, ...],
        rows_per_shard: int | None,
        class_names: tuple[str, ...] | None = None,
    ) -> Listing:
        """Cut parts into shards of at most so many rows; with None, a part is a shard of its own name."""
        tasks = plan([(part.name, len(part.keys)) for part in parts], rows_per_shard=rows_per_shard)
        keys = tuple(key for part in parts for key in part.keys)
        ends = itertools.accumulate(task.count for task in tasks)
        record = DataRecord(
            kind=kind,
            shards=tuple(
                t.source if rows_per_shard is None else f"images {t.first} to {t.first + t.count}" for t in tasks
            ),
            counts=tuple(task.count for task in tasks),
            rows_per_shard=max(task.count for task in tasks),
            fingerprint=fingerprint(keys),
            class_names=class_names,
        )
        prints = tuple(fingerprint(keys[end - task.count : end]) for task, end in zip(tasks, ends, strict=True))
        return cls(tasks, record, prints, parts)

    def keys(self) -> Iterator[str]:
        """All keys in their order; none where reading them was skipped."""
        return (key for part in self.parts for key in part.keys)


Span = tuple[str, int, int]
"""A part, the number of an image in it, and how many from there on: what `ImageSource.read` takes."""


class ImageSource(Protocol):
    """Images with keys, in an order: a folder, tars, or whatever answers these."""

    @property
    def root_name(self) -> str:
        """The name of the folder that keys are relative to, "" where there is none."""

    @property
    def reading(self) -> str:
        """The tar or image that is read at this moment, of several the first begun; "" where none is."""

    def stop(self) -> None:
        """End all reads that are under way, from any thread; what comes later is read as ever."""

    def listing(self, rows_per_shard: int | None, *, workers: int, progress: Callable[[int], None]) -> Listing:
        """Every part's keys, and the shards of at most `rows_per_shard` that they make (None: as the source has it).

        Tars that are given a number are not listed, and a shard is a tar of at most so many images. `progress` is
        called with the number of images just found, from many threads at once.

        Raises:
            SourceError: a part is damaged or empty, or a key stands twice; all such are named.
        """

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """At most `count` images of a part from number `first` on, in the order of the listing.

        One that cannot be read says so itself, in its `error`.

        Raises:
            SourceError: the part cannot be read to its end, holds a key twice, or is longer than `first` + `count`
                where it was never listed.
        """

    def spans(self, class_names: tuple[str, ...] | None) -> list[Iterable[Span]]:
        """All images, cut for threads: each takes one item, whose spans fail one by one.

        `class_names` are those of the store that they are to be compared with, for a source that knows its own only
        once it is listed.

        Raises:
            SourceError: they cannot be listed.
        """

    def find(self, wanted: Mapping[str, str], unread: Callable[[SourceError], None]) -> Iterator[EncodedImage]:
        """The images of some keys, each once and in any order, wherever they are by now; those that are not are left
        out. `wanted` says of each key which shard it was in; `unread` is told of what could not be read."""


def image_hash(data: bytes) -> int:
    """A 64-bit digest of an encoded image: blake2b of 8 bytes, little endian."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_utf8(name: str) -> bool:
    """Whether a name, as the operating system gave it, has UTF-8 bytes: a store keeps no other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(name: str) -> str:
    """A name with what is no UTF-8 in it written as ``\\udce9``, so that a failed row can say whose it is."""
    return name.encode(errors="backslashreplace").decode()
