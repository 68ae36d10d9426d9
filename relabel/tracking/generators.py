"""The random generators of a user's own that steps draw from, wherever they are held, and their states."""

from __future__ import annotations

import gc
import random
import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from relabel.tracking.calling import globals_of
from relabel.tracking.noticing import LIBRARIES

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_LEAVES = (str, bytes, int, float, torch.Tensor, np.ndarray, types.CodeType, types.FrameType)
_LIKE_US = {*LIBRARIES, "relabel"}
"""Whose functions and classes draw from no generator of a user's but those that they are given."""
_MANY = 1000
"""No list of so many things holds the generators of a step."""
_MOST = 20_000
"""Things are looked at, those nearest first: some ten milliseconds."""


@contextmanager
def kept(holder: Any) -> Iterator[None]:
    """Afterwards each generator that a holder reaches is in the state that it was in before."""
    before = [(each, _state(each)) for each in _reached(holder)]
    try:
        yield
    finally:
        for each, state in before:
            _set_state(each, state)


def _reached(holder: Any) -> list[Generator]:
    """Through attributes, entries, slots, closures, and the names of its module that a function or method reads."""
    found: list[Generator] = []
    seen = {id(holder)}
    pending = deque([holder])
    while pending and len(seen) < _MOST:
        thing = pending.popleft()
        if _is_generator(thing):
            found.append(thing)
            continue
        for each in _held(thing):
            if id(each) not in seen:
                seen.add(id(each))
                pending.append(each)
    return found


def _held(thing: Any) -> Iterable[Any]:
    # By its type, and by what Python's own collector sees: no attribute is asked for, which might run code.
    kind = type(thing)
    if issubclass(kind, _LEAVES) or (issubclass(kind, list | tuple | dict | set | frozenset) and len(thing) > _MANY):
        return ()
    if issubclass(kind, types.ModuleType):
        return [each for each in list(vars(thing).values()) if _is_generator(each)]
    if issubclass(kind, type | types.FunctionType) and str(thing.__module__).partition(".")[0] in _LIKE_US:
        return ()
    if issubclass(kind, types.FunctionType):
        read = (thing.__globals__[name] for name in globals_of(thing))
        return thing.__closure__ or (), thing.__defaults__, thing.__kwdefaults__, thing.__dict__, *read
    return gc.get_referents(thing)


def _is_generator(thing: Any) -> bool:
    # The system's has no state.
    return issubclass(type(thing), Generator) and not issubclass(type(thing), random.SystemRandom)


def _state(generator: Generator) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
