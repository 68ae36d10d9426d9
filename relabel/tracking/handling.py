"""Handlers: how a step is run, and what it then shows of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View

Shown = View | tuple[View, ...] | None
"""What a step's output shows of its input: None is all of it, as it was; a tuple is of a step of several outputs."""
Handler = Callable[[Any, Any], tuple[Any, Shown]]
"""From a step and an image to the step's output on it, and what this shows, in fractions of the image."""
Part = tuple[Any, Handler]
"""A step and its handler."""

FLIPPED = View(Box.whole(), flip=True)
FLIPPED_VERTICALLY = View(Box.whole(), flip_vertical=True)
TRANSPOSED = View.affine(((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))


def follow(parts: Iterable[Part], image: Any) -> tuple[Any, Shown]:
    """Run steps one after the other; the last output, and what it shows of the image."""
    shown: Shown = None
    for step, handler in parts:
        image, part = handler(step, image)
        if part is not None:
            shown = part if shown is None else then(shown, part)
    return image, shown


def then(shown: Shown, part: Shown) -> Shown:
    """What two steps, one after the other, show; after several outputs a step may only leave them as they are."""
    if shown is None or part is None:
        return shown or part
    if isinstance(shown, tuple):
        raise InvalidValueError(
            f"a step moves the pixels of {len(shown)} outputs at once, as of TenCrop or of two views, and only steps "
            "that move none may follow those; move it before them"
        )
    return tuple(shown.then(each) for each in part) if isinstance(part, tuple) else shown.then(part)


def still(step: Any, image: Any) -> tuple[Any, Shown]:
    """A step that moves no pixel; it may resize all of the image."""
    return step(image), None


def double_of(step: Any, **instead: Any) -> Any:
    """A shallow copy of a step, with other attributes: a data set may be asked from several threads.

    Not by copy.copy, which takes as long as a small crop.
    """
    double = object.__new__(type(step))
    double.__dict__.update(step.__dict__, **instead)
    return double


def run_with(step: Any, instead: Mapping[str, Any], image: Any, method: Callable[[Any, Any], Any] | None = None) -> Any:
    """The output of a step with other attributes; what it sets on itself it keeps, a count of its calls say."""
    double = double_of(step, **instead)
    output = double(image) if method is None else method(double, image)
    # The libraries' own steps set nothing.
    if not type(step).__module__.startswith(("torchvision.", "timm.")):
        for name, value in double.__dict__.items():
            if name not in instead and step.__dict__.get(name, instead) is not value:
                step.__dict__[name] = value
    return output


def watched(step: Any, method: str, image: Any) -> tuple[Any, list[Any]]:
    """Run a step on an image; its output, and all that its own `method` answered while it ran."""
    answers: list[Any] = []
    original = getattr(step, method)

    def noting(*given: Any, **named: Any) -> Any:
        answers.append(original(*given, **named))
        return answers[-1]

    return run_with(step, {method: noting}, image), answers


def watched_once(step: Any, method: str, image: Any) -> tuple[Any, Any]:
    """As `watched`, of a step that asks once for an image.

    Raises:
        InvalidValueError: it asked more or less often.
    """
    output, answers = watched(step, method, image)
    if len(answers) != 1:
        raise InvalidValueError(
            f"{name_of(step)} asked its {method} {len(answers)} times for one image, not once, so its crop is not "
            "known; crop by yourself and give relabel.Box.from_crop(...) to ScoreMap.pool"
        )
    return output, answers[0]


def name_of(step: Any) -> str:
    """What a step is called in an error."""
    return str(getattr(step, "__qualname__", None) or type(step).__name__)
