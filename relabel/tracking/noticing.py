"""What was read to follow a step, or held while it was tried: once it is set anew, the step is looked at again."""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from relabel.tracking.calling import globals_of

_SCALARS = (bool, int, float, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OF_MODULE = (*_HOOKS, "_modules", "_buffers", "_parameters")
"""What an ``nn.Module`` keeps that changes what it does; the rest of its private attributes do not."""
_DEEPEST = 4
"""From the step to its attribute, to that's attribute, to an entry of it."""
_MOST = 64
"""Things are watched of a step, those nearest to it: some microseconds an image."""
_MANY = 16
"""Of a list or dict of more only the length is watched, of an array nothing."""
_MISSING = object()
LIBRARIES = {*sys.stdlib_module_names, "albumentations", "kornia", "numpy", "PIL", "timm", "torch", "torchvision"}
"""Whose objects, other than the step, are followed by themselves, or hold nothing that a trainer sets."""

_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)

_Watched = tuple[str, Callable[[Any, Any], Any], Any, Any, Any]
"""A path from the step, how to read it, from what, by which name, and what was there."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """An attribute that was read to follow a step: a list of steps, which may get another crop."""

    owner: Any
    name: str
    was: Any

    @classmethod
    def of(cls, owner: Any, name: str) -> Noticed:
        """An attribute as it is now."""
        value = owner.__dict__.get(name)
        return cls(owner, name, copy.copy(value) if isinstance(value, list | dict) else value)

    def is_other(self) -> bool:
        """Whether it is no longer what was read."""
        return bool(self.owner.__dict__.get(self.name) != self.was)


@dataclass(frozen=True, slots=True)
class State:
    """What a step holds that its own calls leave alone: attributes, theirs, what a function reads, its class's methods.

    Pickled without what was seen: in another process that is what is there, and other if it was so before.

    Attributes:
        owner: the step.
        is_known: whether it is a known step, which reads its attributes anew; only methods and hooks count.
        skipped: paths that its own calls change.
        watched: the rest.
        was_other: whether the step held something else when this was pickled or copied.
    """

    owner: Any
    is_known: bool
    skipped: frozenset[str]
    watched: tuple[_Watched, ...]
    was_other: bool = False

    @classmethod
    def of(cls, step: Any, is_known: bool = False, skipped: Collection[str] = (), was_other: bool = False) -> State:
        """The state of a step as it is now."""
        found = _of_known(step) if is_known else _walked(step)
        kept = tuple(each for each in found if each[0] not in skipped)
        return cls(step, is_known, frozenset(skipped), kept, was_other)

    def __reduce__(self) -> tuple[Any, ...]:
        return State.of, (self.owner, self.is_known, self.skipped, self.is_other())

    def is_other(self) -> bool:
        """Whether the step now holds something else."""
        if self.was_other:
            return True
        for _, read, holder, name, was in self.watched:
            now = read(holder, name)
            if now is not was and (type(now) is not type(was) or type(now) not in _COMPARED or now != was):
                return True
        return False

    def changed(self) -> frozenset[str]:
        """The paths of what is other."""
        return frozenset(each[0] for each in self.watched if State(None, False, frozenset(), (each,)).is_other())


_COMPARED = (*_SCALARS, bytes)


def _entry(holder: Any, name: Any) -> Any:
    return holder.get(name, _MISSING)


def _element(holder: Any, index: Any) -> Any:
    return holder[index] if index < len(holder) else _MISSING


def _attribute(holder: Any, name: Any) -> Any:
    return getattr(holder, name, _MISSING)


def _length(holder: Any, _: Any) -> int:
    return len(holder)


def _bytes(holder: Any, _: Any) -> bytes:
    held: bytes = holder.tobytes()
    return held


def _of_known(step: Any) -> Iterator[_Watched]:
    own = getattr(step, "__dict__", {})
    yield "()", _length, own, None, len(own)
    for name in _HOOKS:
        if name in own:
            yield name, _entry, own, name, own[name]
            yield f"{name}()", _length, own[name], None, len(own[name])


def _walked(step: Any) -> list[_Watched]:
    """What is held by a step, the nearest first."""
    found: list[_Watched] = []
    # The things are kept, so that no number is given to another.
    seen = {id(step): step}
    pending = deque([("", step, 0)])
    while pending and len(found) < _MOST:
        path, thing, depth = pending.popleft()
        for name, read, holder, key in _held(thing, is_step=depth == 0):
            value = read(holder, key)
            found.append((f"{path}.{name}", read, holder, key, value))
            if depth < _DEEPEST and id(value) not in seen and type(value) not in _COMPARED:
                seen[id(value)] = value
                pending.append((f"{path}.{name}", value, depth + 1))
    return found[:_MOST]


def _held(thing: Any, is_step: bool) -> Iterator[tuple[str, Callable[[Any, Any], Any], Any, Any]]:
    """What a thing holds: a name for it, how to read it, from what, and by which key."""
    kind = type(thing)
    if isinstance(thing, list | tuple | dict | set):
        yield "()", _length, thing, None
        if len(thing) <= _MANY and not isinstance(thing, set):
            keys = list(thing) if isinstance(thing, dict) else range(len(thing))
            read = _entry if isinstance(thing, dict) else _element
            yield from ((str(key), read, thing, key) for key in keys)
    elif isinstance(thing, types.FunctionType):
        given = ("__defaults__", "__kwdefaults__")
        yield from ((name, _attribute, thing, name) for name in given if getattr(thing, name) is not None)
        for number, cell in enumerate(thing.__closure__ or ()):
            yield f"cell {number}", _attribute, cell, "cell_contents"
        yield from ((f"global {name}", _entry, thing.__globals__, name) for name in globals_of(thing))
    elif isinstance(thing, types.MethodType):
        yield from ((name, _attribute, thing, name) for name in ("__func__", "__self__"))
    elif isinstance(thing, functools.partial):
        yield from ((name, _attribute, thing, name) for name in ("func", "args", "keywords"))
    elif isinstance(thing, torch.Tensor):
        if not thing.is_inference():
            yield "version", _attribute, thing, "_version"
    elif isinstance(thing, np.ndarray):
        if thing.size <= _MANY:
            yield "bytes", _bytes, thing, None
    elif isinstance(thing, type):
        yield from _of_class(thing)
    elif kind.__module__ == "multiprocessing.sharedctypes" and hasattr(kind, "value"):
        yield "value", _attribute, thing, "value"
    elif is_step or kind.__module__.partition(".")[0] not in LIBRARIES or kind in _NAMESPACES:
        yield from _of_object(thing)


def _of_object(thing: Any) -> Iterator[tuple[str, Callable[[Any, Any], Any], Any, Any]]:
    own = getattr(thing, "__dict__", {})
    yield "()", _length, own, None
    for name in own:
        if not isinstance(thing, nn.Module) or not name.startswith("_") or name in _OF_MODULE:
            yield name, _entry, own, name
    # Of a class that inherits them, too, which may get one of its own.
    calls = [name for name in ("__call__", "forward") if hasattr(thing, name) and name not in vars(type(thing))]
    yield from ((name, _attribute, type(thing), name) for name in calls if not isinstance(thing, nn.Module))
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        yield from ((name, _attribute, thing, name) for name in ((slots,) if isinstance(slots, str) else slots))
        yield from _of_class(kind)


def _of_class(kind: type) -> Iterator[tuple[str, Callable[[Any, Any], Any], Any, Any]]:
    """The methods, numbers and strings of a user's class."""
    if kind.__module__.partition(".")[0] not in LIBRARIES:
        for name, value in vars(kind).items():
            if (isinstance(value, types.FunctionType) and name != "__init__") or (
                type(value) in _SCALARS and not name.startswith("__")
            ):
                yield f"{kind.__qualname__}.{name}", _attribute, kind, name
