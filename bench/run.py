"""Speed and size, each beside a peer in the same run; ``make bench``.

Needs no data: score maps and photographs are synthetic. One core, except for the epoch's workers and for labelling;
medians over rounds in which ours and the peer take turns. Labels are measured in CPU time, the cache being warm; all
else in wall time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.epoch import epochs
from bench.generate import Plan, labelling
from bench.labels import image_labels, make_library, sizes, token_labels
from bench.measure import Figure
from bench.opening import opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a run is: rows of a store, distinct maps in it, shards of the logical one, photographs, and rounds.

    `labeled` is the plan of the write path's run, by a teacher of random weights.
    """

    shards: int
    rows: int
    distinct: int
    logical_shards: int
    photographs: int
    batch: int
    rounds: int
    teacher: str
    labeled: Plan


FULL = Scale(
    shards=5,
    rows=4096,
    distinct=2048,
    logical_shards=313,
    photographs=1024,
    batch=256,
    rounds=15,
    teacher="resnet50",
    labeled=Plan(count=96, batch_size=32, rounds=3),
)
QUICK = Scale(
    shards=2,
    rows=64,
    distinct=32,
    logical_shards=6,
    photographs=16,
    batch=8,
    rounds=1,
    teacher="test_resnet",
    labeled=Plan(count=16, batch_size=8, rounds=1),
)


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    scale = QUICK if options.quick else FULL
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="relabel-bench-", dir=options.folder) as folder:
        figures = _figures(Path(folder), scale)
    if options.json:
        print(measure.to_json({"quick": options.quick, "figures": [figure.to_json() for figure in figures]}))
        return
    on, seconds = measure.device(), time.perf_counter() - started
    print(f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, torch {on['torch']}, relabel {on['relabel']}\n")
    print(measure.to_table(figures))
    print(f"\n! misses what it should reach; +- is half the distance of the quartiles; {seconds:.0f} s in all")
    print(
        "labels in CPU time, with wall time beside it; maps are synthetic (`relabel verify labels` measures real ones)"
    )
    if options.quick:
        print("--quick: far too small to say anything of speed")


def _figures(folder: Path, scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    with measure.one_core():
        with _step("stores"):
            library = make_library(folder, shards=scale.shards, rows=scale.rows, distinct=scale.distinct)
        figures += sizes(library)
        with _step("labels of crops"):
            figures += image_labels(library, scale.rounds, scale.batch)
        with _step("labels of tokens"):
            figures += token_labels(library, scale.rounds, scale.batch)
        with _step("opening a large store"):
            figures += opening(folder, library.store, scale.logical_shards, min(scale.rounds, 5), scale.batch)
    with _step("epochs"):
        figures += epochs(folder, scale.photographs, min(scale.rounds, 9), min(scale.batch, 128))
    with _step("labelling"):
        figures.append(labelling(folder / "labelling", scale.teacher, scale.labeled))
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, in seconds")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes [the system's]")
    return parser.parse_args()


@contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
