"""The view that is told is the view that was made: pixels that encode their place come out where the box says."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import SIZES_HW, draws, farthest, place_image, place_tensor, seen_matrix
from timm.data import create_transform
from timm.data.transforms import (
    CenterCropOrPad,
    RandomCropOrPad,
    RandomPad,
    RandomResizedCropAndInterpolation,
    TrimBorder,
)
from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tracking import TrackedTransform

pytestmark = pytest.mark.usefixtures("fewer_draws")

PIPELINES: dict[str, Any] = {
    "v1": lambda: v1.Compose([v1.RandomResizedCrop(96), v1.RandomHorizontalFlip(), v1.ToTensor()]),
    "v2": lambda: v2.Compose(
        [v2.ToImage(), v2.RandomResizedCrop(96), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "timm": lambda: v1.Compose(
        [RandomResizedCropAndInterpolation(96, interpolation="random"), v1.RandomHorizontalFlip(), v1.ToTensor()]
    ),
    "v1 flip first": lambda: v1.Compose([v1.RandomHorizontalFlip(), v1.RandomResizedCrop(96), v1.ToTensor()]),
    "v2 nested": lambda: v2.Compose(
        [v2.RandomHorizontalFlip(), v2.Compose([v2.RandomResizedCrop(96)]), v2.RandomHorizontalFlip(), v1.ToTensor()]
    ),
    "v1 two crops": lambda: v1.Compose([v1.Resize(128), v1.RandomCrop(100), v1.RandomResizedCrop(96), v1.ToTensor()]),
    "v2 resize and crop": lambda: v2.Compose([v2.Resize(128), v2.RandomCrop((90, 70)), v1.ToTensor()]),
    "v1 crop with padding": lambda: v1.Compose([v1.RandomCrop(60, padding=(3, 9)), v1.ToTensor()]),
    "v1 crop with four paddings": lambda: v1.Compose([v1.RandomCrop(60, padding=(4, 3, 2, 1)), v1.ToTensor()]),
    "v2 crop with padding": lambda: v2.Compose([v2.RandomCrop(60, padding=(4, 3, 2, 1)), v1.ToTensor()]),
    "v1 crop padded to size": lambda: v1.Compose([v1.RandomCrop(160, pad_if_needed=True), v1.ToTensor()]),
    "v1 crop padded and padded to size": lambda: v1.Compose(
        [v1.RandomCrop((170, 190), padding=(4, 3, 7, 9), pad_if_needed=True), v1.ToTensor()]
    ),
    "v2 crop padded to size": lambda: v2.Compose([v2.RandomCrop(160, pad_if_needed=True), v1.ToTensor()]),
    "v1 center": lambda: v1.Compose([v1.Resize(90), v1.CenterCrop(71), v1.ToTensor()]),
    "v2 center beyond the image": lambda: v2.Compose([v2.CenterCrop((171, 121)), v1.ToTensor()]),
    "v1 pad, flip and crop": lambda: v1.Compose(
        [v1.Pad((4, 9, 2, 1)), v1.RandomHorizontalFlip(), v1.RandomCrop(60), v1.ToTensor()]
    ),
    "v2 flip, pad and resize": lambda: v2.Compose(
        [v2.RandomHorizontalFlip(), v2.Pad((20, 5)), v2.Resize(90, max_size=110), v1.ToTensor()]
    ),
    "timm random crop or pad": lambda: v1.Compose([RandomCropOrPad((160, 120)), v1.ToTensor()]),
    "timm center crop or pad": lambda: v1.Compose([CenterCropOrPad((71, 161)), v1.ToTensor()]),
    "v1 vertical flip": lambda: v1.Compose([v1.RandomVerticalFlip(), v1.RandomResizedCrop(96), v1.ToTensor()]),
    "v2 both flips": lambda: v2.Compose(
        [v2.RandomCrop(60), v2.RandomVerticalFlip(), v2.RandomHorizontalFlip(), v1.ToTensor()]
    ),
    "v2 zoom out": lambda: v2.Compose([v2.RandomZoomOut(side_range=(1, 2)), v1.ToTensor()]),
    "timm pad": lambda: v1.Compose([RandomPad((210, 220)), v1.ToTensor()]),
    "timm trim": lambda: v1.Compose([TrimBorder(9), v1.ToTensor()]),
    "torchvision's weights": lambda: ImageClassification(crop_size=84, resize_size=97, mean=(0, 0, 0), std=(1, 1, 1)),
    "v1 rotation": lambda: v1.Compose([v1.RandomRotation(30, v1.InterpolationMode.BILINEAR), v1.ToTensor()]),
    "v2 larger canvas": lambda: v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomRotation(180, expand=True), v2.Resize(99), v1.ToTensor()]
    ),
    "v1 affine": lambda: v1.Compose(
        [v1.RandomAffine(20, (0.1, 0.2), (0.7, 1.3), (-15, 15, -9, 9)), v1.RandomVerticalFlip(), v1.ToTensor()]
    ),
    "v2 crop, affine and crop": lambda: v2.Compose(
        [v2.RandomCrop(60), v2.RandomAffine(20, (0.1, 0.2), (0.7, 1.3), 15), v2.CenterCrop(48), v1.ToTensor()]
    ),
    "sequential": lambda: nn.Sequential(v2.ToImage(), v2.RandomResizedCrop(96), v2.ToDtype(torch.float32, scale=True)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_view_is_that_of_the_pixels(name: str) -> None:
    tracked = TrackedTransform(PIPELINES[name]())
    flips = []
    for size_hw in draws():
        output, view = tracked(place_image(*size_hw))
        assert farthest(seen_matrix(output), view) < (0.01 if view.matrix is None else 0.02)
        (a, b, _), (d, e, _) = view.as_matrix()
        flips.append((view.flip, view.flip_vertical, a * e < b * d))
    assert ("Flip" in str(PIPELINES[name]())) == (len(set(flips)) > 1)


@pytest.mark.parametrize("version", [v1, v2])
@pytest.mark.parametrize("center", [None, (20, 50)])
@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_what_turns_is_told_to_a_thousandth_of_a_side(version: Any, center: Any, size_hw: tuple[int, int]) -> None:
    # Of tensors, whose resampling rounds nothing; a pixel of the least image is 16 thousandths.
    bilinear = v1.InterpolationMode.BILINEAR
    for step in (
        version.RandomRotation(40, bilinear, center=center),
        version.RandomRotation(180, bilinear, expand=True, center=center),
        version.RandomRotation((90, 90), bilinear, center=center),
        version.RandomAffine(20, (0.1, 0.2), (0.7, 1.3), (-15, 15, -20, 20), bilinear, center=center),
    ):
        output, view = TrackedTransform(step)(place_tensor(*size_hw))
        assert farthest(seen_matrix(output), view) < 1e-3


def test_sizes_may_be_set_later_as_one_number() -> None:
    for step in (v1.CenterCrop(9), v1.FiveCrop(9)):
        tracked = TrackedTransform(step)
        step.size = 40
        output, views = tracked(place_image(50, 70))
        crop, view = (output[-1], views[-1]) if isinstance(views, tuple) else (output, views)
        assert crop.size == (40, 40)
        assert farthest(seen_matrix(crop), view) < 0.01


def test_half_a_turn_is_a_box_with_mirrorings() -> None:
    _, view = TrackedTransform(v1.RandomRotation((180, 180)))(place_image(20, 30))
    assert view == View(Box.whole(), flip=True, flip_vertical=True)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_transform_runs_unchanged_and_draws_the_same_numbers(name: str) -> None:
    transform = PIPELINES[name]()
    tracked = pickle.loads(pickle.dumps(TrackedTransform(transform)))
    for size_hw in SIZES_HW:
        image = place_image(*size_hw)
        torch.manual_seed(5)
        random.seed(5)
        expected = transform(image)
        torch.manual_seed(5)
        random.seed(5)
        assert torch.equal(tracked(image)[0], expected)


def test_no_transform_shows_the_whole_image() -> None:
    image = place_image(8, 9)
    assert TrackedTransform(None)(image) == (image, View(Box.whole(), False))


def test_a_crop_of_a_mirrored_view_is_taken_from_the_other_side() -> None:
    view = View(Box(0.2, 0.0, 0.6, 1.0), flip=True).then(View(Box(0.0, 0.5, 0.25, 1.0)))
    assert view.box.xyxy == pytest.approx((0.5, 0.5, 0.6, 1.0))
    assert view.flip


def _upside_down(image: Any) -> Any:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


@pytest.mark.parametrize("kind", [v1.CenterCrop, v2.CenterCrop])
@pytest.mark.parametrize("size_hw", [(8, 9), (7, 11), (4, 5)])
def test_a_centre_crop_is_that_to_the_pixel(kind: Any, size_hw: tuple[int, int]) -> None:
    image = torch.arange(1, 1 + size_hw[0] * size_hw[1]).reshape(1, *size_hw)
    output, view = TrackedTransform(kind((5, 6)))(image)
    left, top, right, bottom = (
        round(v * s) for v, s in zip(view.box.xyxy, (*size_hw[::-1], *size_hw[::-1]), strict=True)
    )
    padded = torch.nn.functional.pad(image, (9, 9, 9, 9))
    assert torch.equal(output, padded[:, top + 9 : bottom + 9, left + 9 : right + 9])


def test_a_foreign_step_of_a_known_name_is_not_taken_for_timms() -> None:
    class ToNumpy:
        def __call__(self, image: Any) -> Any:
            return np.asarray(image)[::-1]

    with pytest.raises(InvalidValueError, match=r"through ToNumpy\b"):
        TrackedTransform(v1.Compose([ToNumpy()]))


def test_a_refused_step_is_named_once() -> None:
    steps = v2.RandomPerspective(), v2.AugMix(), v2.RandomPerspective()
    with pytest.raises(InvalidValueError, match=r"through RandomPerspective \([^)]*\), AugMix \([^)]*\)\. Known"):
        TrackedTransform(v1.Compose(steps), geometry="refuse")


def test_a_step_is_left_as_it_was() -> None:
    step = v1.RandomResizedCrop(8)
    before = dict(step.__dict__)
    TrackedTransform(step)(place_image(20, 20))
    assert step.__dict__ == before


def test_a_class_of_steps_may_be_left_untracked() -> None:
    class UpsideDown:
        def __call__(self, image: Any) -> Any:
            return _upside_down(image)

    steps = v1.Compose([v1.CenterCrop(8), UpsideDown(), UpsideDown()])
    assert TrackedTransform(steps, untracked=(UpsideDown,))(place_image(8, 8))[1].box == Box.whole()


def test_a_class_whose_steps_are_followed_is_not_left_untracked_by_mistake() -> None:
    flip = v1.RandomHorizontalFlip(1)
    with pytest.raises(InvalidValueError, match="the class RandomHorizontalFlip, whose steps are followed"):
        TrackedTransform(v1.Compose([v1.CenterCrop(8), flip]), untracked=(v1.RandomHorizontalFlip,))
    assert not TrackedTransform(flip, untracked=(flip,))(place_image(8, 8))[1].flip
    for kind in (v1.Lambda, v1.Compose, v2.RandomApply, type(_upside_down)):
        with pytest.raises(InvalidValueError, match=f"the class {kind.__name__}, whose steps may do anything"):
            TrackedTransform(flip, untracked=(kind,))


@pytest.mark.parametrize("mode", ["rkrc", "rkrr"])
def test_timms_other_crop_modes_are_followed(mode: str) -> None:
    transform = create_transform(64, is_training=True, train_crop_mode=mode, color_jitter=None, hflip=0)
    for seed in range(8):
        random.seed(seed)
        _, view = TrackedTransform(transform)(place_image(80, 160))
        # The shorter side becomes 64 pixels, so that much of the longer one is left out.
        assert view.box.size_hw == pytest.approx((1.0, 0.5), rel=0.4)
        assert view.box.size_hw != (1.0, 1.0)


def test_a_crop_that_has_nothing_of_the_image_is_an_error() -> None:
    for top, left in ((0, 30), (20, 0), (-5, 0), (0, -5)):
        with pytest.raises(InvalidValueError, match="has nothing of an image of height 20 and width 30"):
            Box.from_crop(top, left, 5, 5, (20, 30))
        assert Box.from_crop(top * 0.9, left * 0.9, 5, 5, (20, 30))


@pytest.mark.parametrize("step", [v1.TenCrop(40), v2.TenCrop((30, 40), vertical_flip=True), v2.FiveCrop(40)])
def test_several_crops_are_told_each(step: Any) -> None:
    for size_hw in SIZES_HW:
        outputs, views = TrackedTransform(step)(place_image(*size_hw))
        assert len(outputs) == len(views) == (5 if isinstance(step, v2.FiveCrop) else 10)
        assert max(farthest(seen_matrix(output), view) for output, view in zip(outputs, views, strict=True)) < 0.01


def test_several_crops_are_not_cropped_again() -> None:
    tracked = TrackedTransform(v2.Compose([v2.CenterCrop(50), v2.FiveCrop(30), v2.RandomHorizontalFlip(1)]))
    with pytest.raises(InvalidValueError, match="5 outputs at once"):
        tracked(place_image(60, 60))


def test_what_v2_hands_back_as_it_was_is_not_taken_for_cropped() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for step in (v2.CenterCrop(8), v2.Pad(8), v2.FiveCrop(8), v2.TenCrop(8)):
        output, view = TrackedTransform(step)(image)
        assert output is image
        assert view == View.whole()
