"""What is left to do of a store that an earlier run may have begun."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, StoreError
from relabel.plan import Failure, ShardTask, missing
from relabel.store.layout import FAILED, NO_IMAGE
from relabel.store.reader import StoreReader
from relabel.store.writer import StoreWriter

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remaining:
    """The tasks to do; the images of the others, whose shards are there, and how many of them failed.

    Skipping a shard must not make its failures look mended. `again` are the tasks whose shard is there all the same,
    and `broken` says of some of these what is wrong with it. `blocked` are no tasks: their shards cannot be written.
    """

    tasks: tuple[ShardTask, ...]
    images_earlier: int
    failed_earlier: int
    again: frozenset[int]
    broken: tuple[Failure, ...]
    blocked: tuple[Failure, ...]

    @property
    def earlier(self) -> dict[str, Any]:
        """What the summary of a run says of them."""
        return {name: getattr(self, name) for name in ("images_earlier", "failed_earlier", "broken")}


def remaining(writer: StoreWriter, tasks: Sequence[ShardTask], *, retry_failed: bool = False) -> Remaining:
    """Of some tasks, those whose shard is missing or broken; with `retry_failed` also those that hold failed images.

    A broken one lost a file, or a file was cut or is of another shard or store: what small reads show. `verify shards`
    reads every byte, and retracts what it finds with ``--repair``.

    Raises:
        StoreError: a file cannot be read for a reason that is not its own.
    """
    reader = StoreReader(writer.path, partial=True)
    found: dict[int, NDArray[np.uint8]] = {}
    broken: list[Failure] = []
    blocked: list[Failure] = []
    for task in tasks:
        if task.shard in reader.published:
            try:
                reader.check(task.shard)
                found[task.shard] = reader.statuses(task.shard)
            except DamagedStoreError as error:
                what = str(error).removeprefix(f"{writer.path}: ").removesuffix(reader.files.repair).rstrip()
                broken.append(Failure(task.shard, "", what))
    if retry_failed:
        found = {shard: statuses for shard, statuses in found.items() if not (statuses == FAILED).any()}
    for task in missing(tasks, found.keys()):
        try:
            writer.check_way(task.shard)
        except StoreError as error:
            blocked.append(Failure(task.shard, "", str(error)))
    cannot = {failure.shard for failure in blocked}
    broken = [failure for failure in broken if failure.shard not in cannot]
    if broken:
        _log.warning(
            "%d shards that were published are broken, and are labelled again; the first is shard %d: %s",
            *(len(broken), broken[0].shard, broken[0].reason),
        )
    return Remaining(
        missing(tasks, found.keys() | cannot),
        sum(int((statuses != NO_IMAGE).sum()) for statuses in found.values()),
        sum(int((statuses == FAILED).sum()) for statuses in found.values()),
        reader.published - found.keys(),
        tuple(broken),
        tuple(blocked),
    )
