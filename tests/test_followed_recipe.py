"""Token labels of the published LV-ViT recipe follow its RandAugment, and tokens that show nothing are not taught."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import draws, place_image
from torch import nn

import relabel
from pipelines import imagenet1k
from pipelines.lvvit import TokenAnswer
from pipelines.objective import Objective
from pipelines.recipe import Recipe
from pipelines.student_pixels import train_transform
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tickets import ticket
from relabel.tracking import TrackedTransform

_CLASSES, _GRID = 5, (4, 4)


@pytest.mark.parametrize("name", ["lvvit_t", "lvvit_s", "lvvit_m", "lvvit_l"])
def test_every_view_of_the_published_recipes_is_exact_and_many_are_turned_or_sheared(name: str) -> None:
    recipe = dataclasses.replace(imagenet1k.PRESETS[name].recipe, image_size=32)
    assert recipe.randaugment is not None
    tracked = TrackedTransform(train_transform(recipe), geometry="refuse")
    views = [tracked(place_image(*size_hw))[1] for size_hw in draws(12)]
    assert all(view.is_exact for view in views)
    assert 3 < sum(view.matrix is not None for view in views) < 30


class _Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_logits = nn.Parameter(torch.randn(3, _CLASSES))
        self.token_logits = nn.Parameter(torch.randn(3, _GRID[0] * _GRID[1], _CLASSES))

    def forward(self, images: Any) -> TokenAnswer:
        return TokenAnswer(self.image_logits, self.token_logits, None)


def test_a_token_counts_as_much_as_it_shows_of_the_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    written = relabel.ScoreMap.from_logits(3 * torch.randn(3, _CLASSES, 8, 8), planes=2, profile=1)
    relabel.write(tmp_path / "labels.zarr", ["a", "b", "c"], written)
    maps = relabel.open(tmp_path / "labels.zarr")
    # A shift by half of the image and half a token, a turn by 45 degrees, and a crop.
    views = (
        View(Box(0.625, 0.0, 1.625, 1.0)),
        View.affine(((0.7, -0.7, 0.5), (0.7, 0.7, -0.2))),
        View(Box(0.1, 0.2, 0.9, 0.8)),
    )
    tickets = torch.from_numpy(np.stack([ticket(maps.ticket_id, row, view) for row, view in enumerate(views)]))
    student = _Answering()
    made = Recipe(name="try", model="lvvit_t", target="token", token_weight=2.0)
    loss = Objective(made, _CLASSES, _GRID, maps=maps)(student, torch.zeros(3, 3, 8, 8), tickets)
    loss.backward()

    labels = maps.pool(tickets, _GRID, sparse=True, uncovered="nearest")
    shown = labels.covered.flatten(1).double()
    assert 0.3 < shown.mean() < 0.8
    assert shown[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0] * 4)
    each = -(student.token_logits.detach().double().log_softmax(2) * labels.dense().flatten(2).mT).sum(2)
    image_labels = maps.pool(tickets, uncovered="nearest")
    images = -(student.image_logits.detach().double().log_softmax(1) * image_labels).sum(1)
    expected = images.mean() + 2 * (each * shown).sum() / shown.sum()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    gradient = student.token_logits.grad.abs().sum(2)  # type: ignore[union-attr] # after backward
    assert torch.equal(gradient > 0, shown > 0)
