"""Trying out a step that is not known: does it show what a guess says?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.frames import image_size_hw
from relabel.geometry.views import View
from relabel.tracking import auto_augment
from relabel.tracking.albumentations import Pipeline
from relabel.tracking.generators import kept
from relabel.tracking.handling import Handler, Part, Shown, follow
from relabel.tracking.ignoring import ignored, untracked
from relabel.tracking.noticing import State
from relabel.tracking.places import position_image
from relabel.tracking.proof import KINDS, prove_copy, undisturbed
from relabel.tracking.rarely import Size, kinds_of_images, prove_alone
from relabel.tracking.turning import upright_view
from relabel.tracking.watching import Watching

_WHOLE = View.whole()
_CONVERTING = {
    "ConvertImageDtype", "MaybePILToTensor", "MaybeToTensor", "PILToTensor", "ToDtype", "ToImage", "ToNumpy",
    "ToPILImage", "ToPureTensor", "ToTensor",
}  # fmt: skip
"""Steps that only make another kind of image, as what comes after them may need."""
_SIZES_HW: tuple[Size, ...] = ((240, 320), (320, 240), (260, 260))
"""Of images that are given to the steps before one, of which the sizes that it is given are seen."""


def told(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of a step that may itself return ``(image, relabel.View)``, and else moves no pixel."""
    output = step(image)
    if isinstance(output, tuple) and len(output) == 2 and _is_shown(output[1]):
        return output
    return output, None


def told_upright(step: Any, image: Any) -> tuple[Any, Shown]:
    """As `told`, of a step that turns an image by its Exif orientation, and moves nothing else."""
    turned = upright_view(image)
    output, shown = told(step, image)
    return output, turned if shown is None else shown


def _is_shown(value: Any) -> bool:
    several = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(view, View) for view in several)


def trial(parts: tuple[Part, ...], name: str) -> tuple[str | None, frozenset[str]]:
    """Why the last of some steps does not show what its handler says, None if it does.

    And what it changed of itself, as paths of its `State`.
    """
    run = copy.deepcopy(_Run(without_ignored(parts)))
    state = State.of(run.parts[-1][0])
    try:
        # A copy shares what functions read, and a step that cannot be copied is run itself.
        with kept(run):
            prove_copy(run, name)
            _prove_alone(run.parts, name)
    except InvalidValueError as error:
        return str(error), frozenset()
    return None, state.changed()


def _prove_alone(parts: tuple[Part, ...], name: str) -> None:
    """The last step by itself, on images such as those before it make."""
    *before, (step, handler) = parts
    if any(map(auto_augment.handler_of_kind, type(step).__mro__)):
        # What their strongest colours leave of a small image looks like another place.
        return
    handlers = [handler]
    if isinstance(handler, Watching):
        # What is done besides the steps inside, without those: they are followed for themselves.
        handlers = [handler.of_inner(lambda _: ()), handler.of_inner(_converting)]
    for likes, size_hw in _given(before):
        for each in handlers:
            if prove_alone(partial(each, step), name, likes, size_hw):
                return


def _converting(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if type(part[0]).__name__ in _CONVERTING)


def _given(before: Sequence[Part]) -> Iterator[tuple[list[Any], Size | None]]:
    """What a step is given, of the first kind that those before it take, and its one size, if it has."""
    if not before:
        yield from ((likes, None) for likes in kinds_of_images())
        return
    with undisturbed():
        for kind in KINDS.values():
            try:
                made = [follow(before, kind(position_image(0, size_hw)))[0] for size_hw in _SIZES_HW]
            except Exception:  # noqa: BLE001 - not ours, they may raise anything
                continue
            if all(map(_is_image, made)):
                sizes_hw = {image_size_hw(each) for each in made}
                yield made[:1], sizes_hw.pop() if len(sizes_hw) == 1 else None
            return


def _is_image(output: Any) -> bool:
    return output.ndim in (2, 3) if isinstance(output, Tensor | np.ndarray) else isinstance(output, Image.Image)


@dataclass(frozen=True, slots=True)
class _Run:
    """Steps to be run on position images, one copy for all of them."""

    parts: tuple[Part, ...]

    def __call__(self, image: Any) -> tuple[Any, Any]:
        output, shown = follow(self.parts, image)
        if not isinstance(shown, tuple) and not _is_image(output):
            raise InvalidValueError("its output is not one image, so what it shows is not known")
        return output, _WHOLE if shown is None else shown

    def __deepcopy__(self, memo: dict[int, Any]) -> _Run:
        try:
            return _Run(copy.deepcopy(self.parts, memo))
        except Exception:  # noqa: BLE001 - a step may hold what cannot be copied, a file or a lock; then itself is run
            return self


def without_ignored(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """What an ignored step moves would hide whether the others show what they tell."""
    return tuple((step, _without_lost(handler)) for step, handler in parts if handler not in (ignored, untracked))


def _without_lost(handler: Handler) -> Handler:
    if isinstance(handler, Pipeline):
        return replace(handler, skips_lost=True)
    return handler.of_inner(without_ignored) if isinstance(handler, Watching) else handler
