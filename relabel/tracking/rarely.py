"""The proof of one unknown step by itself: many small images of many kinds, so that what is done to few is seen."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.agreement import Agreement
from relabel.tracking.places import position_image
from relabel.tracking.proof import FRAME, FRAMED, KINDS, ORIENTATION, WAYS_OUT, as_loaded, compared, undisturbed

_WHOLE = View.whole()
Pixels = NDArray[np.uint8]
Size = tuple[int, int]
Run = Callable[[Any], tuple[Any, Any]]
"""From an image to an output and what it shows; None is all of it, as it was."""

_DRAWS = 260
"""What is done to one image of fifty is done to none of these once in 190 times."""
_SEED = 5
"""Its first 260 numbers in [0, 1), of Python, numpy and torch, have 8, 6 and 5 below 0.02."""
_SIZES_HW: tuple[Size, ...] = ((64, 96), (96, 64), (80, 80), (112, 112), (48, 120), (120, 48))
"""Not smaller: what a blur of two pixels leaves of 32 looks like another place."""
_LARGER = 3
"""Times, where a fault is looked at again: honest steps whose outputs looked wrong look right."""
_SEEDS = 2
"""Images of a size and content."""
_BINS = 32
_PLAINLY = 0.9
"""Of an output's variance, explained by the level at each pixel: it is where it was. Moved by a twentieth: 0.5."""
_BLUR_PX = 1.2
"""What a blur leaves is looked at, too: half of those of recipes blur more, and half less."""
_DOUBTS = 1
"""Faults that may be chance, where the same dice could not be thrown again."""


def _coloured(pixels: Pixels, *by_channel: tuple[float, float]) -> Pixels:
    """Levels from one to the other in each channel."""
    parts = [low + (high - low) * (pixels[..., 0] / 255.0) for low, high in by_channel]
    return np.rint(np.stack(parts, axis=2)).astype(np.uint8)


def _framed(pixels: Pixels, level: int) -> Pixels:
    height, width = (side // FRAME for side in pixels.shape[:2])
    framed = np.full_like(pixels, level)
    framed[height:-height, width:-width] = pixels[height:-height, width:-width]
    return framed


_CONTENTS: tuple[Callable[[Pixels], Pixels], ...] = (
    lambda pixels: pixels,
    lambda pixels: _coloured(pixels, (0, 70), (0, 70), (0, 70)),
    lambda pixels: _coloured(pixels, (190, 255), (190, 255), (190, 255)),
    lambda pixels: _coloured(pixels, (30, 255), (10, 160), (0, 90)),
    lambda pixels: _coloured(pixels, (0, 90), (20, 170), (60, 255)),
    lambda pixels: _coloured(pixels, (255, 0), (0, 255), (180, 180)),
    lambda pixels: _coloured(pixels, (120, 250), (80, 200), (60, 170)),
    lambda pixels: _coloured(pixels, (0, 255), (0, 255), (250, 250)),
    lambda pixels: _framed(pixels, 0),
    lambda pixels: _framed(pixels, 255),
)
"""Grey, dark, bright, warm, cold, vivid, of skin, under a sky; with a frame."""
_FIRST_FRAMED = 8
_COUNT = len(_CONTENTS) * len(_SIZES_HW) * _SEEDS
_STRIDE = 37
"""Has no factor with that count, so that the draws go through all of them, and soon through all kinds."""


@functools.lru_cache(32)
def _position(seed: int, size_hw: Size) -> tuple[Pixels, tuple[NDArray[np.int64], ...]]:
    """A position image, and the bins of its levels."""
    pixels = position_image(seed, size_hw)
    grey = Image.fromarray(pixels).convert("L")
    return pixels, (_binned(grey), _binned(grey.filter(ImageFilter.GaussianBlur(_BLUR_PX))))


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """One image to be given.

    Attributes:
        pixels: (h, w, 3).
        like: an image of the kind that the step is given.
        seed: of the position image.
        margin: of a side, that is a frame.
        bins: the level, 0 to 31, of each pixel that is looked at; and the same where it is blurred.
    """

    pixels: Pixels
    like: Any
    seed: int
    margin: float
    bins: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, number: int, like: Any, size_hw: Size) -> _Sample:
        """The image of a number."""
        seed = number // (len(_CONTENTS) * len(_SIZES_HW)) % _SEEDS
        pixels, bins = _position(seed, size_hw)
        content = number % len(_CONTENTS)
        return cls(_CONTENTS[content](pixels), like, seed, FRAMED * (content >= _FIRST_FRAMED), bins)

    @property
    def size_hw(self) -> Size:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def image(self) -> Any:
        """It, of the kind that is given; a new one at each call."""
        if isinstance(self.like, Image.Image) and self.like.mode == "P":
            # Its numbers are its colours: a step may take either.
            image = Image.fromarray(self.pixels).convert("L")
            image.putpalette([level for level in range(256) for _ in range(3)])
            return image
        return _of_range(as_loaded(self.pixels, self.like), self.like)

    def fault(self, output: Any, shown: Any) -> Agreement | None:
        """The first fault of an output, or outputs."""
        outputs, views = (output, shown) if isinstance(shown, tuple) else ([output], [shown or _WHOLE])
        for each, view in zip(outputs, views, strict=True):
            if view == _WHOLE and self._is_in_place(each):
                continue
            for found in compared(each, view, self.seed, self.size_hw, self.margin):
                if found is not None and found.fault:
                    return found
        return None

    def _is_in_place(self, output: Any) -> bool:
        """Whether the level explains each pixel, so that nothing moved; False where that is not plain."""
        is_tensor = isinstance(output, torch.Tensor)
        array = output.detach().float().cpu().numpy() if is_tensor else np.asarray(output)
        if array.ndim == 3 and (is_tensor or array.shape[0] < array.shape[2]):
            array = array.transpose(1, 2, 0)
        if array.shape[:2] != self.size_hw:
            return False
        seen = array[_looked_at(self.size_hw)].astype(np.float32)
        values = seen.reshape(-1, math.prod(seen.shape[2:])).T.copy()
        variances = values.var(1)
        channel = int(variances.argmax())
        value, least = values[channel], _PLAINLY * float(variances[channel])
        return least > 0 and any(_between(bins, value) > least for bins in self.bins)


