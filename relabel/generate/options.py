"""What a run is asked for, and what it did."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from relabel.errors import InvalidValueError
from relabel.manifest import CodeType, Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How a store is generated; the teacher and its preprocessing have types of their own.

    Attributes:
        planes: K, classes kept as planes.
        profile: M, further classes kept as offsets.
        samples_per_shard: for a folder, the images of a shard (None is 4,096); for tars, the most images of a tar, and
            the listing pass is skipped.
        batch_size: the most images of a forward pass.
        workers: threads that decode and resize; None is one a core.
        rank, world_size: this process among the run's processes.
        max_failures: the fraction of failed images, of those that this run labelled, up to which it counts as good.
        dtype, compression: the coding of scores in the store.
        show_progress: bars on stderr.
    """

    planes: int = 16
    profile: int = 64
    samples_per_shard: int | None = None
    batch_size: int = 64
    workers: int | None = None
    rank: int = 0
    world_size: int = 1
    max_failures: float = 0.01
    dtype: CodeType = "uint8"
    compression: Compression = "zstd"
    show_progress: bool = True

    def __post_init__(self) -> None:
        at_least = {"planes": 1, "profile": 0, "batch_size": 1, "samples_per_shard": 1, "workers": 1, "world_size": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidValueError(f"{name} must be at least {least}; got {value}")
        if not 0 <= self.rank < self.world_size:
            raise InvalidValueError(f"rank must lie in [0, {self.world_size}); got {self.rank}")
        if not 0 <= self.max_failures <= 1:
            raise InvalidValueError(f"max_failures is a fraction in [0, 1]; got {self.max_failures}")

    @property
    def decode_threads(self) -> int:
        """`workers`, or the cores that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Failure:
    """An image without a label (`key` set), or a whole shard that was not published (`key` empty), and why."""

    shard: int
    key: str
    reason: str


@dataclass(slots=True)
class Waits:
    """Seconds that the run's main thread spent waiting for each stage."""

    data: float = 0.0
    device: float = 0.0
    disk: float = 0.0

    @contextlib.contextmanager
    def on(self, stage: Literal["data", "device", "disk"]) -> Iterator[None]:
        """Count the time inside the `with` block as waiting for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - started)

    def shares(self, seconds: float) -> dict[str, float]:
        """Each wait as a fraction of `seconds`."""
        return {name: getattr(self, name) / max(seconds, 1e-9) for name in ("data", "device", "disk")}

    def note(self, seconds: float) -> str:
        """The same for a person."""
        return "waiting for " + ", ".join(f"{name} {share:.0%}" for name, share in self.shares(seconds).items())


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSummary:
    """What one process of a run did.

    `images` and the failures with a key are those of the shards it published; `images_earlier` and `failed_earlier`
    count those of its shards that were there already. `seconds` counts from the first image read, without loading and
    listing.
    """

    shards: int
    shards_skipped: int
    shards_published: int
    images: int
    failures: tuple[Failure, ...]
    seconds: float
    waits: Waits = field(default_factory=Waits)
    max_failures: float = 0.01
    failed_earlier: int = 0
    images_earlier: int = field(default=0, compare=False)

    @property
    def images_per_second(self) -> float:
        """Images of published shards over `seconds`."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def is_good(self) -> bool:
        """Whether every shard was published and at most `max_failures` of its images failed, now or earlier."""
        failed_images = sum(1 for f in self.failures if f.key)
        every = max(self.images + self.images_earlier, 1)
        return failed_images == len(self.failures) and failed_images + self.failed_earlier <= self.max_failures * every
