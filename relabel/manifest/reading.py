"""Records to JSON values and back, by the types of their fields: nothing is converted, guessed or left out."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from relabel.errors import InvalidValueError
from relabel.geometry import Footprint

UNSAID: Mapping[str, bool] = types.MappingProxyType({"unsaid": True})
"""Metadata of a field whose default is left out: older manifests lack it, and keep their identity."""


def plain(value: Any) -> Any:
    """A record, or a value of its fields, as JSON has it; a footprint is its four numbers."""
    if isinstance(value, Footprint):
        return list(value.xyxy)
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        unsaid = _unsaid(kind)
        values = {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
        return {name: plain(inner) for name, inner in values.items() if inner != unsaid.get(name, dataclasses.MISSING)}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value


def read(kind: Any, value: Any, name: str) -> Any:
    """The inverse of `plain` for a type: a record, a tuple, a union, a choice or a plain value.

    A whole number may stand for a fraction and becomes one; nothing else is of two types. Every field of a record must
    be there but one that `plain` leaves out, and no other.

    Raises:
        TypeError: the value is of another type; says where, by `name`.
        InvalidValueError: a record cannot have it.
    """
    if kind is Footprint:
        return Footprint(*read(tuple[float, float, float, float], value, name))
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        return _one_of(arguments, value, name)
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _wrong(name, value, "an object")
        return {read(str, key, name): read(arguments[1], inner, f"{name}.{key}") for key, inner in value.items()}
    if origin is Literal:
        # Whether a choice is one that is known, its record says, with all of them.
        return read(str, value, name)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(name, value, _PLAIN[kind])
    if kind is str:
        _check_text(value, name)
    return value


def _check_text(value: str, name: str) -> None:
    """Whether text can be printed and written, and is no book: names and digests are all that a manifest holds."""
    if len(value) > _MOST_TEXT:
        raise InvalidValueError(f"{name} is a text of {len(value)} characters; expected at most {_MOST_TEXT}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidValueError(f"{name} is {value[:80]!r}, which UTF-8 cannot say")


_MOST_TEXT = 1 << 12
_PLAIN = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _record(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object")
    hints = _hints(kind)
    needed = hints.keys() - _unsaid(kind).keys()
    if not needed <= value.keys() <= hints.keys():
        wrong = sorted(value.keys() - hints.keys()) or sorted(needed - value.keys())
        what = "which this format does not know" if value.keys() - hints.keys() else "which is missing"
        raise TypeError(f"{name}: {', '.join(wrong)}, {what}")
    return kind(**{field: read(hints[field], inner, f"{name}.{field}") for field, inner in value.items()})


@functools.cache
def _unsaid(kind: Any) -> Mapping[str, Any]:
    """The defaults of a record's fields that are left out."""
    return {field.name: field.default for field in dataclasses.fields(kind) if field.metadata == UNSAID}


_hints = functools.cache(get_type_hints)


def _one_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    """A value of the first of some types that it fits; told as the first one's fault, which is the usual one."""
    fault: TypeError | None = None
    for kind in kinds:
        try:
            return read(kind, value, name)
        except TypeError as error:
            fault = fault or error
    raise fault or _wrong(name, value, "a value")


def _tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(name, value, "a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise _wrong(name, value, f"a list of {len(kinds)}")
    return tuple(read(kind, inner, f"{name}[{i}]") for i, (kind, inner) in enumerate(zip(kinds, value, strict=True)))


def _wrong(name: str, value: Any, expected: str) -> TypeError:
    shown = repr(value)
    return TypeError(f"{name} is {shown if len(shown) <= 80 else shown[:80] + '...'}, not {expected}")
