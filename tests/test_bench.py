"""The benchmarks run, and say what they measured beside which peer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import epoch, measure, overhead, published

_ROOT = Path(__file__).parents[1]


def test_files_are_those_that_were_published(tmp_path: Path) -> None:
    values, classes = published.cell_top(torch.randn(1, 1000, 15, 15))
    published.save_relabel(tmp_path / "relabel.pt", values[0], classes[0])
    published.save_token_labeling(tmp_path / "token.pt", values[0], classes[0])
    # What the 12 GB archive of ReLabel's 1,281,167 images comes to.
    assert (tmp_path / "relabel.pt").stat().st_size == pytest.approx(9353, abs=16)
    assert torch.load(tmp_path / "token.pt", weights_only=True).stride() == (5 * 15 * 15, 1, 5 * 15, 5)
    for name in ("relabel.pt", "token.pt"):
        scores, ids = published.load([tmp_path / name])
        torch.testing.assert_close(scores, values, rtol=1e-3, atol=1e-3)
        assert torch.equal(ids, classes)


def test_bench_prints_every_figure(tmp_path: Path) -> None:
    table = _run("bench.run", "--quick", "--folder", str(tmp_path))
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    figures = {row[0]: row for row in rows if len(row) > 2}
    for start in ("store of 15x15, K = 8", "random label, batch", "random label, one by one", "token labels 14x14",
                  "384-row store: open", "384-row store: forked worker, private", "epoch with labels"):  # fmt: skip
        [row] = [row for what, row in figures.items() if what.startswith(start)]
        assert any(re.match(r"[\d.,e-]+ (B|us|ms|MB|x)$", cell) for cell in row[1:]), row
    assert not list(tmp_path.iterdir())


def test_what_labels_cost_a_loop_is_measured_by_stage_and_beside_peers(tmp_path: Path) -> None:
    scene = epoch.Scene.made(tmp_path, 4)
    measured = {each.what: each.measured for each in overhead.stages(tmp_path, scene, overhead.QUICK)}
    stages = {"transform", "transform, tracked", "ticket", "read", "read and pool", "loss of labels"}
    assert all(measured[stage] > 0 for stage in (*stages, "peer: a .pt file an image, dense, roi_align"))


def test_pooling_is_measured_beside_the_dense_way_on_one_core() -> None:
    result = json.loads(_run("bench.pool", "--quick", "--device", "cpu", "--json"))
    figures = {figure["what"]: figure for figure in result["figures"]}
    reaches = {what: figure["reach"] for what, figure in figures.items() if figure["reach"]}
    assert reaches == {"image label (C), a crop": 10.0, "token labels 14x14, sparse, batch 4": 40.0}
    assert all(figure["measured"] > 0 and figure["unit"] in {"us", "ms"} for figure in figures.values())
    peers = {figure["peer"] for figure in figures.values()}
    assert peers >= {"scatter + roi_align", "a dense target given", "one class id a token"}
    assert result["accelerator"] is None


def test_a_missed_bound_is_marked_and_a_ratio_is_the_peers() -> None:
    figure = measure.Figure
    good = figure(what="good", unit="us", measured=20.0, reach=30.0, peer="theirs", peer_measured=1000.0)
    bad = replace(good, what="bad", measured=40.0)
    assert (good.ratio, good.is_reached, bad.is_reached, replace(bad, reach=None).is_reached) == (50, True, False, None)
    _, _, first, second = measure.to_table([good, bad]).splitlines()
    assert "1,000 us, theirs" in first
    assert "50 x" in first
    assert ("!" in first, "!" in second) == (False, True)


def _run(module: str, *arguments: str) -> str:
    """What a benchmark or study prints, run as `make bench` runs it; a teacher of the tests can be named."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
