"""The benchmarks run, say what they measured, and measure truth per byte as an independent oracle does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench import measure, published
from relabel.score_map import STEP
from studies import fidelity, kept

_ROOT = Path(__file__).parents[1]
_GRID_HW, _CLASSES = (4, 6), 20


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of three images' logits (3, C, H, W), with two boxes (3, 2, 4) each."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 4, (2, 3, _CLASSES, *_GRID_HW)).astype(np.float32)
    boxes = oracle.random_boxes(12, seed=1, smallest=0.3).reshape(2, 3, 2, 4).astype(np.float32)
    return [(torch.from_numpy(one), torch.from_numpy(box)) for one, box in zip(logits, boxes, strict=True)]


def _crops(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Logits (C, H, W) and box of every crop, in double precision."""
    return [
        (image.double().numpy(), box.double().numpy())
        for logits, boxes in batches
        for image, of_image in zip(logits, boxes, strict=True)
        for box in of_image
    ]


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(values / STEP) * STEP


def test_planes_are_judged_as_the_oracle_judges_them(
    batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    [line] = fidelity.compare("noise", batches, [kept.Planes(3, 5)], tmp_path)
    truths, labels, exact = [], [], []
    for logits, box in _crops(batches):
        stored = oracle.score_map(logits, 3, 5)
        coded = replace(
            stored,
            planes=_rounded(stored.planes),
            rest=_rounded(stored.rest),
            profile=_rounded(stored.profile),
        )
        truths.append(oracle.full_label(logits, box)[:, 0, 0])
        labels.append(oracle.label(coded, box)[:, 0, 0])
        exact.append(oracle.label(stored, box)[:, 0, 0])
    distances = [oracle.kl_divergence(t, q) for t, q in zip(truths, labels, strict=True)]
    assert line.kl == pytest.approx(np.mean(distances), rel=1e-4)
    assert line.kl_error == pytest.approx(np.std(distances, ddof=1) / np.sqrt(12), rel=1e-4)
    assert line.coding_kl == pytest.approx(
        np.mean([oracle.kl_divergence(e, q) for e, q in zip(exact, labels, strict=True)]), rel=1e-2
    )
    assert line.agreement == np.mean([t.argmax() == q.argmax() for t, q in zip(truths, labels, strict=True)])


def test_cells_are_judged_as_the_oracle_judges_them(
    batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    ways = [kept.FilledCells(), kept.PublishedCells(tmp_path)]
    filled, published = fidelity.compare("noise", batches, ways, tmp_path)
    distances: list[tuple[float, float]] = []
    for logits, box in _crops(batches):
        truth = oracle.full_label(logits, box)[:, 0, 0]
        scores, cells = oracle.log_softmax(logits), oracle.box_in_cells(box, _GRID_HW)
        listed = scores >= np.sort(scores, axis=0)[-5]
        mean_of_others = np.where(listed, 0, scores).sum(0) / (_CLASSES - 5)
        maps = np.where(listed, _rounded(scores), _rounded(mean_of_others)), np.where(listed, logits, 0)
        labels = [oracle.softmax(oracle.roi_align(each, cells)[:, 0, 0]) for each in maps]
        distances.append((oracle.kl_divergence(truth, labels[0]), oracle.kl_divergence(truth, labels[1])))
    assert filled.kl == pytest.approx(np.mean([one for one, _ in distances]), rel=1e-4)
    # Published scores are halves.
    assert published.kl == pytest.approx(np.mean([one for _, one in distances]), rel=2e-3)


def test_the_bytes_of_planes_are_those_of_a_store(
    batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    lines = fidelity.compare("noise", batches, [kept.Planes(k, 4) for k in (2, 8)], tmp_path)
    for planes, line in zip((2, 8), lines, strict=True):
        files = [file for file in (tmp_path / f"{planes}-4.zarr").rglob("c.*") if file.is_file()]
        assert {file.parent.name for file in files} >= {"classes", "scores", "profile", "key", "status"}
        assert line.bytes_an_image == sum(file.stat().st_size for file in files) / 6


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


def test_fidelity_runs_from_images_to_json(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(5):
        pixels = random.integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 36)).save(tmp_path / f"{i}.png")
    result = json.loads(
        _run("studies.fidelity", str(tmp_path), "--teacher", "colour_teacher:make", "--image-size", "64",
             "--count", "4", "--mosaics", "2", "--mosaic-size", "96", "--planes", "2", "6",
             "--profile", "0", "4", "--json")
    )  # fmt: skip
    lines = result["lines"]
    assert [line["images"] for line in lines[::6]] == ["4 photographs, 64 px, grid 4x4", "2 mosaics, 96 px, grid 6x6"]
    assert [line["stored"] for line in lines[:6]] == [
        "2 planes + rest",
        "2 planes + rest + profile of 4",
        "6 planes + rest",
        "6 planes + rest + profile of 4",
        "cell top-5, others their mean",
        "cell top-5, others logit 0, published",
    ]
    assert all(line["kl"] > 0 and 0 <= line["agreement"] <= 1 and line["bytes_an_image"] > 0 for line in lines)
    assert result["device"]["cpu"]


def test_bench_prints_every_figure(tmp_path: Path) -> None:
    table = _run("bench.run", "--quick", "--folder", str(tmp_path))
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    figures = {row[0]: row for row in rows if len(row) > 2}
    for start in ("store of 15x15, K = 8", "random label, batch", "random label, one by one", "token labels 14x14",
                  "384-row store: open", "384-row store: forked worker, private", "epoch with labels"):  # fmt: skip
        [row] = [row for what, row in figures.items() if what.startswith(start)]
        assert any(re.match(r"[\d.,e-]+ (B|us|ms|MB|x)$", cell) for cell in row[1:]), row
    assert not list(tmp_path.iterdir())


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
