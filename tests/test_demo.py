"""The demo's scenes know what they hold, its distances are right, and pictures are drawn."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import demo, scenes


@pytest.fixture(scope="module")
def made() -> list[Any]:
    return scenes.compose(scenes.load_scans(), 40, scenes.LABELED, seed=3, prefix="s")


def test_scenes_hold_two_to_five_digits_apart_from_each_other_on_canvases_that_are_not_square(made: list[Any]) -> None:
    assert {2, 5} <= {len(scene.digits) for scene in made} <= {2, 3, 4, 5}
    assert len({scene.size_hw for scene in made}) == 6
    for scene in made:
        assert scene.pixels.shape == (*scene.size_hw, 3)
        assert scene.size_hw[0] != scene.size_hw[1]
        height, width = scene.size_hw
        covered = np.zeros((height, width), int)
        for digit in scene.digits:
            x0, y0, x1, y1 = np.array(digit.box_xyxy) * [width, height, width, height]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            covered[round(y0) : round(y1), round(x0) : round(x1)] += 1
        assert (covered > 1).sum() <= 0.05 * (covered > 0).sum()


def test_a_scene_is_labeled_with_its_largest_digit_and_says_which_scans_it_shows(made: list[Any]) -> None:
    scans = scenes.load_scans()
    for scene in made:
        areas = [digit.area for digit in scene.digits]
        assert scene.label == scene.digits[int(np.argmax(areas))].label
        assert [digit.label for digit in scene.digits] == [scans.classes[digit.scan] for digit in scene.digits]


def test_ink_is_inside_its_box_and_reaches_every_side_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a background, and in white, all that is not black is ink.
    monkeypatch.setattr(scenes, "_background", lambda size_hw, random: np.zeros((*size_hw, 3), np.float32))
    for scene in scenes.compose(
        scenes.load_scans(), 12, scenes.Layout((1, 1), (0.3, 0.9), (0.3, 0.3)), seed=0, prefix="s"
    ):
        bright = scene.pixels.max(axis=2) > 40
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        height, width = scene.size_hw
        box = np.array(scene.digits[0].box_xyxy) * [width, height, width, height]
        assert np.abs(found - box).max() <= 3


def test_the_same_seed_gives_the_same_scenes_and_another_seed_others(made: list[Any]) -> None:
    again = scenes.compose(scenes.load_scans(), 3, scenes.LABELED, seed=3, prefix="s")
    other = scenes.compose(scenes.load_scans(), 3, scenes.LABELED, seed=4, prefix="s")
    assert [scene.digits for scene in again] == [scene.digits for scene in made[:3]]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(again, made, strict=False))
    assert [scene.digits for scene in other] != [scene.digits for scene in again]


def test_a_split_shares_no_scan() -> None:
    first, second = scenes.load_scans().split(1197, seed=0)
    assert (len(first), len(second)) == (1197, 600)
    assert not set(first.numbers) & set(second.numbers)
    assert set(first.numbers) | set(second.numbers) == set(range(1797))
    assert np.array_equal(scenes.load_scans().classes[second.numbers], second.classes)


def test_content_is_each_class_share_of_the_box_area_inside_the_crop() -> None:
    blank = np.zeros((100, 200, 3), np.uint8)
    left = scenes.Digit(3, 0, (0.0, 0.0, 0.25, 1.0))
    right = scenes.Digit(7, 1, (0.5, 0.0, 1.0, 1.0))
    also = scenes.Digit(7, 2, (0.25, 0.5, 0.5, 1.0))
    scene = scenes.Scene("s", blank, (left, right, also))
    crops = np.array([[0, 0, 1, 1], [0.0, 0, 0.75, 0.5], [0.25, 0, 0.5, 0.5], [0.4, 0.6, 0.6, 0.7]])
    content = scenes.content([scene] * 4, crops)
    expected = np.zeros((4, 10))
    expected[0, [3, 7]] = 0.25 / 0.875, 0.625 / 0.875
    expected[1, [3, 7]] = 0.5
    expected[3, 7] = 1
    assert content == pytest.approx(expected)
    assert scene.label == 7


def test_tars_hold_every_scene_with_the_largest_digits_class(made: list[Any], tmp_path: Path) -> None:
    pattern = scenes.write_tars(made, tmp_path / "scenes", 3)
    assert pattern.endswith("train-{000..002}.tar")
    found = {}
    for path in sorted((tmp_path / "scenes").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    for scene in made:
        assert int(found[f"{scene.key}.cls"]) == scene.label
        with Image.open(io.BytesIO(found[f"{scene.key}.jpg"])) as image:
            assert image.size == scene.size_hw[::-1]
            assert np.abs(np.asarray(image).astype(int) - scene.pixels).mean() < 10


def test_distances_of_known_labels() -> None:
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert demo.distances(truth, truth) == pytest.approx((1.0, 0.0, 0.0), abs=3e-4)
    label = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64)
    top1, divergence, misplaced = demo.distances(truth, label)
    by_hand = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75) + np.log(1 / 0.25)) / 2
    assert (top1, misplaced) == (0.5, 0.5)
    assert divergence == pytest.approx(by_hand, abs=3e-4)
    one_hot = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert np.isfinite(demo.distances(truth, one_hot)).all()
