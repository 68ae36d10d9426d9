"""Stores that are replaced, labelled again or deleted while workers read them, and stores of many shards; seeded.

``make replaced``, or ``python -m bench.replaced --shards 2000 --workers 8 --many 25000``. Every row of every store
tells in each of its arrays which store, shard and row it is of, so that a label of any other place is seen. Runs with
`ulimit -n 256`. Prints a table: what happened, how the workers were started, rows that were right, batches that ended
with ReplacedStoreError, and all else; exits with 1 if a row was wrong or something else happened.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

import relabel
from relabel.manifest import DataRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord
from relabel.store import LABELED, RowBatch, RowTable, StoreReader, create_or_open

ROWS = 8
_DESCRIPTORS = 256
_BATCH = 64
_WORKERS = (("fork", True), ("fork", False), ("spawn", True))
"""How workers are started, and whether their parent read the keys, and so every shard's digest, before."""
_LINE = "{:40}  {:7}  {:8}  {:>10}  {:>7}  {:>5} "


def main() -> None:
    """Run all, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100, help="of a store that is replaced; 0 for none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=30, help="of 64 rows each, for every worker")
    parser.add_argument("--many", type=int, default=0, help="shards of a store that is read to its end, twice")
    parser.add_argument("--compression", default="zstd", choices=("zstd", "none"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    # What is measured is reading; a busy disk makes a wait of each of the thousands of syncs.
    os.fsync = _no_sync
    with tempfile.TemporaryDirectory() as folder:
        is_good = under_workers(Path(folder), given) if given.shards else True
        if given.many:
            is_good &= to_the_end(Path(folder) / "many.zarr", given.many, given.seed)
    sys.exit(0 if is_good else 1)


def _no_sync(fd: object) -> None:
    """Wait for nothing."""


def manifest(shards: int, compression: str) -> Manifest:
    """Of a store of tiny maps: 2 planes of 2 x 2 cells."""
    return Manifest(
        teacher=TeacherRecord(source="other", name="telling", weights="unknown", weights_digest="0" * 64, head="given"),
        preprocessing=Preprocessing(image_size_hw=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        scores=ScoreRecord(num_classes=60_000, planes=2, profile=3, grid_hw=(2, 2), compression=compression),  # type: ignore[arg-type]
        data=DataRecord(
            kind="webdataset",
            shards=tuple(f"train-{shard}.tar" for shard in range(shards)),
            counts=(ROWS,) * shards,
            rows_per_shard=ROWS,
            fingerprint="none",
        ),
    )


def telling(store: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    """The arrays of some rows (n,) of a store."""
    low, high = numbers % 256, numbers // 256
    own = np.stack([np.full_like(numbers, store), low, high % 256, high // 256], 1).astype(np.uint8)
    return {
        "classes": np.stack([np.full_like(numbers, store), *(10 + high + i * 12_000 for i in range(4))], 1).astype(
            np.uint16
        ),
        "scores": np.tile(own[:, None].reshape(-1, 1, 2, 2), (1, 3, 1, 1)),
        "profile": own.view(np.int8),
    }


def publish(path: Path, made: Manifest, store: int, shards: Iterator[int] | range) -> None:
    """Write or write again some shards of a store."""
    writer = create_or_open(path, made)
    for shard in shards:
        numbers = shard * ROWS + np.arange(ROWS)
        with writer.claim(shard, again=True) as claimed:
            claimed.add(np.arange(ROWS), RowBatch(**telling(store, numbers)))  # type: ignore[arg-type]
            claimed.publish(
                RowTable(
                    keys=[str(number) for number in numbers],
                    image_hashes=numbers.astype(np.uint64),
                    labels=np.zeros(ROWS, np.int32),
                    sizes_hw=np.ones((ROWS, 2), np.uint32),
                    orientations=np.ones(ROWS, np.uint8),
                    statuses=np.full(ROWS, LABELED, np.uint8),
                    errors=[""] * ROWS,
                )
            )


@dataclass(frozen=True, slots=True)
class _Reads(Dataset[dict[str, int]]):
    """Batches of random rows, and how each ended; `stores` are those whose rows are right."""

    maps: relabel.LabelMaps
    shards: int
    batches: int
    stores: frozenset[int]
    seed: int

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, item: int) -> dict[str, int]:
        if item >= self.batches:
            raise IndexError(item)
        numbers = np.random.default_rng((self.seed, item)).integers(0, self.shards * ROWS, _BATCH)
        # Slow enough for the other process to do its part meanwhile.
        time.sleep(0.002)
        try:
            found = self.maps._reader.read(numbers)
        except relabel.ReplacedStoreError:
            return {"refused": 1}
        except relabel.RelabelError as error:
            return {f"{type(error).__name__}: {error}": 1}
        right = np.zeros(len(numbers), np.bool_)
        for store in self.stores:
            said = telling(store, numbers)
            right |= np.all(
                [(getattr(found, name) == said[name]).reshape(len(numbers), -1).all(1) for name in said], axis=0
            )
        return {"right": int(right.sum()), "wrong": int((~right).sum())}


def under_workers(folder: Path, given: argparse.Namespace) -> bool:
    """Each way to lose a store, forked and spawned, with keys read before and without."""
    own = manifest(given.shards, given.compression)
    reordered = replace(own, data=replace(own.data, shards=own.data.shards[::-1]))
    other = replace(own, teacher=replace(own.teacher, name="another"))
    for store, made in enumerate((own, reordered, other, own)):
        publish(folder / f"{store}.zarr", made, store, range(given.shards))
    path = folder / "labels.zarr"

    def swapped(store: int) -> Callable[[], None]:
        def swap() -> None:
            path.rename(folder / "away")
            (folder / f"{store}.zarr").rename(path)

        return swap

    random = np.random.default_rng(given.seed)
    some = random.permutation(given.shards)[: given.shards // 4].tolist()
    ways: dict[str, tuple[Callable[[], object], int | None]] = {
        "tars in another order": (swapped(1), 1),
        "another teacher": (swapped(2), 2),
        "made anew": (swapped(3), 3),
        "a quarter of its shards labelled again": (lambda: publish(path, own, 4, some), None),
        "deleted": (lambda: shutil.rmtree(path), None),
    }
    is_good = True
    print(_LINE.format("what happened", "workers", "keys", "right rows", "refused", "wrong"), "else")
    for (what, (act, moved)), (method, with_keys) in itertools.product(ways.items(), _WORKERS):
        shutil.copytree(folder / "0.zarr", path, copy_function=os.link)
        maps = relabel.open(path)
        if with_keys:
            maps.rows(["0"])
        # What was not read before may be of the second, if that says that it is the same store.
        allowed = {0} if with_keys else {0} | {"made anew": {3}}.get(what, set()) | ({4} if moved is None else set())
        data = _Reads(maps, given.shards, given.batches * given.workers, frozenset(allowed), given.seed)
        seen: collections.Counter[str] = collections.Counter()
        loader = DataLoader(data, batch_size=None, num_workers=given.workers, multiprocessing_context=method)
        for number, outcome in enumerate(loader):
            if number == len(data) // 4:
                act()
            seen.update(outcome)
        rest = {name: count for name, count in seen.items() if name not in ("right", "refused", "wrong")}
        is_good &= not rest and not seen["wrong"]
        counts = [seen[name] for name in ("right", "refused", "wrong")]
        print(_LINE.format(what, method, "read" if with_keys else "not read", *counts), rest or "", flush=True)
        if moved is not None:
            path.rename(folder / f"{moved}.zarr")
            (folder / "away").rename(path)
        shutil.rmtree(path, ignore_errors=True)
    return is_good


def to_the_end(path: Path, shards: int, seed: int) -> bool:
    """Every row of a store of many shards, at random, twice."""
    started = time.perf_counter()
    publish(path, manifest(shards, "none"), 0, range(shards))
    print(f"\n{shards} shards of {ROWS} rows, written in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    reader = StoreReader(path)
    print(f"opened in {(time.perf_counter() - started) * 1e3:.0f} ms")
    is_good = True
    for turn in range(2):
        numbers = np.random.default_rng((seed, turn)).permutation(shards * ROWS)
        started = time.perf_counter()
        for first in range(0, len(numbers), 256):
            some = numbers[first : first + 256]
            found, said = reader.read(some), telling(0, some)
            is_good &= all((getattr(found, name) == said[name]).all() for name in said)
        seconds = time.perf_counter() - started
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(
            f"turn {turn + 1}: {len(numbers)} rows in {seconds:.1f} s, {len(numbers) / seconds:.0f} rows/s; "
            f"{len([*Path('/proc/self/fd').iterdir()])} descriptors, "
            f"{len(Path('/proc/self/maps').read_text().splitlines())} mappings, {status['VmRSS'].strip()} in memory; "
            + ("all right" if is_good else "WRONG")
        )
    return is_good


if __name__ == "__main__":
    main()
