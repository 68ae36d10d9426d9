"""Pure planning: which images make which shard, who does which, and what is missing. It opens no file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from relabel.errors import InvalidValueError

ROWS_PER_SHARD = 4096


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One work unit, one shard of the store: images `first` .. `first + count` (half open) of one source.

    A plain value that may be repeated safely, so that any scheduler can drive it.
    """

    shard: int
    source: str
    first: int
    count: int

    def __post_init__(self) -> None:
        if self.shard < 0 or self.first < 0 or self.count < 1:
            raise InvalidValueError(
                "a shard task needs shard >= 0, first >= 0 and count >= 1; "
                f"got {self.shard}, {self.first} and {self.count}"
            )


@dataclass(frozen=True, slots=True)
class Failure:
    """An image without a label (`key` set), or a whole shard that was not published (`key` empty), and why."""

    shard: int
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run that fills a store did. `images` and the failures with a key are those of the shards it published.

    Attributes:
        failures: the images that failed and the shards that are not published; `failures_unlisted` failed images more.
        seconds: from the first image to the last shard.
        max_failures: the fraction of failed images up to which it counts as good.
        failed_earlier, images_earlier: of the shards that were there before.
        broken: the shards that were there and had lost or broken files, and why; they were labelled again.
    """

    shards: int
    shards_skipped: int
    shards_published: int
    images: int
    failures: tuple[Failure, ...]
    seconds: float
    max_failures: float = 0.01
    failures_unlisted: int = 0
    failed_earlier: int = 0
    images_earlier: int = field(default=0, compare=False)
    broken: tuple[Failure, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Images of published shards over `seconds`."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def failed(self) -> int:
        """Images that failed, now or earlier."""
        return sum(1 for failure in self.failures if failure.key) + self.failures_unlisted + self.failed_earlier

    @property
    def is_good(self) -> bool:
        """Whether every shard was published and at most `max_failures` of the images failed, now or earlier."""
        is_whole = all(failure.key for failure in self.failures)
        return is_whole and self.failed <= self.max_failures * max(self.images + self.images_earlier, 1)

    @property
    def had_nothing_to_do(self) -> bool:
        """Whether every shard was there before."""
        return self.shards_skipped == self.shards


def plan(sources: Sequence[tuple[str, int]], *, rows_per_shard: int | None = None) -> tuple[ShardTask, ...]:
    """Cut sources, given as (name, number of images), into shard tasks; with None, one source is one shard.

    >>> plan([("photos", 5)], rows_per_shard=2)[-1]
    ShardTask(shard=2, source='photos', first=4, count=1)
    """
    if rows_per_shard is not None and rows_per_shard < 1:
        raise InvalidValueError(f"rows_per_shard must be at least 1; got {rows_per_shard}")
    pieces = [
        (name, first, min(rows_per_shard or images, images - first))
        for name, images in sources
        for first in range(0, images, rows_per_shard or max(images, 1))
    ]
    return tuple(ShardTask(shard, name, first, count) for shard, (name, first, count) in enumerate(pieces))


def share(tasks: Sequence[ShardTask], rank: int, world_size: int) -> tuple[ShardTask, ...]:
    """The tasks of one of `world_size` workers: disjoint, together all, balanced by images (largest first)."""
    if not 0 <= rank < world_size:
        raise InvalidValueError(f"rank must lie in [0, world_size); got rank {rank} of {world_size}")
    loads = [0] * world_size
    mine: list[ShardTask] = []
    for task in sorted(tasks, key=lambda t: (-t.count, t.shard)):
        lightest = loads.index(min(loads))
        loads[lightest] += task.count
        if lightest == rank:
            mine.append(task)
    return tuple(sorted(mine, key=lambda t: t.shard))


def missing(tasks: Sequence[ShardTask], published: Collection[int]) -> tuple[ShardTask, ...]:
    """The tasks whose shard is not published yet, in order."""
    done = frozenset(published)
    return tuple(task for task in tasks if task.shard not in done)


def even_batches(count: int, batch_size: int) -> list[int]:
    """Sizes of the fewest batches of at most `batch_size` that hold `count` images, as even as can be.

    A shard's batches depend on its count alone, so its bytes do not depend on where an earlier run stopped.

    >>> even_batches(10, 4)
    [4, 3, 3]
    """
    if batch_size < 1 or count < 0:
        raise InvalidValueError(
            f"batch_size must be at least 1 and count at least 0; got batch_size {batch_size} and count {count}"
        )
    batches = -(-count // batch_size)
    return [count // batches + (i < count % batches) for i in range(batches)]
