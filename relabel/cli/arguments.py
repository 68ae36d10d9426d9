"""Arguments that several commands take, and teachers that a user brings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click


def local(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Refuse a URL where a folder is written; a callback of an argument."""
    if ":/" in str(value):
        raise click.BadParameter(f"{value} is a URL; {ctx.info_name} needs a local folder. Copy it there afterwards")
    return value


store_to_write = click.argument("store", type=click.Path(path_type=Path), callback=local)


def find_functions(names: Sequence[str]) -> None:
    """Look for a user's teachers where the user stands, as `python -m relabel` does by itself."""
    if any(":" in name for name in names):
        sys.path.insert(0, str(Path.cwd()))
