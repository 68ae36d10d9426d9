"""A trainer's transform that also tells what it shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.finding import find
from relabel.tracking.handling import Handler, follow, name_of, still
from relabel.tracking.steps import is_intact

_WHOLE = View.whole()
_SEQUENCES = (v1.Compose, v2.Compose, nn.Sequential)
_CONTAINERS = (v2.RandomApply, v2.RandomChoice, v2.RandomOrder, v1.RandomApply, v1.RandomChoice, v1.RandomOrder)


class TrackedTransform:
    """A trainer's transform that also tells the `View` it made. Picklable if the transform is.

    Knows the steps of torchvision's transforms v1 and v2 and of timm that keep, crop, resize, mirror, turn or shear an
    image, inside ``Compose`` and ``nn.Sequential``.

    Args:
        transform: the transform, from an image (PIL, or a tensor (..., height, width)) to anything; None keeps images.
        untracked: steps, or classes of steps, that may move pixels and whose effect on the label is to be ignored
            (RandAugment, a lambda).

    Raises:
        InvalidValueError: a step is not known, or moves pixels otherwise; names each, and the ways out.
    """

    def __init__(self, transform: Callable[[Any], Any] | None, untracked: Collection[object] = ()) -> None:
        steps = [] if transform is None else [(step, _handler(step, untracked)) for step in _steps(transform)]
        self._parts = tuple((step, handler) for step, handler in steps if handler is not None)
        refused = [name_of(step) for step, handler in steps if handler is None]
        if refused:
            raise InvalidValueError(
                f"cannot follow the view through {', '.join(dict.fromkeys(refused))}. Known are the crops, flips, "
                "rotations, resizes and colour steps of torchvision (v1, v2) and timm. If a step moves no "
                "pixels, or its effect on the label may be ignored, give TrackedTransform(transform, untracked=(the "
                "step or its class,)); say what the steps of a class of yours show with relabel.register_view; else "
                "crop by yourself: relabel.Box.from_crop(top, left, height, width, image_size) is for ScoreMap.pool"
            )

    def __call__(self, image: Any) -> tuple[Any, Any]:
        """The transform's output, and the `View` of the image that it shows; of several outputs a tuple of views."""
        output, shown = follow(self._parts, image)
        return output, _WHOLE if shown is None else shown


def tracked(transform: Callable[[Any], Any] | None) -> TrackedTransform:
    """The transform as a `TrackedTransform`, which it may be already."""
    return transform if isinstance(transform, TrackedTransform) else TrackedTransform(transform)


def _steps(transform: Any) -> Iterator[Any]:
    # One that runs its steps by a rule of its own (twice, for two views) is a step that is not known.
    if type(transform) in _SEQUENCES and is_intact(transform):
        for step in transform if isinstance(transform, nn.Sequential) else transform.transforms:
            yield from _steps(step)
    else:
        yield transform


def _handler(step: Any, untracked: Collection[object]) -> Handler | None:
    if any(step is known or type(step) is known for known in untracked):
        return still
    if type(step) in _CONTAINERS and is_intact(step):
        # Whether one of them ran is not seen from outside, so none may move a pixel.
        inner = [_handler(each, untracked) for member in step.transforms for each in _steps(member)]
        return still if all(handler is still for handler in inner) else None
    return find(step)
