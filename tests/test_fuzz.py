"""A short seed of `make fuzz`, the worst of the hostile stores, and that neither misses what it looks for."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from bench.fuzz import Outcome, report, run
from bench.fuzz_targets import TARGETS, Target
from bench.hostile import harms, tried

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")

CASES = {"store": 12, "tar": 20}
WORST = {
    "status/c.0.0: a pipe": "not a regular file",
    "scores/c.0.0.0.0.0: a hole of 64 GB": "it has 68719476736 bytes",
    "key/c.0.0: a frame of 4 GB that tells it": "its content may take 4294967296 bytes",
    "key/c.0.0: 2^32 - 1 strings": "4294967295 strings for 3 rows",
    "scores: rows that share a frame of 3 GB": "",
    "manifest: a grid of 30,000 x 30,000": "512 x 512 cells",
    "footprint of a row: (0, 0, 1e-30, 1e-30)": "",
}
"""Of `bench.hostile`; and what labels are refused with, where it is one thing alone."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_seed_finds_nothing(name: str) -> None:
    outcome = run(TARGETS[name], 7, CASES.get(name, 60))
    assert outcome.findings == {}
    assert outcome.cases == CASES.get(name, 60)
    assert 0 < outcome.accepted < outcome.cases


@pytest.mark.parametrize("name", WORST)
def test_a_hostile_store_is_refused_or_does_no_harm(name: str, tmp_path: Path) -> None:
    for door, said, is_well in tried(harms()[name], tmp_path):
        assert is_well, f"{door}: {said}"
        assert WORST[name] in said or door != "labels", said


def of(case: object) -> Outcome:
    """What becomes of three cases of a door of which the second goes wrong."""
    numbers = iter(range(3))

    def use(_: object, __: random.Random) -> bool:
        if next(numbers) == 1:
            case()  # type: ignore[operator]
        return True

    return run(Target("bad", lambda folder: folder, use, 1 << 26), 0, 3)


def test_what_goes_wrong_is_told_with_the_number_of_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.fuzz.SECONDS", 0.2)
    monkeypatch.setattr("bench.fuzz._WALL_SECONDS", 60.0)

    def busy() -> None:
        while True:
            pass

    assert of(lambda: int("x")).findings == {"ValueError: invalid literal for int() with base 10: 'x'": (1, 1)}
    assert of(lambda: sys.exit(0)).findings == {"SystemExit: 0": (1, 1)}
    killed = of(lambda: os.kill(os.getpid(), signal.SIGTERM)).findings
    assert killed == {"the process died of SIGTERM": (1, 1)}
    assert of(busy).findings == {"more than 0.2 s": (1, 1)}
    assert of(lambda: b"x" * (1 << 27)).findings == {"more than 64 MB": (1, 1)}
    assert next(iter(of(lambda: b"x" * (1 << 40)).findings)).startswith("MemoryError")
    assert "| bad | 3 | 2 | 0 | 1 |" in report({"bad": of(lambda: int("x"))})
    monkeypatch.setattr("bench.fuzz._WALL_SECONDS", 1.0)
    assert of(lambda: time.sleep(9)).findings == {"waits for 1 s": (1, 1)}
