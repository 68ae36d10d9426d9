"""The trials of other score maps start from what a store keeps, and none of them judges what it has not made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from labeled import write_pictures
from stores import random_logits

from studies import map_answers, map_ideas, map_ways


@pytest.fixture(scope="module")
def answers() -> Any:
    """Three images of 160 classes on 5 x 6 cells, two crops each."""
    boxes = torch.tensor(oracle.random_boxes(6, 2, 0.3), dtype=torch.float32).reshape(3, 2, 4)
    kept = {"logits": random_logits(3, 160, (5, 6)).half(), "boxes": boxes, "crop": None}
    return map_answers._prepared(kept)


def test_truth_is_the_label_of_all_scores(answers: Any) -> None:
    assert answers.boxes.shape == (3, 4, 4)
    for image, boxes, truth in zip(answers.scores, answers.boxes, answers.truth, strict=True):
        for box, label in zip(boxes, truth, strict=True):
            expected = oracle.full_label(image.double().numpy(), box.double().numpy())[:, 0, 0]
            np.testing.assert_allclose(label.exp().numpy(), expected, rtol=1e-3, atol=1e-6)


def test_a_token_is_a_fourteenth_of_its_crop_and_inside_it(answers: Any) -> None:
    crops, tokens = answers.boxes[:, :2], answers.boxes[:, 2:]
    torch.testing.assert_close((tokens[..., 2:] - tokens[..., :2]) * 14, crops[..., 2:] - crops[..., :2])
    assert (tokens[..., :2] >= crops[..., :2] - 1e-6).all()
    assert (tokens[..., 2:] <= crops[..., 2:] + 1e-6).all()


def test_the_trials_start_from_what_a_store_keeps(answers: Any) -> None:
    stored = map_ideas.stored(answers, 16, 64, map_ways.STEP)
    plain = map_ways.plain(map_ways.Parts.as_stored(answers, 16, 64))
    apart = (plain.labels - stored.labels).abs()
    assert apart.mean() < 1e-3
    # An offset in the middle between two codes may round to either.
    assert apart.max() < 1 / 8 + 1e-2
    np.testing.assert_array_equal(plain.bytes, stored.bytes)


def test_every_idea_gives_labels_and_bytes(answers: Any) -> None:
    for name, make in map_ideas.ideas(answers).items():
        kept = make()
        torch.testing.assert_close(kept.labels.exp().sum(-1), torch.ones(3, 4), rtol=0, atol=1e-4, msg=name)
        assert kept.bytes.shape == (3,), name
        assert map_ideas.row(answers, name, kept)[0] == name


def test_common_planes_of_full_rank_lose_no_more_than_their_coding(answers: Any) -> None:
    ways, parts = map_ways, map_ways.Parts.as_stored(answers, 8, 150)
    one, full = (
        (answers.truth.exp() * (answers.truth - ways.low_rank(parts, rank).labels)).sum(-1).mean() for rank in (1, 30)
    )
    assert full < 0.03 < one


def test_a_coarser_grid_keeps_the_label_of_the_whole(answers: Any) -> None:
    coarse = answers.on_grid(3)
    assert coarse.grid.size_hw == (3, 3)
    assert coarse.truth is answers.truth
    whole = [a.scores.mean((2, 3)).log_softmax(1) for a in (answers, coarse)]
    torch.testing.assert_close(*whole, rtol=0, atol=2e-3)


def test_tables_are_printed_from_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_pictures(tmp_path / "pictures", 3)
    map_ideas.main([str(images), "--teacher", "labeled:first", "--image-size", "64", "--mosaics", "2",
                    "--tables", "cells", "steps"])  # fmt: skip
    cells, steps = capsys.readouterr().out.split("2 images, grid 8x8, 4 crops each")[1:]
    for table, start, count in ((cells, "cell top-5", 3), (steps, "K = ", 8)):
        rows = [re.split(r"\s{2,}", line) for line in table.splitlines() if line.startswith(start)]
        assert len(rows) == count
        assert all(float(size) > 100 and float(kl) >= 0 for _, size, kl, *_ in rows)
