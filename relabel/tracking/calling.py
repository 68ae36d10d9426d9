"""What a function, a partial or a method calls: the transforms that it holds, and itself with others in their place."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

from relabel.tracking.handling import run_with

_CELL, _GLOBAL = "cell ", "global "


def globals_of(function: types.FunctionType) -> list[str]:
    """The names of a function's module that it reads, and that are there; functions inside it included."""
    return [name for name in _read_by(function.__code__) if name in function.__globals__]


@functools.lru_cache(256)
def _read_by(code: types.CodeType) -> tuple[str, ...]:
    own = [each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"]
    inner = [_read_by(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return tuple(dict.fromkeys([*own, *(name for names in inner for name in names)]))


def is_carrier(step: Any) -> bool:
    """Whether a step is a function, a partial, or a method of an object."""
    return isinstance(step, types.FunctionType | types.MethodType | functools.partial)


def held_by(step: Any) -> Iterator[tuple[str, Any]]:
    """What a function, partial or method holds, by names for `called_with`."""
    if isinstance(step, types.FunctionType):
        for number, cell in enumerate(step.__closure__ or ()):
            value = getattr(cell, "cell_contents", None)
            yield f"{_CELL}{number}", value
        # With others in their place, it would not set its module's own names.
        if not any(each.opname == "STORE_GLOBAL" for each in dis.get_instructions(step.__code__)):
            yield from ((f"{_GLOBAL}{name}", step.__globals__[name]) for name in globals_of(step))
    elif isinstance(step, functools.partial):
        yield from (("func", step.func), ("args", step.args), ("keywords", step.keywords))
    elif isinstance(step, types.MethodType):
        yield from getattr(step.__self__, "__dict__", {}).items()


def called_with(step: Any, instead: Mapping[str, Any], image: Any) -> Any:
    """The output of any step that holds other things in the place of some."""
    if isinstance(step, types.MethodType):
        return run_with(step.__self__, instead, image, step.__func__)
    if isinstance(step, functools.partial):
        func, given = instead.get("func", step.func), instead.get("args", step.args)
        return functools.partial(func, *given, **instead.get("keywords", step.keywords))(image)
    return _double(step, instead)(image) if isinstance(step, types.FunctionType) else run_with(step, instead, image)


def _double(step: types.FunctionType, instead: Mapping[str, Any]) -> types.FunctionType:
    cells = tuple(
        types.CellType(instead[name]) if (name := f"{_CELL}{number}") in instead else cell
        for number, cell in enumerate(step.__closure__ or ())
    )
    names = {name.removeprefix(_GLOBAL): value for name, value in instead.items() if name.startswith(_GLOBAL)}
    others = {**step.__globals__, **names} if names else step.__globals__
    double = types.FunctionType(step.__code__, others, step.__name__, step.__defaults__, cells)
    double.__kwdefaults__ = step.__kwdefaults__
    return double
