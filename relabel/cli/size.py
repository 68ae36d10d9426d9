"""``--image-size``: one number or two, in any of the ways that people write them."""

from __future__ import annotations

import click

_OPTION = "--image-size"


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``320`` or ``320x480`` to (height, width) in pixels; a callback of the option."""
    if value is None:
        return None
    numbers = value.lower().split("x")
    if len(numbers) > 2 or not all(_is_number(number) and int(number) > 0 for number in numbers):
        raise click.BadParameter(
            f"{value!r} is no size. Give a height and a width, 320 480 or 320x480, or 320 for both"
        )
    return int(numbers[0]), int(numbers[-1])


class ImageSizeCommand(click.Command):
    """A command whose ``--image-size`` takes one number or two."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join ``--image-size H W`` to one value before click counts values."""
        joined: list[str] = []
        for arg in args:
            if joined[-2:-1] == [_OPTION] and _is_number(joined[-1]) and _is_number(arg):
                joined[-1] = f"{joined[-1]}x{arg}"
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
