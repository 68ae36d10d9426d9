"""Options of the command line, made from the types that carry them, and shown in groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from relabel.options import Declared, Group, declared, for_each
from relabel.paths import expanded, file_and_part

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Made = TypeVar("_Made")

_GROUPS: tuple[Group, ...] = ("teacher", "map", "run", "output")
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}
_MANY = 16
"""How many numbers may follow an option that takes any number of them."""


class Value(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A word, a number, several of them (``320 480``, ``320x480``, ``1.0,1.25``), text, or a file."""

    name = "value"

    def __init__(self, option: Declared) -> None:
        self.option = option
        numbers = option.count or _MANY
        self.numbers = 1 if option.kind in (None, str, Path) else numbers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What text stands for; None for the word that says so."""
        option = self.option
        if not isinstance(value, str) or value in option.words:
            return value
        if option.option.each and value == option.option.each:
            return None
        made = self._read(value)
        if made is None or not option.allows(made):
            shape = f", given as {option.option.metavar}" if option.count != 1 else ""
            self.fail(f"{value!r} is not what is expected: {option.expected}{shape}", param, ctx)
        if isinstance(made, Path) and not is_file(made := expanded(made)):
            self.fail(f"there is no file {str(made)!r}", param, ctx)
        return made

    def _read(self, text: str) -> Any:
        kind = self.option.kind
        try:
            if self.option.count == 1:
                return None if kind is None else kind(text)
            values = [kind(part) for part in re.split("[x, ]", text.lower())]  # type: ignore[misc]
        except ValueError:
            return None
        # One number of a size is a square's.
        return tuple(values * 2 if len(values) == 1 and kind is int and self.option.count == 2 else values)


def is_file(path: Path) -> bool:
    """Whether a file that an option names is there."""
    return file_and_part(path)[0].is_file()


class Shown(click.Option):
    """An option that stands below the heading of its group."""

    def __init__(self, *args: Any, group: Group = "output", aside: str = "", **given: Any) -> None:
        super().__init__(*args, **given)
        self.group, self.aside = group, aside

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """The names and the metavar; the help, and what holds where it is not given."""
        names = ", ".join(self.opts) + ("" if self.is_flag else f" {self.metavar}")
        return names, (self.help or "") + (f" [{self.aside}]" if self.aside else "")


class Command(click.Command):
    """A command whose options stand in groups, and whose options of several numbers take them one after the other."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join ``--image-size H W`` to one value before click counts values."""
        most = {name: p.type.numbers for p in self.params if isinstance(p.type, Value) for name in p.opts}
        joined: list[str] = []
        room = 0
        for arg in args:
            is_number = arg.isascii() and arg.replace(".", "", 1).isdecimal()
            if room and is_number:
                joined[-1] = f"{joined[-1]} {arg}"
                room -= 1
                continue
            room = most.get(joined[-1] if joined else "", 1) - 1 if is_number else 0
            joined.append(arg)
        return super().parse_args(ctx, joined)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of each group; those of click's own come last."""
        for group in _GROUPS:
            named = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
            shown = [p for p in named if getattr(p, "group", "output") == group]
            records = [record for p in shown if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(group.capitalize()):
                    formatter.write_dl(records)


def options(*kinds: Any, but: tuple[str, ...] = ()) -> Callable[[_Command], _Command]:
    """Decorate a command with the options of some types, less those of some names."""
    found = [option for kind in kinds for option in declared(kind) if option.name not in but]

    def decorate(command: _Command) -> _Command:
        for option in reversed(found):
            command = _click_option(option)(command)
        return command

    return decorate


def _click_option(option: Declared) -> Callable[[_Command], _Command]:
    said, flags = option.option, (*option.option.flag.split("/")[:-1], option.flag)
    given: dict[str, Any] = {"cls": Shown, "group": said.group, "help": said.help}
    if option.kind is bool:
        given |= {"is_flag": True, "flag_value": not option.default, "default": None}
        return click.option(*flags, option.name, **given)
    metavar = said.metavar or "|".join((*([_METAVARS[option.kind]] if option.kind else []), *option.words))
    given |= {"type": Value(option), "metavar": metavar, "aside": _aside(option)}
    given |= {"multiple": said.each is not None, "required": option.is_required}
    return click.option(*flags, option.name, **given)


def _aside(option: Declared) -> str:
    """What holds where an option is not given."""
    if option.is_required or option.option.unset or option.default in (None, ()):
        return "required" if option.is_required else option.option.unset
    several = option.default if isinstance(option.default, tuple) else (option.default,)
    return "default: " + " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in several)


def made(kind: Callable[..., _Made], given: Mapping[str, Any], **more: Any) -> _Made:
    """A value of a type of options from what a command was given; what was not given has the type's own default."""
    found = {option.name: given[option.name] for option in declared(kind) if option.name in given}
    return kind(**{name: value for name, value in found.items() if value is not None} | more)


def made_each(kind: Callable[..., _Made], given: Mapping[str, Any], count: int) -> tuple[_Made, ...]:
    """`count` such values, with what each of them was given."""
    each = {o.name: for_each(o, given[o.name], count) for o in declared(kind) if o.option.each is not None}
    return tuple(made(kind, {**given, **{name: values[i] for name, values in each.items()}}) for i in range(count))
