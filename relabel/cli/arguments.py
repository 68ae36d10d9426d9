"""What several commands take: images, a store to write, and teachers that a user brings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.cli.options import Shown
from relabel.options import SourceOptions
from relabel.paths import expanded

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch.
    from relabel.images import ImageSource


def local(ctx: click.Context, _: click.Parameter, value: Path) -> Path:
    """Refuse a URL where a folder is written; a callback of an argument."""
    if ":/" in str(value):
        raise click.BadParameter(f"{value} is a URL; {ctx.info_name} needs a local folder. Copy it there afterwards")
    return expanded(value)


images_option = click.option(
    "--images", cls=Shown, group="run", metavar="IMAGES", help="What was labelled, a folder or tars, as for generate."
)
files_option = click.option(
    "--files",
    cls=Shown,
    group="run",
    metavar="LIST",
    type=click.Path(path_type=Path),
    help="A text file of images: per line a path below IMAGES, and perhaps a tab and a class, a number or a name.",
)
store_to_write = click.argument("store", type=click.Path(path_type=Path), callback=local)


def source_of(images: str | None, files: Path | None, options: SourceOptions) -> ImageSource | None:
    """The images of ``--images`` and ``--files``, None without either."""
    if images is None and files is not None:
        raise click.UsageError("--files lists images below the folder --images: give that too")
    from relabel.images import open_source

    return None if images is None else open_source(images, files, options)


def find_functions(names: Sequence[str]) -> None:
    """Look for a user's teachers where the user stands, as `python -m relabel` does by itself."""
    if any(":" in name for name in names):
        sys.path.insert(0, str(Path.cwd()))
