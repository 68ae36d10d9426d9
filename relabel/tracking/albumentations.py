"""Following albumentations, whose pipelines are called ``pipeline(image=array)`` and answer a dict.

A pipeline's own code runs and draws, from the very generators that it would draw from alone. Each transform in it that
moves pixels is watched as it is applied, when its parameters are known; what they say is exact to the pixel's half,
while the keypoints that albumentations can send along are half a pixel off after resizes, and many after reflections.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from relabel.geometry import Box
from relabel.geometry.views import View, inverted
from relabel.tracking.handling import FLIPPED, FLIPPED_VERTICALLY, TRANSPOSED, Shown, double_of, then
from relabel.tracking.steps import is_of
from relabel.tracking.turning import view_of_pixels

_Size = tuple[int, int]
_Move = Callable[[Mapping[str, Any], _Size, _Size], View]


def _cropped(params: Mapping[str, Any], image_hw: _Size, _: _Size) -> View:
    """All that crop have the corners in pixels of the image, padded before where it was too small."""
    pad = params.get("pad_params") or {"pad_left": 0, "pad_top": 0}
    left, top, right, bottom = params["crop_coords"]
    left, right = left - pad["pad_left"], right - pad["pad_left"]
    top, bottom = top - pad["pad_top"], bottom - pad["pad_top"]
    return View(Box.from_crop(top, left, bottom - top, right - left, image_hw))


def _padded(params: Mapping[str, Any], image_hw: _Size, output_hw: _Size) -> View:
    return View(Box.from_crop(-params["pad_top"], -params["pad_left"], *output_hw, image_hw))


def _cropped_and_padded(params: Mapping[str, Any], image_hw: _Size, _: _Size) -> View:
    """CropAndPad, which may resize what it made to the image's size."""
    x0, y0, x1, y1 = params["crop_params"] or (0, 0, *reversed(image_hw))
    if not any((x0, y0, x1, y1)):
        x1, y1 = reversed(image_hw)
    above, below, before, behind = params["pad_params"] or (0, 0, 0, 0)
    x0, y0, x1, y1 = x0 - before, y0 - above, x1 + behind, y1 + below
    return View(Box.from_crop(y0, x0, y1 - y0, x1 - x0, image_hw))


def _warped(params: Mapping[str, Any], image_hw: _Size, output_hw: _Size) -> View:
    """OpenCV's map, from the image to the output, between centres of pixels."""
    (a, b, c), (d, e, f) = params["matrix"][:2].tolist()
    of_corners = (a, b, c + (1 - a - b) / 2), (d, e, f + (1 - d - e) / 2)
    (a, b, c), (d, e, f) = inverted(of_corners)
    return view_of_pixels((a, b, c, d, e, f), output_hw, image_hw)


def _rotated(params: Mapping[str, Any], image_hw: _Size, output_hw: _Size) -> View:
    turned = _warped(params, image_hw, image_hw)
    if params["x_min"] < 0:
        return turned  # with its border
    return turned.then(View(Box.from_crop(params["y_min"], params["x_min"], *output_hw, image_hw)))


def _streaked(params: Mapping[str, Any], image_hw: _Size, _: _Size) -> View:
    """MotionBlur, whose kernel may lie to one side: what is shown lies where the kernel's weight does."""
    kernel = params["kernel"]
    down, right = (
        float((kernel * at).sum()) - size // 2 for at, size in zip(np.indices(kernel.shape), kernel.shape, strict=True)
    )
    return View(Box.from_crop(down, right, *image_hw, image_hw))


_LOST = View.whole().ignoring()
_HALF_TURN = FLIPPED.then(FLIPPED_VERTICALLY)
_QUARTERS = (View.whole(), FLIPPED.then(TRANSPOSED), _HALF_TURN, FLIPPED_VERTICALLY.then(TRANSPOSED))
"""By the number of quarter turns, counter-clockwise."""
_D4 = {
    **dict(zip(("e", "r90", "r180", "r270"), _QUARTERS, strict=True)),
    "v": FLIPPED_VERTICALLY,
    "h": FLIPPED,
    "t": TRANSPOSED,
    "hvt": _HALF_TURN.then(TRANSPOSED),
}


def _lost(*_: Any) -> View:
    """Of those that move pixels in a way that no view tells."""
    return _LOST


