"""Steps that no view tells: ignored and said so once, or refused."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from places import place_image
from timm.data import create_transform
from torchvision.transforms import autoaugment, v2
from torchvision.transforms import transforms as v1

from relabel.errors import InvalidValueError
from relabel.tracking import TrackedTransform, ignoring


@pytest.mark.parametrize("version", [v1, v2])
@pytest.mark.parametrize("name", ["RandomPerspective", "ElasticTransform"])
def test_a_step_without_a_map_is_ignored_and_the_view_is_not_exact(version: Any, name: str) -> None:
    step = getattr(version, name)()
    if name == "RandomPerspective":
        step.p = 1
    tracked = TrackedTransform(v1.Compose([v1.CenterCrop(30), step]))
    _, view = tracked(place_image(40, 60))
    assert view.box.xyxy == pytest.approx((0.25, 0.125, 0.75, 0.875))
    assert not view.is_exact
    with pytest.raises(InvalidValueError, match=f"through {name} \\(it moves pixels"):
        TrackedTransform(v1.Compose([v1.CenterCrop(30), step]), geometry="refuse")


def test_a_step_that_did_nothing_leaves_the_view_exact() -> None:
    for step in (v1.RandomPerspective(p=0), v2.RandomApply([v2.RandomPerspective(p=1)], p=0)):
        assert TrackedTransform(step)(place_image(20, 30))[1].is_exact


@pytest.mark.parametrize("kind", [autoaugment.AugMix, v2.AugMix])
def test_mixtures_of_chains_of_operations_have_no_map(kind: Any) -> None:
    _, view = TrackedTransform(v1.Compose([v1.CenterCrop(30), kind()]))(place_image(40, 60))
    assert not view.is_exact


def test_each_kind_is_said_once_with_its_cost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignoring, "_noted", set())
    monkeypatch.setitem(ignoring._COSTS, "torchvision AugMix", (0.125, 0.5))
    with caplog.at_level(logging.WARNING, logger=ignoring.__name__):
        for _ in range(2):
            TrackedTransform(v1.Compose([v2.AugMix(), v2.RandomPerspective(), v2.AugMix()]))
    assert len(caplog.messages) == 2
    assert "AugMix" in caplog.messages[0]
    assert "0.125 nats an image label, 0.5 a token label" in caplog.messages[0]
    assert "RandomPerspective" in caplog.messages[1]


def test_a_child_of_one_is_not_known_to_do_that_alone() -> None:
    class Perspective(v1.RandomPerspective):
        def forward(self, img: Any) -> Any:
            return super().forward(img).crop((0, 0, 9, 9))

    with pytest.raises(InvalidValueError, match="through Perspective"):
        TrackedTransform(Perspective())


def test_geometry_is_one_of_two() -> None:
    with pytest.raises(InvalidValueError, match="'ignore' or 'refuse'; got 'follow'"):
        TrackedTransform(None, geometry="follow")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "v0", "3a"])
def test_timms_recipes_with_auto_augment_pass(policy: str) -> None:
    transform = create_transform(32, is_training=True, auto_augment=policy, re_prob=0.25)
    # timm's posterize may leave 0 bits, which Pillow refuses: not with this seed.
    random.seed(0)
    torch.manual_seed(0)
    output, view = TrackedTransform(transform)(place_image(40, 50))
    assert output.shape == (3, 32, 32)
    assert view.box.x1 > view.box.x0
