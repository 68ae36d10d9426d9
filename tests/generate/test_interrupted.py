"""Runs that end badly, or run beside each other: nothing published is lost, and the next run makes the same store."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import generating
import pytest
from generating import (
    make_teacher,
    options,
    picture,
    published,
    samples,
    start_generate,
    write_tar,
    write_tars,
)
from store.samples import contents

from relabel.errors import StoreError
from relabel.generate import generate
from relabel.verify import verify_shards

COUNTS = (6, 3, 8, 5, 7, 4)


@pytest.fixture
def tars(tmp_path: Path) -> str:
    return write_tars(tmp_path / "tars", COUNTS)


@pytest.fixture
def whole(tars: str, tmp_path: Path) -> dict[str, bytes]:
    """The bytes of an uninterrupted run."""
    assert ended(start_generate(tars, tmp_path / "whole")) == 0
    return contents(tmp_path / "whole")


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def wait_for_shards(count: int, store: Path, process: BaseProcess) -> None:
    while published(store) < count and process.is_alive():
        time.sleep(0.001)


def assert_finished(images: str, store: Path, expected: dict[str, bytes]) -> None:
    """Run again, to the end; then the store is clean, the same as ever, and nothing lies about."""
    assert ended(start_generate(images, store)) == 0
    assert verify_shards(store, images, workers=2, show_progress=False).findings == ()
    assert contents(store) == expected
    assert {path.name for path in store.parent.iterdir()} == {store.name}


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tars, whole, tmp_path, kills, capsys):
    moments = random.Random(kills)
    landed: list[int] = []
    for kill in range(kills):
        store = tmp_path / f"run{kill}" / "store"
        store.parent.mkdir()
        process = start_generate(tars, store)
        # A shard takes about 50 ms; counting shards, not seconds, keeps the moment inside the run on any machine.
        wait_for_shards(5 * kill % len(COUNTS), store, process)
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        assert ended(process) in (-signal.SIGKILL, 0)
        landed.append(published(store))
        assert_finished(tars, store, whole)
    with capsys.disabled():
        if kills > 3:
            print(f"\n{kills} kills, by shards published at that moment: {[landed.count(n) for n in range(7)]}")
    assert any(0 < shards < len(COUNTS) for shards in landed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_at_once_and_says_what_is_safe(tars, whole, tmp_path, number):
    store = tmp_path / "run" / "store"
    store.parent.mkdir()
    third = tmp_path / "tars" / "part-02.tar"
    normal, images = third.read_bytes(), samples(range(9, 17))
    # The run gets no further than the fifth picture of the third shard, however long it takes to look at it.
    write_tar(third, [*images[:8], (images[8][0], picture(0, red=255)), *images[9:]])
    process = start_generate(tars, store, said=tmp_path / "said")
    wait_for_shards(2, store, process)
    os.kill(process.pid, number)
    assert ended(process) == 128 + number
    assert published(store) == 2
    safe = "; nothing published is lost, run the same command again to go on; 2 of 6 shards of"
    assert safe in (tmp_path / "said").read_text()
    third.write_bytes(normal)
    assert not list(store.rglob(".*"))
    assert_finished(tars, store, whole)


def test_torchrun_makes_the_store_of_one_process_with_one_bar_and_one_summary(tars, whole, tmp_path):
    store = tmp_path / "run" / "store"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "relabel", "generate"]
    small = ["--teacher", "generating:SlowTeacher", "--device", "cpu", "--batch-size", "2", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, *launch, tars, str(store), *small, "--planes", "3", "--profile", "4"],
        cwd=Path(generating.__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert contents(store) == whole
    bars = [line for line in done.stderr.splitlines() if line.startswith("labelling")]
    assert len(bars) == 1
    assert bars[0].startswith(f"labelling: 100% {sum(COUNTS)}/{sum(COUNTS)} [")
    assert done.stdout.count(f"{sum(COUNTS)} images in ") == 1


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """A disk that is full: no file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path):
    # Only the scores of the third shard are large.
    images = write_tars(tmp_path / "tars", (2, 2, 80, 2))
    generate(images, tmp_path / "whole", make_teacher(), options())
    whole = contents(tmp_path / "whole")
    *_, second, largest = sorted(len(data) for data in whole.values())
    with files_at_most((second + largest) // 2), pytest.raises(StoreError, match=r"File too large.* make room"):
        generate(images, tmp_path / "store", make_teacher(), options())
    assert published(tmp_path / "store") == 2
    assert not list((tmp_path / "store").rglob(".*"))
    assert generate(images, tmp_path / "store", make_teacher(), options()).shards_skipped == 2
    assert contents(tmp_path / "store") == whole
