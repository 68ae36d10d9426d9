"""The study of augmentations: where pixels came from is read off them, and labels are held against that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import relabel
from studies import augment_cost as study

PHOTOGRAPH = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))


def drawn(name, seed):
    [draw] = study._draw(study.ROWS[name], PHOTOGRAPH, 0, seed)
    return draw


@pytest.mark.parametrize("name", ["RandomRotation(15)", "timm rand-m9-mstd0.5-inc1"])
def test_a_followed_crop_is_told_where_its_pixels_say_and_an_ignored_one_is_not(name):
    away = {"ignored": [], "followed": []}
    for seed in range(4):
        draw = drawn(name, seed)
        *_, counted = study._truth(maps_of(), draw)
        for way, view in draw.told.items():
            away[way].append(float(study._displaced(draw, view)[counted].mean()))
    assert max(away["followed"]) < 0.01
    assert np.mean(away["ignored"]) > 0.02


def maps_of():
    generator = torch.Generator().manual_seed(0)
    return relabel.ScoreMap.from_logits(torch.randn(1, 12, 8, 8, generator=generator) * 2, planes=4, profile=3)


def test_the_true_label_of_a_crop_that_nothing_moved_is_that_of_its_box():
    draw, maps = drawn("none", 3), maps_of()
    image, tokens, counted = study._truth(maps, draw)
    assert bool(counted.all())
    views = relabel.Views.of([draw.told["ignored"]])
    torch.testing.assert_close(image.float(), maps.pool(views), atol=0.02, rtol=0)
    of_tokens = maps.pool(views, 14)[0].flatten(1).T
    torch.testing.assert_close(tokens.float(), of_tokens, atol=0.05, rtol=0)
    assert study._displaced(draw, draw.told["ignored"]).max() < 0.02
