"""Who knows a step: users' own handlers, the table, and the parts for other libraries, asked in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import ImageOps

from relabel.errors import InvalidValueError
from relabel.tracking import auto_augment
from relabel.tracking.handling import Handler
from relabel.tracking.steps import CARRIERS, find_known
from relabel.tracking.turning import turned_upright

_REGISTERED: dict[type, Handler] = {}


def register_view(kind: type, handler: Handler) -> None:
    """Say what the steps of a class of your own show; they are then followed wherever `TrackedTransform` meets them.

    Args:
        kind: the class; children of it are other classes.
        handler: from (step, image) to ``(step(image), view)``: the `relabel.View` in fractions of the image that the
            step was given, or None where it shows all of it, as it is. A module's function, if transforms are pickled.

    Raises:
        InvalidValueError: `kind` is no class, or one whose steps may do anything, as v2.Lambda; or
            `handler` cannot be called.
    """
    if not isinstance(kind, type) or not callable(handler):
        raise InvalidValueError(f"register_view takes a class and a handler(step, image); got {kind!r} and {handler!r}")
    if kind in CARRIERS:
        raise InvalidValueError(
            f"register_view was given the class {kind.__name__}, whose steps may do anything; say what a class of your "
            "own shows"
        )
    _REGISTERED[kind] = handler


def _find_registered(step: Any) -> Handler | None:
    return _REGISTERED.get(type(step))


def _find_function(step: Any) -> Handler | None:
    return turned_upright if step is ImageOps.exif_transpose else None


_FINDERS: tuple[Callable[[Any], Handler | None], ...] = (
    _find_registered,
    find_known,
    auto_augment.handler_for,
    _find_function,
)


def find(step: Any) -> Handler | None:
    """The handler of a step that is known; None for any other."""
    return next((handler for finder in _FINDERS if (handler := finder(step)) is not None), None)
