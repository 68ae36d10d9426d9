"""The five types that everything hands on: frozen, checked where they are born, printed by shape."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_manifest import example

from relabel.errors import InvalidValueError
from relabel.geometry import Box, Footprint
from relabel.manifest import Manifest
from relabel.plan import ShardTask
from relabel.score_map import ScoreMap


def large_manifest():
    shards = tuple(f"train-{i:04d}.tar" for i in range(1024))
    data = dataclasses.replace(example().data, shards=shards, counts=(5,) * 1024)
    return dataclasses.replace(example(), data=data, class_names=tuple(f"class {i}" for i in range(10)))


SPINE = {
    Box: (lambda: Box(0.25, 0.0, 0.75, 0.5), {"x1": 0.25}, "Box(x0=0.25, y0=0.0, x1=0.75, y1=0.5)"),
    Footprint: (Footprint, {"x0": 1.0}, "Footprint(x0=0.0, y0=0.0, x1=1.0, y1=1.0)"),
    ScoreMap: (
        lambda: ScoreMap.from_logits(torch.zeros(256, 100, 5, 6)),
        {"num_classes": 79},
        "ScoreMap(256 images, 16 planes + 64 profile classes of 100, grid 5x6, torch.float32, cpu)",
    ),
    Manifest: (
        large_manifest,
        {"class_names": ("one",)},
        "Manifest(resnet18, 4 planes + 3 profile classes of 10, grid 7x10, uint8, 1024 shards of at most 5 "
        "images from a webdataset)",
    ),
    ShardTask: (
        lambda: ShardTask(3, "train-0003.tar", 0, 1251),
        {"count": 0},
        "ShardTask(shard=3, source='train-0003.tar', first=0, count=1251)",
    ),
}


@pytest.mark.parametrize("kind", SPINE, ids=lambda kind: kind.__name__)
def test_the_spine_is_frozen_checked_at_birth_and_printed_by_shape(kind):
    make, wrong, printed = SPINE[kind]
    value = make()
    assert repr(value) == printed
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(kind)[0].name, None)
    with pytest.raises(InvalidValueError, match="got"):
        dataclasses.replace(value, **wrong)
