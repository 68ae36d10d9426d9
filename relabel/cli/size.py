"""Options of several numbers, ``--image-size 320 480``, in any of the ways that people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_MOST = {"--image-size": 2, "--grid": 2, "--mean": 3, "--std": 3, "--scales": 16}
"""How many numbers may follow each option; joined to one value with "x" before click counts values."""

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def each(read: Callback) -> Callback:
    """The same callback for an option that may be given several times: a tuple of what each value stands for."""
    return lambda ctx, param, values: tuple(read(ctx, param, value) for value in values)


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``320`` or ``320x480`` to (height, width); a callback of an option."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(
            f"{value!r} is no size. Give a height and a width, 320 480 or 320x480, or 320 for both"
        )
    return int(parts[0]), int(parts[-1])


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """``0.5 0.5 0.5``, ``0.5,0.5,0.5`` or ``1x1.25`` to a tuple; a callback of an option."""
    if value is None:
        return None
    parts = value.lower().replace(",", "x").split("x")
    if not all(map(_is_number, parts)):
        raise click.BadParameter(f"{value!r} are no numbers. Give them one after the other, such as 1.0 1.25")
    return tuple(map(float, parts))


class NumbersCommand(click.Command):
    """A command whose options of several numbers take them one after the other."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join ``--image-size H W`` to one value before click counts values."""
        joined: list[str] = []
        room = 0
        for arg in args:
            if room and _is_number(arg):
                joined[-1] = f"{joined[-1]}x{arg}"
                room -= 1
                continue
            option = joined[-1] if joined else ""
            room = _MOST.get(option, 1) - 1 if _is_number(arg) else 0
            joined.append(arg)
        return super().parse_args(ctx, joined)


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdecimal()
