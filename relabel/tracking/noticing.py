"""What was read to follow a step, or held while it was tried: once it is set anew, the step is looked at again."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

_SCALARS = (bool, int, float, str, type(None))
_SIZED = (list, dict, OrderedDict)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


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
    """What a step holds that its own calls leave alone.

    Attributes:
        owner: the step.
        count: of its attributes; a method that was put on it is one more. -1 is any.
        values: its numbers and strings, by name.
        sizes: the types and lengths of its lists and dicts, hooks among them, by name.
    """

    owner: Any
    count: int
    values: tuple[tuple[str, Any], ...]
    sizes: tuple[tuple[str, type[Sized], int], ...]

    @classmethod
    def of(cls, step: Any, is_known: bool = False) -> State:
        """The state of a step; of a known one, which reads its own attributes anew, only methods and hooks count."""
        own = getattr(step, "__dict__", {})
        names = [name for name in own if name in _HOOKS or not (is_known or name.startswith("_"))]
        return cls(
            step,
            len(own),
            tuple((name, own[name]) for name in names if type(own[name]) in _SCALARS and own[name] == own[name]),
            tuple((name, type(own[name]), len(own[name])) for name in names if type(own[name]) in _SIZED),
        )

    def kept_by(self, used: Any) -> State:
        """The part of it that is the same in a copy of the step that was used."""
        other = State.of(used)
        return State(
            self.owner,
            self.count if self.count == other.count else -1,
            tuple(each for each in self.values if each in other.values),
            tuple(each for each in self.sizes if each in other.sizes),
        )

    def is_other(self) -> bool:
        """Whether the step now holds something else."""
        own = getattr(self.owner, "__dict__", {})
        if self.count not in (-1, len(own)):
            return True
        for name, was in self.values:
            now = own.get(name)
            if now is not was and (type(now) is not type(was) or now != was):
                return True
        for name, kind, size in self.sizes:
            held: Any = own.get(name)
            if type(held) is not kind or len(held) != size:
                return True
        return False
