"""The view that is told is the view that was made: pixels that encode their place come out where the box says."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, RandomCropOrPad, RandomResizedCropAndInterpolation
from torch import Tensor, nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tracking import TrackedTransform

SIZES_HW = ((150, 200), (200, 150), (96, 180), (64, 64))


def place_image(height: int, width: int) -> Image.Image:
    """Red rises with x, green with y; blue marks the image, so that padding (black) can be told from it."""
    y, x = np.mgrid[:height, :width]
    red, green = (x + 0.5) / width * 255, (y + 0.5) / height * 255
    return Image.fromarray(np.stack([red, green, np.full_like(red, 255)], 2).round().astype(np.uint8))


def seen_box(output: Tensor) -> tuple[Box, bool]:
    """Which part of a `place_image` a tensor (3, h, w) in [0, 1] shows, by its colours, and whether it is mirrored."""
    inside = output[2] > 0.95
    rows, columns = torch.nonzero(inside.any(1)).flatten(), torch.nonzero(inside.any(0)).flatten()
    red, green = output[0][rows][:, columns].mean(0), output[1][rows][:, columns].mean(1)

    def edges(values: Tensor, places: Tensor, count: int) -> tuple[float, float]:
        # A line through the colours, away from the blurred ends, read at the output's outer edges.
        n = len(values)
        inner = slice(n // 10, n - n // 10)
        slope, at_zero = np.polyfit((places.double() + 0.5)[inner], values.double()[inner], 1)
        return at_zero, at_zero + slope * count

    x0, x1 = edges(red, columns, output.shape[2])
    y0, y1 = edges(green, rows, output.shape[1])
    return Box(min(x0, x1), y0, max(x0, x1), y1), x1 < x0


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
    "sequential": lambda: nn.Sequential(v2.ToImage(), v2.RandomResizedCrop(96), v2.ToDtype(torch.float32, scale=True)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_box_and_the_flip_are_those_of_the_pixels(name: str) -> None:
    tracked = TrackedTransform(PIPELINES[name]())
    torch.manual_seed(0)
    random.seed(0)
    flips = []
    for size_hw in SIZES_HW * 4:
        output, view = tracked(place_image(*size_hw))
        box, flip = seen_box(output)
        assert view.box.xyxy == pytest.approx(box.xyxy, abs=0.02)
        assert view.flip == flip
        flips.append(flip)
    assert ("Flip" in str(PIPELINES[name]())) == (len(set(flips)) == 2)


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


@pytest.mark.parametrize(
    "step",
    [
        v1.RandomRotation(10),
        v2.RandomAffine(5),
        v2.RandAugment(),
        v2.RandomVerticalFlip(),
        v1.Lambda(lambda x: x),
        v1.RandomApply([v1.ColorJitter(0.1), v1.RandomCrop(5)]),
        v2.RandomChoice([v2.Grayscale(), v2.RandomHorizontalFlip()]),
        nn.Identity(),
        lambda image: image,
    ],
    ids=lambda step: getattr(step, "__name__", str(step)),
)
def test_a_step_that_moves_pixels_otherwise_or_is_unknown_is_refused_by_name(step: Any) -> None:
    name = getattr(step, "__qualname__", type(step).__name__)
    with pytest.raises(InvalidValueError, match="crop box through") as caught:
        TrackedTransform(v1.Compose([v1.RandomResizedCrop(8), step]))
    assert name in str(caught.value)
    assert "RandomResizedCrop" not in str(caught.value).partition("Known")[0]
    allowed = TrackedTransform(v1.Compose([v1.CenterCrop(8), step]), untracked=(step,))
    assert allowed(place_image(8, 8))[1].box == Box.whole()


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

    with pytest.raises(InvalidValueError, match=r"through ToNumpy\."):
        TrackedTransform(v1.Compose([ToNumpy()]))


def test_a_refused_step_is_named_once() -> None:
    with pytest.raises(InvalidValueError, match=r"through RandomRotation, RandomVerticalFlip\. Known"):
        TrackedTransform(v1.Compose([v1.RandomRotation(1), v1.RandomVerticalFlip(), v1.RandomRotation(9)]))


def test_a_step_is_left_as_it_was() -> None:
    step = v1.RandomResizedCrop(8)
    before = dict(step.__dict__)
    TrackedTransform(step)(place_image(20, 20))
    assert step.__dict__ == before


def test_a_class_of_steps_may_be_left_untracked() -> None:
    transform = create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1")
    with pytest.raises(InvalidValueError, match="through RandAugment\\."):
        TrackedTransform(transform)
    kind = next(type(step) for step in transform.transforms if type(step).__name__ == "RandAugment")
    output, _ = TrackedTransform(transform, untracked=(kind,))(place_image(40, 50))
    assert output.shape == (3, 32, 32)


def test_containers_of_colour_steps_pass() -> None:
    colours = v2.RandomOrder([v2.ColorJitter(0.2), v2.RandomApply([v2.GaussianBlur(3)])])
    _, view = TrackedTransform(v2.Compose([colours, v2.CenterCrop(10)]))(place_image(10, 20))
    assert view == View(Box(0.25, 0.0, 0.75, 1.0), False)


@pytest.mark.parametrize("mode", ["rkrc", "rkrr"])
def test_timms_other_crop_modes_are_followed(mode: str) -> None:
    transform = create_transform(64, is_training=True, train_crop_mode=mode, color_jitter=None, hflip=0)
    for seed in range(8):
        random.seed(seed)
        _, view = TrackedTransform(transform)(place_image(80, 160))
        # The shorter side becomes 64 pixels, so that much of the longer one is left out.
        assert view.box.size_hw == pytest.approx((1.0, 0.5), rel=0.4)
        assert view.box.size_hw != (1.0, 1.0)


def test_several_crops_of_one_image_are_refused_by_name() -> None:
    class TwoViews(v2.Compose):
        def forward(self, *inputs: Any) -> Any:
            return [super(TwoViews, self).forward(*inputs) for _ in range(2)]

    for transform in (TwoViews([v2.RandomResizedCrop(8)]), v1.FiveCrop(8), (v1.CenterCrop(8), v1.ToTensor())):
        with pytest.raises(InvalidValueError, match=f"through {type(transform).__name__}\\."):
            TrackedTransform(transform)  # type: ignore[arg-type]


def test_a_crop_that_has_nothing_of_the_image_is_an_error() -> None:
    for top, left in ((0, 30), (20, 0), (-5, 0), (0, -5)):
        with pytest.raises(InvalidValueError, match="has nothing of an image of height 20 and width 30"):
            Box.from_crop(top, left, 5, 5, (20, 30))
        assert Box.from_crop(top * 0.9, left * 0.9, 5, 5, (20, 30))


def test_a_crop_that_is_drawn_behind_the_back_of_get_params_is_an_error_not_a_guess() -> None:
    class Own(v1.RandomResizedCrop):
        def forward(self, img: Any) -> Any:
            return img.resize((8, 8))

    class Twice(v1.RandomResizedCrop):
        def forward(self, img: Any) -> Any:
            return super().forward(super().forward(img))

    for kind, times in ((Own, 0), (Twice, 2)):
        with pytest.raises(InvalidValueError, match=f"get_params {times} times"):
            TrackedTransform(kind(8))(place_image(20, 20))
