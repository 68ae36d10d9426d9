"""What a trainer's own transforms made of an image: the crop box and the flip, read off while they run.

The trainer's steps run unchanged and draw the same random numbers; a step that crops or flips is watched. A step that
moves pixels in a way that a box and a flip cannot say (a rotation), or that is not known, is refused when the pipeline
is taken up, not found in a worker an hour later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.frames import image_size_hw
from relabel.geometry.views import View

_FLIPPED = View(Box.whole(), flip=True)


class TrackedTransform:
    """A trainer's transform that also tells the `View` it made. Picklable if the transform is.

    Knows the steps of torchvision's transforms v1 and v2 and of timm that keep, crop, resize or mirror an image, inside
    ``Compose`` and ``nn.Sequential``.

    Args:
        transform: the transform, from an image (PIL, or a tensor (..., height, width)) to anything; None keeps images.
        untracked: steps, or classes of steps, that may move pixels and whose effect on the label is to be ignored
            (RandAugment, a lambda).

    Raises:
        InvalidValueError: a step is not known, or moves pixels otherwise; names each, and the ways out.
    """

    def __init__(self, transform: Callable[[Any], Any] | None, untracked: Collection[object] = ()) -> None:
        steps = [] if transform is None else [(step, _handler(step, untracked)) for step in _steps(transform)]
        self._steps = tuple((step, handler) for step, handler in steps if handler is not None)
        refused = [_name(step) for step, handler in steps if handler is None]
        if refused:
            raise InvalidValueError(
                f"cannot follow the crop box through {', '.join(dict.fromkeys(refused))}. Known are the crops, "
                "horizontal flips, resizes and colour steps of torchvision (v1, v2) and timm. If a step moves no "
                "pixels, or its effect on the label may be ignored, give TrackedTransform(transform, untracked=(the "
                "step or its class,)); else crop by yourself, and give "
                "relabel.Box.from_crop(top, left, height, width, image_size) to ScoreMap.pool"
            )

    def __call__(self, image: Any) -> tuple[Any, View]:
        """The transform's output, and what it shows of the image."""
        view = View.whole()
        for step, handler in self._steps:
            image, part, mirrored = handler(step, image)
            if part is not None:
                view = view.then(View(part))
            if mirrored:
                view = view.then(_FLIPPED)
        return image, view


def tracked(transform: Callable[[Any], Any] | None) -> TrackedTransform:
    """The transform as a `TrackedTransform`, which it may be already."""
    return transform if isinstance(transform, TrackedTransform) else TrackedTransform(transform)


_Moved = tuple[Any, Box | None, bool]
"""A step's output, the part of its input that this shows (None is all of it), and whether it is mirrored."""
_Handler = Callable[[Any, Any], _Moved]


_SEQUENCES = ((v1.Compose, "__call__"), (v2.Compose, "forward"), (nn.Sequential, "forward"))


def _steps(transform: Any) -> Iterator[Any]:
    # One that runs its steps by a rule of its own (twice, for two views) is a step that is not known.
    if any(
        isinstance(transform, kind) and getattr(type(transform), run) is getattr(kind, run) for kind, run in _SEQUENCES
    ):
        for step in transform if isinstance(transform, nn.Sequential) else transform.transforms:
            yield from _steps(step)
    else:
        yield transform


def _handler(step: Any, untracked: Collection[object]) -> _Handler | None:
    if any(step is known or type(step) is known for known in untracked):
        return _still
    if isinstance(step, (*_CONTAINERS, v1.RandomApply, v1.RandomTransforms)):
        # Whether one of them ran is not seen from outside, so none may move a pixel.
        inner = [_handler(each, untracked) for member in step.transforms for each in _steps(member)]
        return _still if all(handler is _still for handler in inner) else None
    for kind in type(step).__mro__:
        found = _TORCHVISION.get(kind)
        if found is None and kind.__module__.partition(".")[0] == "timm":
            found = _TIMM.get(kind.__name__)
        if found is not None:
            return found
    return None


def _name(step: Any) -> str:
    return str(getattr(step, "__qualname__", None) or type(step).__name__)


def _still(step: Any, image: Any) -> _Moved:
    return step(image), None, False


def _mirrored(step: Any, image: Any) -> _Moved:
    output = step(image)
    # Both versions hand back the very image that they leave alone.
    return output, None, output is not image


def _watched(step: Any, method: str, image: Any) -> tuple[Any, Any]:
    """Run a step on an image; its output, and what its own `method` answered while it ran."""
    answers: list[Any] = []
    original = getattr(step, method)

    def noting(*given: Any, **named: Any) -> Any:
        answers.append(original(*given, **named))
        return answers[-1]

    # On a copy, since a dataset may be asked from several threads; copy.copy takes as long as a small crop.
    double = object.__new__(type(step))
    double.__dict__.update(step.__dict__, **{method: noting})
    output = double(image)
    if len(answers) != 1:
        raise InvalidValueError(
            f"{_name(step)} asked its {method} {len(answers)} times for one image, not once, so its crop is not known; "
            "crop by yourself and give relabel.Box.from_crop(...) to ScoreMap.pool"
        )
    return output, answers[0]


