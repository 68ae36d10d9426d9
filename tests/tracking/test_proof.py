"""Position images show whether a pipeline tells what it shows, whatever it does to colours."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tracking import TrackedTransform
from relabel.tracking.places import position_image
from relabel.tracking.proof import prove, prove_known

CROP = (v2.RandomResizedCrop(64), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True))


def behind(*steps: Callable[[Any], Any], size: int = 64) -> Callable[[Any], tuple[Any, View]]:
    """A crop that is told, and steps that nobody hears of."""
    crop = TrackedTransform(v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]))

    def run(image: Any) -> tuple[Any, View]:
        output, view = crop(image)
        return v2.Compose(steps)(output), view

    return run


FLOATS = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
COLOURS: dict[str, tuple[Any, ...]] = {
    "of a training": (
        *(v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.2), v2.GaussianBlur(5), *FLOATS),
        *(v2.Normalize([0.4], [0.2]), v2.RandomErasing(1.0)),
    ),
    "folded": (
        v2.RandomSolarize(128, 0.5),
        v2.RandomPosterize(2, 0.5),
        v2.RandomInvert(),
        v2.RandomEqualize(),
        *FLOATS,
    ),
    "noise": (v2.RandomAutocontrast(), *FLOATS, v2.GaussianNoise(0, 0.1), v2.RandomErasing(1.0, value=1)),
    "JPEG": (v2.RandomChannelPermutation(), v2.JPEG((10, 50))),
    "one channel, half precision": (v2.Grayscale(), *FLOATS, lambda image: image.half()),
    "an array": (np.asarray,),
    "channels first": (lambda image: np.asarray(image).transpose(2, 0, 1),),
}


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("size", [32, 160])
def test_what_is_done_to_colours_is_no_fault(colours: str, size: int) -> None:
    prove(behind(*COLOURS[colours], size=size), "it")


MOVES: dict[str, Callable[[Any], Any]] = {
    "mirrored left to right": F.hflip,
    "mirrored top to bottom": F.vflip,
    "mirrored both ways": lambda image: F.hflip(F.vflip(image)),
    "another place": lambda image: image.transpose(-1, -2),
    "beside it": lambda image: F.resize(
        F.center_crop(image, [round(0.96 * s) for s in F.get_size(image)]), F.get_size(image)
    ),
    " ": lambda image: F.rotate(image, 4.0),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("size", [32, 160])
def test_what_is_done_to_places_is_a_fault(move: str, size: int) -> None:
    with pytest.raises(InvalidValueError, match=f"it does not show what it tells: of [0-9]+ images .*{move}"):
        prove(behind(*FLOATS, MOVES[move], size=size), "it")


def test_a_quarter_of_flips_is_a_fault() -> None:
    with pytest.raises(InvalidValueError, match="mirrored left to right"):
        prove(behind(*COLOURS["of a training"], v2.RandomApply([F.hflip], 0.25)), "it")


def test_another_image_is_a_fault() -> None:
    other = v2.functional.to_pil_image(torch.from_numpy(position_image(77, (160, 240))).permute(2, 0, 1))
    with pytest.raises(InvalidValueError, match="another image"):
        prove(lambda _: (other, View.whole()), "it")
    with pytest.raises(InvalidValueError, match=r"beside it|another place"):
        prove(lambda image: (image, View(Box(0.03, 0.0, 1.0, 1.0))), "it")


@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10), v2.RandomResizedCrop(64)]),
        v1.Compose([v1.RandomCrop(32, padding=4), v1.ToTensor()]),
        v1.Compose([v1.RandomCrop(224), v1.ToTensor()]),
        v2.FiveCrop(48),
        nn.Sequential(v2.RandomRotation(15), v2.ToDtype(torch.float32, scale=True)),
        None,
    ],
    ids=str,
)
def test_true_pipelines_of_every_kind_are_proved(transform: Any) -> None:
    prove(TrackedTransform(transform), "it")


@pytest.mark.parametrize(
    "step",
    [lambda image: image.point(lambda level: 255 - level), lambda image: image.mul(2), lambda image: image.flip(0)],
    ids=["Pillow's", "a tensor", "channels"],
)
def test_a_step_is_given_what_it_takes(step: Any) -> None:
    prove(lambda image: (step(image), View.whole()), "it")


def test_what_takes_no_image_says_so() -> None:
    with pytest.raises(InvalidValueError, match=r"takes no image to prove it on: TypeError: .*Tried were"):
        prove(lambda image: image + "a", "it")


def test_known_steps_are_not_refused_for_strong_blur() -> None:
    blurred = v2.Compose([v2.RandomResizedCrop(32), v2.GaussianBlur(9, (5.0, 6.0)), v2.ToImage()])
    prove_known(TrackedTransform(blurred), "it")


def _trim(image: Image.Image) -> Image.Image:
    plain = Image.new("RGB", image.size, image.getpixel((0, 0)))
    return image.crop(ImageChops.difference(image, plain).getbbox())


def _crop_large(image: Image.Image) -> Image.Image:
    return F.center_crop(image, [200, 200]) if min(image.size) > 300 else image


def _square_long(image: Image.Image) -> Image.Image:
    return F.center_crop(image, [min(image.size)] * 2) if max(image.size) > 2 * min(image.size) else image


def _pad_small(image: Image.Image) -> Image.Image:
    return F.pad(image, [10]) if min(image.size) < 48 else image


@pytest.mark.parametrize("step", [_trim, _crop_large, _square_long, _pad_small])
def test_a_step_that_changes_framed_large_long_or_small_images_is_refused(step: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"{step.__name__} does not show what it tells"):
        TrackedTransform(v2.Compose([step, v2.RandomResizedCrop(48)]))


def _cut(image: Image.Image) -> Image.Image:
    return F.center_crop(image, [side * 2 // 3 for side in image.size[::-1]])


@pytest.mark.parametrize(
    "dice", [random.random, np.random.random, lambda: float(torch.rand(())), np.random.default_rng(3).random]
)
def test_a_step_that_cuts_one_image_in_fifty_is_refused(dice: Callable[[], float]) -> None:
    with pytest.raises(InvalidValueError, match="does not show what it tells"):
        TrackedTransform(v2.Compose([lambda image: _cut(image) if dice() < 0.02 else image, v2.CenterCrop(48)]))


RULES: dict[str, Callable[[Image.Image], bool]] = {
    "dark": lambda image: np.asarray(image).mean() < 50,
    "bright": lambda image: np.asarray(image).mean() > 200,
    "coloured": lambda image: np.ptp(np.asarray(image).mean((0, 1))) > 50,
    "plain in one channel": lambda image: np.asarray(image).std((0, 1)).min() < 1,
    "grey": lambda image: image.mode == "L",
    "transparent": lambda image: image.mode == "RGBA",
    "of a palette": lambda image: image.mode == "P",
    "turned": lambda image: image.getexif().get(0x0112) == 3,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_cuts_images_of_a_kind_is_refused(rule: str) -> None:
    with pytest.raises(InvalidValueError, match=r"does not show what it tells.*one shows another place"):
        TrackedTransform(lambda image: _cut(image) if RULES[rule](image) else image)


def test_a_blur_is_no_fault_of_images_of_any_kind() -> None:
    blur = ImageFilter.GaussianBlur(2)
    TrackedTransform(lambda image: image.filter(blur) if random.random() < 0.5 else image)


class Dice:
    """Draws from everything, from a generator of its own as well."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(1)
        self.of_torch = torch.Generator().manual_seed(1)

    def __call__(self, image: Any) -> tuple[Any, View]:
        random.random()
        np.random.random()  # noqa: NPY002
        torch.rand(1)
        torch.rand(1, generator=self.of_torch)
        self.own.random()
        return image, View.whole()

    def state(self) -> list[str]:
        states = (random.getstate(), np.random.get_state(), torch.get_rng_state().tolist())  # noqa: NPY002
        return [str(each) for each in (*states, self.own.bit_generator.state, self.of_torch.get_state().tolist())]


def test_no_random_number_is_used_up() -> None:
    dice = Dice()
    before = dice.state()
    prove(dice, "it")
    assert dice.state() == before
    with pytest.raises(InvalidValueError):
        prove(lambda image: (F.hflip(image), dice(image)[1]), "it")
    assert dice.state()[:3] == before[:3]
