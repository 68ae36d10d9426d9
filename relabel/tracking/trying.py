"""Trying out a step that is not known: does it show what a guess says?"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.albumentations import Pipeline
from relabel.tracking.handling import Handler, Part, Shown, follow
from relabel.tracking.ignoring import ignored, untracked
from relabel.tracking.proof import prove
from relabel.tracking.watching import Watching

_WHOLE = View.whole()


def told(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of a step that may itself return ``(image, relabel.View)``, and else moves no pixel."""
    output = step(image)
    if isinstance(output, tuple) and len(output) == 2 and _is_shown(output[1]):
        return output
    return output, None


def _is_shown(value: Any) -> bool:
    several = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(view, View) for view in several)


def disproof(parts: tuple[Part, ...], name: str) -> str | None:
    """Why the last of some steps does not show what its handler says; None if it does."""
    return trial(parts, name)[0]


def trial(parts: tuple[Part, ...], name: str) -> tuple[str | None, Any]:
    """As `disproof`; and the copy of the last step that was tried, as that left it."""
    try:
        run = prove(_Run(without_ignored(parts)), name)
    except InvalidValueError as error:
        return str(error), None
    return None, run.parts[-1][0]


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