_MOVES: dict[str, _Move] = {
    **dict.fromkeys(
        ("CenterCrop", "Crop", "RandomCrop", "RandomCropFromBorders", "RandomResizedCrop", "RandomSizedCrop"), _cropped
    ),
    **dict.fromkeys(("Pad", "PadIfNeeded"), _padded),
    **dict.fromkeys(("Affine", "SafeRotate", "ShiftScaleRotate"), _warped),
    **dict.fromkeys(("HorizontalFlip", "TimeReverse"), lambda *_: FLIPPED),
    **dict.fromkeys(("D4", "SquareSymmetry"), lambda params, *_: _D4[params["group_element"]]),
    "CropAndPad": _cropped_and_padded,
    "MotionBlur": _streaked,
    "RandomRotate90": lambda params, *_: _QUARTERS[params["factor"] % 4],
    "Rotate": _rotated,
    "Transpose": lambda *_: TRANSPOSED,
    "VerticalFlip": lambda *_: FLIPPED_VERTICALLY,
    **dict.fromkeys(
        ("ElasticTransform", "GridDistortion", "GridElasticDeform", "OpticalDistortion", "Perspective",
         "PiecewiseAffine", "RandomGridShuffle", "ThinPlateSpline"), _lost,
    ),
}  # fmt: skip
"""What each class that moves pixels shows, from (its parameters, size of the image, size of the output)."""
_STILL = {
    "CoarseDropout", "Erasing", "FrequencyMasking", "GridDropout", "LongestMaxSize", "Morphological", "NoOp",
    "PixelDropout", "RandomScale", "Resize", "SmallestMaxSize", "TimeMasking", "ToTensorV2", "XYMasking",
}  # fmt: skip
"""Besides all that albumentations applies to images only, not to masks: those change colours."""
_CONTAINERS = {"Compose", "OneOf", "OneOrOther", "RandomOrder", "ReplayCompose", "Sequential", "SomeOf"}


def is_albumentations(step: Any) -> bool:
    """Whether a step is albumentations', or of a child of one of its classes."""
    return any(is_of(kind, "albumentations") for kind in type(step).__mro__)


def plain(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of one that moves no pixel: an image of Pillow becomes an array of RGB; the output is the dict's."""
    if isinstance(image, Image.Image):
        # A copy, which albumentations may write to.
        image = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return step(image=image)["image"], None


@dataclass(frozen=True, slots=True)
class _Ignored:
    """What stands for a transform that is not followed during one call."""

    step: Any
    shown: list[Shown]

    def __call__(self, **data: Any) -> Any:
        result = self.step(**data)
        if result["image"] is not data["image"]:
            self.shown[0] = then(self.shown[0], _LOST)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The handler of an albumentations pipeline, or of a single transform.

    Attributes:
        still: transforms in it that move no pixel, though they are not known.
        ignored: transforms in it that are not followed: where they did something, the view is not exact.
        skips_lost: whether those that no view tells of are left out, as for a proof of the others.
    """

    still: tuple[Any, ...] = ()
    ignored: tuple[Any, ...] = ()
    skips_lost: bool = False

    def __call__(self, step: Any, image: Any) -> tuple[Any, Shown]:
        """Run the pipeline on an image, an array (height, width, channels) or of Pillow."""
        shown: list[Shown] = [None]
        output, _ = plain(self._watching(step, shown), image)
        return output, shown[0]

    def _watching(self, step: Any, shown: list[Shown]) -> Any:
        """A copy of a pipeline that notes what it shows."""
        if any(step is each for each in self.still):
            return step
        if any(step is each for each in self.ignored):
            return _Ignored(step, [None] if self.skips_lost else shown)
        if is_container(step):
            return double_of(step, transforms=[self._watching(each, shown) for each in step.transforms])
        move = _move_of(step)
        if move is None:
            return step
        original = step.apply_with_params

        def noting(params: dict[str, Any], **data: Any) -> Any:
            if self.skips_lost and move is _lost:
                return data
            result = original(params, **data)
            sizes = (data["image"].shape[:2], result["image"].shape[:2])
            shown[0] = then(shown[0], move(params, *sizes))
            return result

        return double_of(step, apply_with_params=noting)


def is_known(step: Any) -> bool:
    """Whether a transform or container is the library's own, runs its own code, and what it shows can be told."""
    kind = type(step)
    if not is_of(kind, "albumentations") or not _is_intact(step):
        return False
    if kind.__name__ == "SelectiveChannelTransform":
        # It puts what it moved beside what it left.
        return not any(_move_of(each) or is_container(each) for each in step.transforms)
    is_of_colours = _is_child(kind, "ImageOnlyTransform")
    return is_of_colours or kind.__name__ in _MOVES or kind.__name__ in _STILL | _CONTAINERS


def is_container(step: Any) -> bool:
    """Whether it holds others, in its ``transforms``."""
    return _is_child(type(step), "BaseCompose")


def _is_child(kind: type, name: str) -> bool:
    return any(is_of(each, "albumentations") and each.__name__ == name for each in kind.__mro__)


def is_lost(step: Any) -> bool:
    """Whether a known transform moves pixels in a way that no view tells."""
    return _move_of(step) is _lost


def _move_of(step: Any) -> _Move | None:
    return _MOVES.get(type(step).__name__)


def _is_intact(step: Any) -> bool:
    """Whether a transform runs the code of its class, and this is the library's."""
    kind, own = type(step), step.__dict__
    if "_key2func" in own and own["_key2func"].get("image") != step.apply:
        return False
    # Its classes give plain values for those that a step sets for itself.
    if any(callable(getattr(kind, name, None)) for name in own):
        return False
    # Some methods are wrapped by albucore.
    roots = tuple(sys.modules[name].__path__[0] + os.sep for name in ("albumentations", "albucore"))
    for parent in kind.__mro__[:-1]:
        for value in vars(parent).values():
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if code is not None and not code.co_filename.startswith(roots):
                return False
    return True
