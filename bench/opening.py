"""A store of 1.28 million rows in a worker: how soon it is open, and the memory that it takes for itself."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import relabel
from bench import store_making as stores
from bench.measure import Figure, timing
from relabel.store import StoreWriter

_Measured = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker does: it opens `path`, or is handed `maps` that its parent opened, as a DataLoader does."""

    maps: relabel.LabelMaps | None
    path: Path
    shards: int
    rows_per_shard: int
    batch: int


def opening(folder: Path, like: StoreWriter, shards: int, rounds: int, batch: int) -> list[Figure]:
    """A fresh process that opens the store itself, and a forked one that gets it from its parent, keys and all."""
    rows = like.manifest.data.rows_per_shard
    stores.write_logical(folder / "logical.zarr", like, shards)
    job = _Job(None, folder / "logical.zarr", shards, rows, batch)
    spawned = [_in_worker("spawn", job) for _ in range(rounds)]
    maps = relabel.open(job.path)
    maps.rows(stores.keys_of(0, 1))
    forked = [_in_worker("fork", _Job(maps, job.path, shards, rows, batch)) for _ in range(rounds)]
    name = f"{shards * rows:,}-row store"
    asked = [
        ("open", "open", "ms", 50.0, spawned),
        (f"first batch of {batch} after that", "batch", "ms", None, spawned),
        ("all keys, once a run", "keys", "ms", None, spawned),
        ("private memory, every shard touched", "memory", "MB", 40.0, spawned),
        ("the same and all keys", "memory with keys", "MB", 40.0, spawned),
        (f"forked worker, first batch of {batch}", "batch", "ms", None, forked),
        ("forked worker, private memory, every shard touched", "memory", "MB", 40.0, forked),
    ]
    figures = []
    for what, key, unit, reach, measured in asked:
        # A worker whose kernel does not tell has no memory figures.
        values = timing([one[key] for one in measured if key in one] or [float("nan")])
        figures.append(
            Figure(what=f"{name}: {what}", unit=unit, measured=values.median, spread=values.spread, reach=reach)
        )
    return figures


def _in_worker(method: str, job: _Job) -> _Measured:
    context = multiprocessing.get_context(method)
    queue: SimpleQueue[_Measured] = context.SimpleQueue()
    worker = context.Process(target=_work, args=(job, queue))  # type: ignore[attr-defined]
    worker.start()
    worker.join()
    if worker.exitcode or queue.empty():
        raise RuntimeError(f"a {method}ed worker ended with exit code {worker.exitcode} and no figures")
    return queue.get()


def _work(job: _Job, queue: SimpleQueue[_Measured]) -> None:
    # The names are loaded when they are first asked for; a trainer has them long before.
    opener, draw = relabel.open, random.Random(0)
    rows = [draw.randrange(job.shards * job.rows_per_shard) for _ in range(job.batch)]
    before = _private_megabytes()
    measured: dict[str, float] = {}
    started = time.perf_counter()
    maps = job.maps or opener(job.path)
    measured["open"] = (time.perf_counter() - started) * 1e3
    started = time.perf_counter()
    first = maps[rows]
    measured["batch"] = (time.perf_counter() - started) * 1e3
    del first
    for shard in range(job.shards):
        maps[[shard * job.rows_per_shard]]
    after = _private_megabytes()
    started = time.perf_counter()
    maps.rows(stores.keys_of(0, 1))
    measured["keys"] = (time.perf_counter() - started) * 1e3
    with_keys = _private_megabytes()
    if before is not None and after is not None and with_keys is not None:
        measured |= {"memory": after - before, "memory with keys": with_keys - before}
    queue.put(measured)


def _private_megabytes() -> float | None:
    """Memory that this process has written and shares with no other, in MB; None where the kernel does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024 / 1e6
