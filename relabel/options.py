"""What an option is, said once: beside the field of the type that carries it.

``planes: Annotated[int, Option("Classes kept as planes.", group="map", least=1)] = 16`` is all that there is of an
option: the type is checked by it where it is born, the command line is made of it, and the README's tables are compared
with it.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from relabel.cores import usable_cores
from relabel.errors import InvalidValueError

Group = Literal["teacher", "map", "run", "output"]
_Value = TypeVar("_Value")

_NOUNS = {int: "whole number", float: "number", str: "text", bool: "switch, True or False", Path: "file"}


@dataclass(frozen=True, slots=True)
class Option:
    """What a field's name, type and default do not say of an option.

    Attributes:
        help: what it is, for a person who reads a list of them.
        group: under which heading it stands there.
        least, most: bounds of a number, or of each of several; with `is_open`, `least` is none of the values.
        unset: what holds where it is not given, for a default that does not say so itself.
        flag: its name on the command line, where that is not the field's; a short one may stand before it.
        metavar: what stands for its value.
        each: it may be given once for each teacher; the word that stands for None then, if there is one.
        is_shared: given once, it serves every teacher.
    """

    help: str
    group: Group
    least: float | None = None
    most: float | None = None
    is_open: bool = False
    unset: str = ""
    flag: str = ""
    metavar: str = ""
    each: str | None = None
    is_shared: bool = True


@dataclass(frozen=True, slots=True)
class Declared:
    """A field that is an option.

    Attributes:
        name: the field's.
        option: what stands beside its type.
        kind: int, float, str, bool or Path; None where only `words` are values.
        words: that may be given, instead of a value of `kind`.
        count: how many values of `kind` make one; 0 is any number of them, one or more.
        is_optional: None is a value.
        is_many: the field holds a tuple of values, each of one teacher.
        default: `dataclasses.MISSING` where there is none.
    """

    name: str
    option: Option
    kind: type | None
    words: tuple[str, ...]
    count: int
    is_optional: bool
    is_many: bool
    default: Any

    @property
    def flag(self) -> str:
        """On the command line: ``--image-size`` of `image_size_hw`."""
        return self.option.flag.split("/")[-1] or f"--{self.name.removesuffix('_hw').replace('_', '-')}"

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    @property
    def expected(self) -> str:
        """What its values are, for an error."""
        parts = [self._values()] if self.kind else []
        if self.words:
            parts.append(("one of " if len(self.words) > 1 else "") + ", ".join(map(repr, self.words)))
        return ", or ".join(parts)

    def allows(self, value: object) -> bool:
        """Whether a value, of one teacher where it is one of each, has a meaning."""
        if value is None:
            return self.is_optional
        if isinstance(value, str) and value in self.words:
            return True
        if self.count == 1:
            return self._is_plain(value)
        if not isinstance(value, (tuple, list)) or not value:
            return False
        return len(value) == (self.count or len(value)) and all(map(self._is_plain, value))

    def _is_plain(self, value: object) -> bool:
        if self.kind is Path:
            return isinstance(value, (str, Path))
        if self.kind not in (int, float):
            return self.kind is not None and isinstance(value, self.kind)
        least, most = self.option.least, self.option.most
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        is_above = least is None or value > least or (value == least and not self.option.is_open)
        return math.isfinite(value) and is_above and (most is None or value <= most)

    def _values(self) -> str:
        noun, bounds = _NOUNS[self.kind or str], self._bounds()
        if self.count == 1:
            return f"a {noun}{bounds and f', {bounds}'}"
        return f"{self.count or 'one or more'} {noun}s{bounds and f', each {bounds}'}"

    def _bounds(self) -> str:
        least, most = self.option.least, self.option.most
        if least is None:
            return ""
        if most is None:
            return f"{least} or more"
        return f"above {least} and at most {most}" if self.option.is_open else f"from {least} to {most}"


@functools.cache
def declared(kind: Any) -> tuple[Declared, ...]:
    """The options of a type, in the order of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        option = next((o for o in getattr(hints[field.name], "__metadata__", ()) if isinstance(o, Option)), None)
        if option is not None:
            found.append(_declared(field.name, option, get_args(hints[field.name])[0], field.default))
    return tuple(found)


def _declared(name: str, option: Option, hint: Any, default: object) -> Declared:
    is_many = option.each is not None and get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
    hint = get_args(hint)[0] if is_many else hint
    parts = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    plain = [part for part in parts if get_origin(part) is not Literal and part is not types.NoneType]
    kind, count = plain[0] if plain else None, 1
    if get_origin(kind) is tuple:
        several = get_args(kind)
        kind, count = several[0], 0 if several[-1] is Ellipsis else len(several)
    return Declared(name, option, kind, words, count, types.NoneType in parts, is_many, default)


def check_options(options: Any) -> None:
    """That every option of a value of such a type has a meaning; for its `__post_init__`.

    Raises:
        InvalidValueError: one has none; says which, and what is expected.
    """
    kind: Any = type(options)
    for option in declared(kind):
        value = getattr(options, option.name)
        if not all(map(option.allows, value if option.is_many else (value,))):
            raise InvalidValueError(f"{option.name} must be {option.expected}; got {value!r}")


def for_each(option: Declared, values: Sequence[_Value], count: int) -> Sequence[_Value | None]:
    """What each of `count` teachers is given: its own value, the one that serves all, or None where there is none.

    Raises:
        InvalidValueError: there are neither as many values as teachers, nor one that serves all.
    """
    if not values:
        return [None] * count
    if len(values) == 1 and (option.option.is_shared or count == 1):
        return [values[0]] * count
    if len(values) != count:
        stand_in = f" ({option.flag} {option.option.each} where there is none)" if option.option.each else ""
        raise InvalidValueError(
            f"{count} teachers and {len(values)} times {option.flag}: give it once for each, in their order{stand_in}"
        )
    return values


QUIET = Option("No progress bars.", "output", flag="--quiet")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How patiently images are read that a URL or a command brings."""

    source_timeout_seconds: Annotated[
        float,
        # A store of objects may take a minute to find one that it keeps on slow disks.
        Option(
            "How long a URL or pipe may bring no byte.",
            "run",
            least=0.1,
            flag="--source-timeout",
            metavar="SECONDS",
        ),
    ] = 120.0
    source_retries: Annotated[int, Option("How often one that stalls or fails is opened again.", "run", least=0)] = 3

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(SourceOptions):
    """What every run that writes a store is asked for."""

    samples_per_shard: Annotated[
        int | None,
        Option("Rows per shard; of tars the most, which skips their listing.", "run", least=1, unset="4096; a tar's"),
    ] = None
    workers: Annotated[int | None, Option("Threads and processes that read.", "run", least=1, unset="one per core")] = (
        None
    )
    max_failures: Annotated[
        float, Option("Failed fraction of the images to accept.", "run", least=0, most=1, metavar="FRACTION")
    ] = 0.01
    show_progress: Annotated[bool, QUIET] = True

    @property
    def threads(self) -> int:
        """`workers`, or the cores that this process may use."""
        return self.workers or usable_cores()