def _looked_at(size_hw: Size) -> tuple[slice, slice]:
    """A quarter of the pixels, without a frame."""
    height, width = size_hw
    return slice(height // FRAME, height - height // FRAME, 2), slice(width // FRAME, width - width // FRAME, 2)


def _binned(grey: Image.Image) -> NDArray[np.int64]:
    levels = np.asarray(grey)[_looked_at((grey.height, grey.width))]
    return levels.astype(np.int64).ravel() * _BINS // 256


def _between(bins: NDArray[np.int64], values: NDArray[np.float32]) -> float:
    """The variance of values that their bins explain."""
    counts = np.maximum(np.bincount(bins, minlength=_BINS), 1)
    means = np.bincount(bins, values, _BINS) / counts
    return float((counts * np.square(means - values.mean())).sum()) / len(bins)


def _of_range(image: Any, like: Any) -> Any:
    """A float tensor with the range of another, which may be normalised."""
    if isinstance(image, torch.Tensor) and image.dtype.is_floating_point and like.numel():
        low, high = float(like.min()), float(like.max())
        return image * (high - low) + low if low < 0 or high > 1 else image
    return image


def kinds_of_images() -> tuple[list[Any], ...]:
    """Images of each kind that a data set may load, the usual one first; of Pillow's in several modes, and turned."""
    plain = np.zeros((2, 2, 3), np.uint8)
    image = KINDS["an image of Pillow's"](plain)
    pillows = [image, image.convert("L"), image, image.convert("RGBA"), image, image.convert("P")]
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        turned = image.copy()
        turned.info["exif"] = exif.tobytes()
        pillows += [image, turned]
    return (pillows, *([make(plain)] for name, make in KINDS.items() if name != "an image of Pillow's"))


def prove_alone(run: Run, name: str, likes: Sequence[Any], size_hw: Size | None) -> bool:
    """Run a step on many small images of many kinds, and compare each output with what is told of it.

    What looks wrong is looked at again, larger, with the same random numbers. What the step cannot take is left out.

    Args:
        run: the step.
        name: what it is called in the error.
        likes: images as the step is given them.
        size_hw: the one size of those, if it is given no other.

    Returns:
        Whether it took any.

    Raises:
        InvalidValueError: it shows something else.
    """
    alone = _Alone(run, likes, size_hw)
    with undisturbed(_SEED):
        for draw in range(_DRAWS):
            fault = alone.fault(draw)
            if fault is not None:
                raise InvalidValueError(
                    f"{name} does not show what it tells: of {draw + 1} small images of many kinds, whose pixels say "
                    f"where they are, one {fault}. {WAYS_OUT}"
                )
    return alone.is_taken


@dataclass(slots=True)
class _Alone:
    """One step, what it is given, and what came of that so far."""

    run: Run
    likes: Sequence[Any]
    size_hw: Size | None
    is_taken: bool = False
    _doubts: int = 0
    _samples: dict[tuple[int, int], _Sample | None] = field(default_factory=dict)

    def fault(self, draw: int) -> str | None:
        """What is wrong with one draw, beyond doubt."""
        number, kind = draw * _STRIDE % _COUNT, draw % len(self.likes)
        height, width = _SIZES_HW[number // len(_CONTENTS) % len(_SIZES_HW)]
        if (number, kind) not in self._samples:
            self._samples[number, kind] = _Sample.of(number, self.likes[kind], (height, width))
        sample, dice = self._samples[number, kind], _state()
        if sample is None:
            return None
        try:
            output, shown = self.run(sample.image())
        except Exception:  # noqa: BLE001 - not ours, it may raise anything
            self._samples[number, kind] = None
            return None
        self.is_taken = True
        found = sample.fault(output, shown)
        if found is None:
            return None
        larger = _Sample.of(number, self.likes[kind], self.size_hw or (_LARGER * height, _LARGER * width))
        again = self._again(larger, dice)
        if again is None or larger.fault(*again) is None:
            repeated = self._again(sample, dice)
            # Honest, or the dice are its own, or it counts.
            self._doubts += repeated is None or not _is_same(repeated[0], output)
            if self._doubts <= _DOUBTS and not (found.is_sure and self.size_hw is None):
                return None
        return found.fault

    def _again(self, sample: _Sample, dice: tuple[Any, ...]) -> tuple[Any, Any] | None:
        """The same random numbers once more; None where it takes no such image."""
        after = _state()
        _set_state(dice)
        try:
            return self.run(sample.image())
        except Exception:  # noqa: BLE001 - not ours, it may raise anything
            return None
        finally:
            _set_state(after)


def _state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - steps draw from it


def _set_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))
