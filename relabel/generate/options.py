"""What a run is asked for, and what it did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

from relabel.errors import InvalidValueError
from relabel.manifest import LEAST_STEP, MOST_STEP, PLANES, PROFILE, STEP, CodeType, Compression
from relabel.options import Option, RunOptions, check_options
from relabel.plan import RunSummary

Stage = Literal["data", "device", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(RunOptions):
    """How a store is generated; the teacher and its preprocessing have types of their own.

    How images are batched moves a teacher's sums in their last bits, so a score may round to the code beside. With
    `reuse`, images are batched without those that are copied.
    """

    planes: Annotated[int, Option("K, classes kept at every cell.", "map", least=1, metavar="K")] = PLANES
    profile: Annotated[int, Option("M, further classes kept as offsets.", "map", least=0, metavar="M")] = PROFILE
    dtype: Annotated[CodeType, Option("Coding of the scores.", "map", flag="--scores")] = "uint8"
    step: Annotated[
        float,
        Option(
            "Nats per code of uint8 scores; finer is larger.", "map", least=LEAST_STEP, most=MOST_STEP, metavar="NATS"
        ),
    ] = STEP
    compression: Annotated[Compression, Option("Of the score maps.", "map")] = "zstd"
    batch_size: Annotated[
        int | Literal["auto"],
        Option("Images per forward pass; auto tries which is fastest. Halved where memory runs out.", "run", least=1),
    ] = 64
    rank: Annotated[
        int, Option("This process among --world-size.", "run", least=0, unset="as torchrun or srun says")
    ] = 0
    world_size: Annotated[
        int, Option("Processes that share the work.", "run", least=1, unset="as torchrun or srun says")
    ] = 1
    retry_failed: Annotated[bool, Option("Label shards again that hold failed images.", "run")] = False
    reuse: Annotated[
        str | None,
        Option("Copy the labels of images that an older store, of the same options, has.", "run", metavar="OLD"),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.dtype != "uint8" and self.step != STEP:
            raise InvalidValueError(
                f"scores in {self.dtype} are not rounded to steps; got step {self.step:g}. Leave --step or --scores out"
            )
        if not self.rank < self.world_size:
            raise InvalidValueError(f"rank must lie in [0, {self.world_size}); got {self.rank}")


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
        """The same for a person."""
        return ", ".join(f"{name} {share:.0%}" for name, share in self.shares(seconds).items())


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSummary(RunSummary):
    """What one process of a run did; or all of them together, where they know of each other.

    Attributes:
        seconds: without loading and listing; of several processes, the slowest's.
        waits: seconds that the main thread waited for each stage; of several processes, their mean, as is `busy`.
        busy: seconds that each stage was at work: the mean of the decoding threads, the device's forward passes and
            score maps, the thread that compresses and publishes.
        batch_size: the images of a forward pass at most, as found or given; 0 where there was nothing to label.
        fallbacks: images that only a slower decoder could read.
        copied: those of `images` whose labels were copied from an older store.
        doubts: what is strange about the teacher's answers, a sentence each: they differ from call to call, or are the
            same for every image.
        left_out: how many files below IMAGES are no images of it, or not quite, by what they are.
        is_part: another process's summary tells of this share too, so that a command need not print this one, nor end
            with its own verdict: torchrun stops all processes as soon as one says that it failed.
    """

    waits: StageSeconds = field(default_factory=StageSeconds)
    busy: StageSeconds = field(default_factory=StageSeconds, compare=False)
    batch_size: int = field(default=0, compare=False)
    fallbacks: int = 0
    copied: int = 0
    doubts: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    is_part: bool = False

    def timings_table(self) -> list[tuple[str, float, float]]:
        """(stage, share of the run that was waited for it, share of the run that it was at work), a row a stage.

        The stage that is at work nearly all the time is the one that a faster run needs to be faster.
        """
        waited, busy = self.waits.shares(self.seconds), self.busy.shares(self.seconds)
        return [(stage, waited[stage], busy[stage]) for stage in get_args(Stage)]


def merged(parts: Sequence[GenerateSummary]) -> GenerateSummary:
    """The summary of several processes of one run, which labelled at the same time."""

    def mean(name: str) -> StageSeconds:
        every = [getattr(part, name) for part in parts]
        return StageSeconds(*(sum(getattr(s, stage) for s in every) / len(every) for stage in get_args(Stage)))

    added: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in _ADDED}
    return replace(
        parts[0],
        failures=tuple(failure for part in parts for failure in part.failures),
        broken=tuple(failure for part in parts for failure in part.broken),
        doubts=tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts)),
        seconds=max(part.seconds for part in parts),
        waits=mean("waits"),
        busy=mean("busy"),
        batch_size=max(part.batch_size for part in parts),
        **added,
    )


_ADDED = (
    *("shards", "shards_skipped", "shards_published", "images", "fallbacks", "copied"),
    *("failures_unlisted", "failed_earlier", "images_earlier"),
)
"""What the processes of a run have done together."""
