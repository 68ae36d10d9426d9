"""A few faults of each sort; `make faults` tries 1,000."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from bench import faults

FEW = ("SIGKILL in a write (torn)", "errno at a file call", "SIGTERM", "source changes mid-run")


def tried(folder: Path, told: Path) -> None:
    cases = list(faults.campaign(len(FEW), 3, folder, FEW))
    told.write_text("\n".join(f"{case.kind}: {case.wrong}" for case in cases if case.wrong) or "all held")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the calls on a store's files are known by /proc")
def test_a_few_faults_lose_nothing(tmp_path):
    # Forked from a process without threads, and forking itself.
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=tried, args=(tmp_path / "cases", tmp_path / "told"))
    process.start()
    process.join(120)
    assert (tmp_path / "told").read_text() == "all held"


def test_the_report_counts_what_escaped(tmp_path):
    cases = {"a": [faults.Case("a", tmp_path, None, codes=[-9, 0]), faults.Case("a", tmp_path, None, codes=[-9, 0])]}
    cases["a"][1].wrong.append("scores/c.0 is lost")
    assert [line.split() for line in faults.report(cases).splitlines()[1:]] == [
        ["a", "2", "1", "1", "-9"],
        ["all", "2", "1", "1", "1", "files", "lost,", "0", "doubled"],
    ]
