"""The promises of score maps, checked with the tolerance of the step that they are coded in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from stores import random_logits

from relabel.manifest import ScoreRecord
from relabel.score_map import ScoreMap
from relabel.verify.content import Maps, content_findings

STEPS = [1 / 16, 1 / 4, 1 / 2, 1]


def stored(step: float, scale: float = 1.0) -> tuple[Maps, ScoreRecord]:
    """Maps as a store of this step holds them."""
    maps = ScoreMap.from_logits(random_logits(6, 12, (2, 3)) * scale, 3, 4).coded(step)
    record = ScoreRecord(num_classes=12, planes=3, profile=4, grid_hw=(2, 3), step=step)
    scores = torch.cat([maps.planes, maps.rest[:, None]], 1).numpy()
    return Maps(scores=scores, classes=maps.classes.numpy().astype(np.uint16), profile=maps.profile.numpy()), record


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_sound_maps_of_any_step_are_let_pass(step: float, scale: float) -> None:
    assert list(content_findings(*stored(step, scale))) == []


@pytest.mark.parametrize("step", STEPS)
def test_mass_beyond_the_step_is_found(step: float) -> None:
    maps, record = stored(step)
    scores = maps.scores.copy()
    scores[1, :3, 1, 0] = 0
    [(row, what)] = content_findings(dataclasses.replace(maps, scores=scores), record)
    assert row == 1
    assert what.startswith("the planes' probabilities sum to 3.000 at a cell")


def test_codes_read_with_a_finer_step_than_theirs_are_found() -> None:
    maps, record = stored(1 / 4)
    found = list(content_findings(maps, dataclasses.replace(record, step=1 / 8)))
    assert {row for row, _ in found} == set(range(6))