def _crop_v1(step: Any, image: Any) -> _Moved:
    """RandomResizedCrop of torchvision v1 and of timm: ``get_params`` answers (top, left, height, width)."""
    output, (top, left, height, width) = _watched(step, "get_params", image)
    return output, Box.from_crop(top, left, height, width, image_size_hw(image)), False


def _padded_crop_v1(step: Any, image: Any) -> _Moved:
    """RandomCrop of torchvision v1, whose ``get_params`` sees the image after it was padded."""
    output, (top, left, height, width) = _watched(step, "get_params", image)
    image_height, image_width = image_size_hw(image)
    pad_left, pad_top, pad_right, pad_bottom = _ltrb(step.padding)
    if step.pad_if_needed:
        pad_left += max(0, step.size[1] - (image_width + pad_left + pad_right))
        pad_top += max(0, step.size[0] - (image_height + pad_top + pad_bottom))
    return output, Box.from_crop(top - pad_top, left - pad_left, height, width, (image_height, image_width)), False


def _padded(step: Any, image: Any) -> _Moved:
    left, top, right, bottom = _ltrb(step.padding)
    height, width = image_size_hw(image)
    box = Box.from_crop(-top, -left, height + top + bottom, width + left + right, (height, width))
    return step(image), box, False


def _ltrb(padding: Any) -> tuple[int, int, int, int]:
    """torchvision's padding, one number, two (x, y) or four, as left, top, right, bottom."""
    if padding is None:
        return (0, 0, 0, 0)
    sides = (padding,) if isinstance(padding, int) else tuple(padding)
    sides = sides * (4 // len(sides))
    return sides[0], sides[1], sides[2], sides[3]


def _crop_v2(step: Any, image: Any) -> _Moved:
    """RandomResizedCrop and RandomCrop of torchvision v2."""
    output, params = _watched(step, "make_params", image)
    pad_left, pad_top = params.get("padding", (0, 0))[:2]
    crop = params["top"] - pad_top, params["left"] - pad_left, params["height"], params["width"]
    return output, Box.from_crop(*crop, image_size_hw(image)), False


def _center_crop(step: Any, image: Any) -> _Moved:
    image_hw = image_size_hw(image)
    top, left = (
        # A larger crop is padded, the odd pixel behind; else the start is rounded to the nearest even.
        -((crop - side) // 2) if crop > side else round((side - crop) / 2)
        for side, crop in zip(image_hw, step.size, strict=True)
    )
    return step(image), Box.from_crop(top, left, step.size[0], step.size[1], image_hw), False


def _random_crop_or_pad(step: Any, image: Any) -> _Moved:
    """timm's, whose ``get_params`` answers (top, left), negative where it pads."""
    output, (top, left) = _watched(step, "get_params", image)
    return output, Box.from_crop(top, left, step.size[0], step.size[1], image_size_hw(image)), False


_CONTAINERS = (v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_STILL_IN_BOTH = (
    "ColorJitter", "ConvertImageDtype", "GaussianBlur", "Grayscale", "Normalize", "PILToTensor",
    "RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize", "RandomErasing", "RandomGrayscale",
    "RandomInvert", "RandomPosterize", "RandomSolarize", "Resize", "ToPILImage", "ToTensor",
)  # fmt: skip
_STILL_IN_V2 = (
    "GaussianNoise", "Identity", "JPEG", "RandomChannelPermutation", "RandomPhotometricDistort", "RandomResize",
    "RandomShortestSize", "RGB", "ScaleJitter", "ToDtype", "ToImage", "ToPureTensor",
)  # fmt: skip
_TORCHVISION: dict[type, _Handler] = {
    **{getattr(v1, name): _still for name in _STILL_IN_BOTH},
    **{getattr(v2, name): _still for name in (*_STILL_IN_BOTH, *_STILL_IN_V2)},
    v1.RandomResizedCrop: _crop_v1,
    v1.RandomCrop: _padded_crop_v1,
    v1.CenterCrop: _center_crop,
    v1.Pad: _padded,
    v1.RandomHorizontalFlip: _mirrored,
    v2.RandomResizedCrop: _crop_v2,
    v2.RandomCrop: _crop_v2,
    v2.CenterCrop: _center_crop,
    v2.Pad: _padded,
    v2.RandomHorizontalFlip: _mirrored,
}
_TIMM: dict[str, _Handler] = {
    # By name: a trainer that uses timm has loaded it, and no other should have to.
    "CenterCropOrPad": _center_crop,
    "MaybePILToTensor": _still,
    "MaybeToTensor": _still,
    "RandomCropOrPad": _random_crop_or_pad,
    "RandomErasing": _still,
    "RandomResizedCropAndInterpolation": _crop_v1,
    "ResizeKeepRatio": _still,
    "ToNumpy": _still,
    "ToTensor": _still,
}
