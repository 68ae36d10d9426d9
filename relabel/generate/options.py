"""What a run is asked for, and what it did."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from relabel.errors import InvalidValueError
from relabel.manifest import CodeType, Compression
from relabel.plan import Failure

Stage = Literal["data", "device", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How a store is generated; the teacher and its preprocessing have types of their own.

    Attributes:
        planes: K, classes kept as planes.
        profile: M, further classes kept as offsets.
        samples_per_shard: for a folder, the images of a shard (None is 4,096); for tars, the most images of a tar, and
            the listing pass is skipped.
        batch_size: the most images of a forward pass; "auto" tries which is fastest. It is cut where memory runs out.
            How images are batched moves a teacher's sums in their last bits, so a score may round to the code beside.
        workers: threads that decode and resize; None goes by the cores.
        rank, world_size: this process among the run's processes.
        max_failures: the fraction of failed images, of those that this run labelled, up to which it counts as good.
        retry_failed: label shards again that hold failed images.
        dtype, compression: the coding of scores in the store.
        step: nats a code of uint8 scores, 1/16 to 1.
        show_progress: bars on stderr.
    """

    planes: int = 16
    profile: int = 64
    samples_per_shard: int | None = None
    batch_size: int | Literal["auto"] = 64
    workers: int | None = None
    rank: int = 0
    world_size: int = 1
    max_failures: float = 0.01
    retry_failed: bool = False
    dtype: CodeType = "uint8"
    compression: Compression = "zstd"
    step: float = 1 / 4
    show_progress: bool = True

    def __post_init__(self) -> None:
        at_least = {"planes": 1, "profile": 0, "batch_size": 1, "samples_per_shard": 1, "workers": 1, "world_size": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            if name == "batch_size" and value == "auto":
                continue
            if value is not None and not (isinstance(value, int) and value >= least):
                raise InvalidValueError(f"{name} must be at least {least}; got {value!r}")
        if not 0 <= self.rank < self.world_size:
            raise InvalidValueError(f"rank must lie in [0, {self.world_size}); got {self.rank}")
        if not 0 <= self.max_failures <= 1:
            raise InvalidValueError(f"max_failures is a fraction in [0, 1]; got {self.max_failures}")
        if not 1 / 16 <= self.step <= 1:
            raise InvalidValueError(f"step is the nats of a code, 1/16 to 1; got {self.step}")

    @property
    def listing_threads(self) -> int:
        """`workers`, or the cores that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(slots=True)
class StageSeconds:
    """Seconds of the three stages: reading and decoding, the device, compressing and publishing."""

    data: float = 0.0
    device: float = 0.0
    disk: float = 0.0

    @contextlib.contextmanager
    def on(self, stage: Stage) -> Iterator[None]:
        """Count the time inside the `with` block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - started)

    def shares(self, seconds: float) -> dict[str, float]:
        """Each as a fraction of `seconds`."""
        return {name: getattr(self, name) / max(seconds, 1e-9) for name in get_args(Stage)}

    def note(self, seconds: float) -> str:
        """The same for a person, where they were waited for."""
        return "waiting for " + ", ".join(f"{name} {share:.0%}" for name, share in self.shares(seconds).items())


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSummary:
    """What one process of a run did; or all of them together, where they know of each other.

    `images` and the failures with a key are those of the shards it published; `images_earlier` and `failed_earlier`
    count those of its shards that were there already.

    Attributes:
        failures: the images that failed and the shards that are not published.
        failures_unlisted: failed images of other processes beyond those in `failures`.
        seconds: from the first image read to the last shard, without loading and listing; of several processes, the
            slowest's.
        waits: seconds that the main thread waited for each stage; of several processes, their mean, as is `busy`.
        busy: seconds that each stage was at work: the mean of the decoding threads, the device's forward passes and
            score maps, the thread that compresses and publishes.
        batch_size: the images of a forward pass at most, as found or given; 0 where there was nothing to label.
        fallbacks: images that only a slower decoder could read.
        is_part: another process's summary tells of this share too, so that a command need not print this one, nor end
            with its own verdict: torchrun stops all processes as soon as one says that it failed.
    """

    shards: int
    shards_skipped: int
    shards_published: int
    images: int
    failures: tuple[Failure, ...]
    seconds: float
    waits: StageSeconds = field(default_factory=StageSeconds)
    busy: StageSeconds = field(default_factory=StageSeconds, compare=False)
    max_failures: float = 0.01
    failures_unlisted: int = 0
    failed_earlier: int = 0
    images_earlier: int = field(default=0, compare=False)
    batch_size: int = field(default=0, compare=False)
    fallbacks: int = 0
    is_part: bool = False

    @property
    def images_per_second(self) -> float:
        """Images of published shards over `seconds`."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def is_good(self) -> bool:
        """Whether every shard was published and at most `max_failures` of its images failed, now or earlier."""
        failed_images = sum(1 for f in self.failures if f.key)
        every = max(self.images + self.images_earlier, 1)
        failed = failed_images + self.failures_unlisted + self.failed_earlier
        return failed_images == len(self.failures) and failed <= self.max_failures * every

    @property
    def had_nothing_to_do(self) -> bool:
        """Whether every shard was there before."""
        return self.shards_skipped == self.shards

    def timings_table(self) -> list[tuple[str, float, float]]:
        """(stage, share of the run that was waited for it, share of the run that it was at work), a row a stage.

        The stage that is at work nearly all the time is the one that a faster run needs to be faster.
        """
        waited, busy = self.waits.shares(self.seconds), self.busy.shares(self.seconds)
        return [(stage, waited[stage], busy[stage]) for stage in get_args(Stage)]


def merged(parts: Sequence[GenerateSummary]) -> GenerateSummary:
    """The summary of several processes of one run, which labelled at the same time."""

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    def mean(name: str) -> StageSeconds:
        every = [getattr(part, name) for part in parts]
        return StageSeconds(*(sum(getattr(s, stage) for s in every) / len(every) for stage in get_args(Stage)))

    return GenerateSummary(
        shards=total("shards"),
        shards_skipped=total("shards_skipped"),
        shards_published=total("shards_published"),
        images=total("images"),
        failures=tuple(failure for part in parts for failure in part.failures),
        seconds=max(part.seconds for part in parts),
        waits=mean("waits"),
        busy=mean("busy"),
        max_failures=parts[0].max_failures,
        failures_unlisted=total("failures_unlisted"),
        failed_earlier=total("failed_earlier"),
        images_earlier=total("images_earlier"),
        batch_size=max(part.batch_size for part in parts),
        fallbacks=total("fallbacks"),
    )
