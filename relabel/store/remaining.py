"""What is left to do of a store that an earlier run may have begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relabel.plan import ShardTask, missing
from relabel.store.layout import FAILED, NO_IMAGE
from relabel.store.reader import StoreReader
from relabel.store.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class Remaining:
    """The tasks to do; the images of the others, whose shards are there, and how many of them failed.

    Skipping a shard must not make its failures look mended.
    """

    tasks: tuple[ShardTask, ...]
    images_earlier: int
    failed_earlier: int


def remaining(writer: StoreWriter, tasks: Sequence[ShardTask], *, retry_failed: bool = False) -> Remaining:
    """Of some tasks, those whose shard is not published; with `retry_failed` also those that hold failed images."""
    reader = StoreReader(writer.path, partial=True)
    found = {task.shard: reader.statuses(task.shard) for task in tasks if task.shard in reader.published}
    if retry_failed:
        found = {shard: statuses for shard, statuses in found.items() if not (statuses == FAILED).any()}
    return Remaining(
        missing(tasks, found.keys()),
        sum(int((statuses != NO_IMAGE).sum()) for statuses in found.values()),
        sum(int((statuses == FAILED).sum()) for statuses in found.values()),
    )
