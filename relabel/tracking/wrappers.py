"""Looking for the transforms inside of others, of classes that nobody knows."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from relabel.tracking.albumentations import is_albumentations
from relabel.tracking.calling import held_by, is_carrier
from relabel.tracking.finding import find
from relabel.tracking.ignoring import has_no_map
from relabel.tracking.steps import CONTAINERS, SEQUENCES, handler_of_kind
from relabel.tracking.watching import Inner

_NO_STEPS = (type, types.BuiltinFunctionType, types.ModuleType)
_DEEPEST = 4
"""How many wrappers around each other are looked into: what holds transforms deeper down is no transform itself."""


def attributes_of(step: Any, as_inner: Callable[[Any], Inner], is_listed: Callable[[Any], bool]) -> dict[str, Any]:
    """The attributes of a step that hold transforms, in lists and dicts too, with each transform as an `Inner`.

    Args:
        step: the step.
        as_inner: from a transform to its `Inner`.
        is_listed: whether an object is to be taken for a transform, whatever it is.
    """

    def is_step(value: Any) -> bool:
        return is_listed(value) or _is_step(value, _DEEPEST)

    def replaced(value: Any) -> Any:
        if isinstance(value, list | tuple | nn.ModuleList):
            return [replaced(each) for each in value]
        if isinstance(value, dict | nn.ModuleDict):
            return {name: replaced(each) for name, each in value.items()}
        return as_inner(value) if is_step(value) else value

    return {name: replaced(value) for name, value in _held(step) if any(map(is_step, _elements(value) or [value]))}


def _held(step: Any) -> Iterator[tuple[str, Any]]:
    """What a step may hold others in; the modules of an ``nn.Module`` are a dict, its ``_modules``."""
    if is_carrier(step):
        yield from held_by(step)
        return
    for name, value in getattr(step, "__dict__", {}).items():
        if name == "_modules" or not (isinstance(step, nn.Module) and name.startswith("_")):
            yield name, value


def _elements(value: Any) -> list[Any] | None:
    """What a list or dict holds; None for anything else."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, nn.ModuleList | nn.ModuleDict):
        return list(value.children())
    return list(value.values()) if isinstance(value, dict) else None


def _holds_steps(value: Any, depth: int) -> bool:
    elements = _elements(value)
    return _is_step(value, depth) if elements is None else any(_is_step(each, depth) for each in elements)


def _is_step(value: Any, depth: int) -> bool:
    """Whether an object is a transform: of a known class, or of a child of one, or holding one."""
    # A model may hold an Identity, or a Sequential of layers.
    if not callable(value) or isinstance(value, _NO_STEPS) or type(value) is nn.Identity:
        return False
    if isinstance(value, SEQUENCES) and not isinstance(value, nn.Sequential):
        return True
    if (
        isinstance(value, CONTAINERS)
        or is_albumentations(value)
        or find(value)
        or has_no_map(value)
        or any(map(handler_of_kind, type(value).__mro__))
    ):
        return True
    return depth > 0 and any(_holds_steps(each, depth - 1) for _, each in _held(value))
