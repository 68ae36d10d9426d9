"""What is left where a system lacks calls that Linux has: macOS writes and reads, Windows reads and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stores import make_store, random_logits

import relabel
from relabel.cores import usable_cores
from relabel.store import files

_LIKE_WINDOWS = """
import os, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.pread, os.O_CLOEXEC, os.sched_getaffinity
import torch
del os.fork, os.register_at_fork
import relabel
from relabel.store import create_or_open
from relabel.verify import verify_shards
maps = relabel.open(sys.argv[1])
torch.save(maps[maps.rows(["c", "a"])].pool(torch.tensor([[0.1, 0.0, 0.9, 0.7]] * 2)), sys.argv[2])
assert verify_shards(sys.argv[1]).is_clean
try:
    create_or_open(sys.argv[3], maps.manifest)
except relabel.errors.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_without_posix_calls_a_store_is_read_and_none_is_written(tmp_path: Path, compression: str) -> None:
    store, labels, other = tmp_path / "labels.zarr", tmp_path / "labels.pt", tmp_path / "other.zarr"
    make_store(store, [["a", "b"], ["c"]], random_logits(3, 12, (2, 3)), compression=compression)
    command = [sys.executable, "-c", _LIKE_WINDOWS, str(store), str(labels), str(other)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stores are only read on this system (linux), which lacks the file locks" in done.stdout
    assert not other.exists()
    maps = relabel.open(store)
    expected = maps[maps.rows(["c", "a"])].pool(torch.tensor([[0.1, 0.0, 0.9, 0.7]] * 2))
    assert torch.equal(torch.load(labels, weights_only=True), expected)


def test_a_remote_store_is_copied_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "labels.zarr", [["a", "b"]], random_logits(2, 12, (2, 3)))
    monkeypatch.setattr(files, "HAVE_LOCKS", False)
    monkeypatch.setenv("RELABEL_CACHE", str(tmp_path / "cache"))
    maps = relabel.open(f"file://{tmp_path}/labels.zarr")
    assert torch.equal(maps[maps.rows(["b"])].planes, relabel.open(tmp_path / "labels.zarr")[[1]].planes)


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()
