"""What every measurement shares: one core, rounds in turn, and a table that says what was reached."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

import relabel
from relabel.cores import usable_cores


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one way over several rounds: their median, and half the distance of the quartiles.

    Where a way was run by `in_turn` these are CPU seconds, and `wall` is the median of the time that passed.
    """

    median: float
    spread: float
    wall: float | None = None

    def per(self, count: int) -> Timing:
        """Of one of as many things that were done together."""
        return Timing(self.median / count, self.spread / count, None if self.wall is None else self.wall / count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the result; smaller is better, so `reach` is an upper bound.

    Attributes:
        what: what was measured.
        unit: of `measured`, `reach` and `peer_measured`.
        spread: half the distance of the quartiles over the rounds, where there were rounds.
        wall: of what was measured as CPU time, the time that passed.
        reach: what the design asks for, if anything.
        peer: what ran beside it in the same run, if anything.
    """

    what: str
    unit: str
    measured: float
    spread: float | None = None
    wall: float | None = None
    reach: float | None = None
    peer: str = ""
    peer_measured: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as much the peer takes."""
        return None if self.peer_measured is None else self.peer_measured / self.measured

    @property
    def is_reached(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        return None if self.reach is None else self.measured <= self.reach

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {**dataclasses.asdict(self), "ratio": self.ratio, "is_reached": self.is_reached}


def in_turn(ways: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, Timing]:
    """CPU seconds of every way, run once a round, one after the other, so that a busy machine slows all alike.

    CPU time, because on one core with a warm cache nothing waits but for other processes. A way is called with the
    number of the round, and once beforehand, with -1, to warm up.
    """
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):
        for name, way in ways.items():
            started = time.process_time(), time.perf_counter()
            way(turn)
            ended = time.process_time(), time.perf_counter()
            if turn >= 0:
                cpu[name].append(ended[0] - started[0])
                wall[name].append(ended[1] - started[1])
    return {name: replace(timing(cpu[name]), wall=statistics.median(wall[name])) for name in ways}


def timing(seconds: Sequence[float]) -> Timing:
    """The median and the spread of one way's rounds."""
    if len(seconds) < 2:
        return Timing(seconds[0], 0.0)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(statistics.median(seconds), (high - low) / 2)


@contextmanager
def one_core() -> Iterator[None]:
    """Torch on one thread, and this process and its children on one core where the system allows it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def device() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "relabel": relabel.__version__,
    }


def to_table(figures: Sequence[Figure]) -> str:
    """The figures for people; ``!`` marks a bound that was missed."""
    rows = [("what", "reach", "measured", "", "", "wall", "peer in the same run", "ratio")]
    for figure in figures:
        missed = "!" if figure.is_reached is False else ""
        spread = "" if figure.spread is None else f"+- {_number(figure.spread)}"
        peer = "" if figure.peer_measured is None else f"{_number(figure.peer_measured)} {figure.unit}, {figure.peer}"
        ratio = "" if figure.ratio is None else f"{_number(figure.ratio)} x"
        reach = "" if figure.reach is None else f"<= {_number(figure.reach)}"
        wall = "" if figure.wall is None else _number(figure.wall)
        measured = f"{_number(figure.measured)} {figure.unit}"
        rows.append((figure.what, reach, measured, spread, missed, wall, peer, ratio))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table; the first one is its header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def to_json(values: Mapping[str, Any]) -> str:
    """A result with the device it was measured on, as JSON."""
    return json.dumps({"device": device(), **values}, indent=2)


def _number(value: float) -> str:
    """Three significant digits, without an exponent for anything that a person would count."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - a kernel file, read line by line
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
