"""The command line: it parses, calls one function and prints. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import click

import relabel
from relabel.cli.generating import generate
from relabel.cli.group import Commands
from relabel.cli.importing import import_
from relabel.cli.joining import diff, merge
from relabel.cli.options import Command, Shown
from relabel.cli.output import as_json, finish, plain
from relabel.cli.teachers import teacher
from relabel.cli.text import store_text
from relabel.cli.verifying import verify


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relabel.__version__, prog_name="relabel")
def main() -> None:
    """Offline teacher labels for image training: a score map for every image, a soft label for every crop.

    \b
    Example:
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher convnext_tiny
      relabel verify shards labels.zarr --images 'train-{0000..1023}.tar'
      relabel verify labels labels.zarr --images 'train-{0000..1023}.tar' -n 256
      relabel import relabel relabel_imagenet/ imported.zarr --images train/
      relabel inspect labels.zarr
    """


main.add_command(generate)
main.add_command(import_)
main.add_command(merge)
main.add_command(diff)
main.add_command(teacher)
main.add_command(verify)


@main.command(cls=Command)
@click.argument("store")
@click.option(
    "--digest", cls=Shown, group="run", is_flag=True, help="Print only the number that relabel.open(digest=...) pins."
)
@as_json
def inspect(store: str, digest: bool, as_json: bool) -> None:
    """Print what STORE is: teacher, grid, planes, images, failures, size, unstored mass, labels, digest.

    \b
    Example:
      relabel inspect labels.zarr
      relabel inspect labels.zarr --digest
    """
    from relabel.store import StoreReader
    from relabel.summary import summarise

    if digest:
        told = StoreReader(store).digest()
        finish({"digest": told} if as_json else told, is_good=True)

    summary = summarise(store)
    manifest = summary.manifest.to_json()["relabel"]
    finish(plain(summary, manifest=manifest) if as_json else store_text(summary, store), is_good=True)
