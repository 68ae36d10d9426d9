"""``relabel verify``: a store's bytes, and what its labels are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relabel.cli.arguments import files_option, find_functions, images_option, source_of
from relabel.cli.group import Commands
from relabel.cli.labels_text import labels_text
from relabel.cli.options import Command, Shown, made, options
from relabel.cli.output import as_json, finish, plain, quiet
from relabel.cli.text import shards_text
from relabel.verify.options import ShardsOptions
from relabel.worth import LabelsOptions, RerunOptions


@click.group(cls=Commands)
def verify() -> None:
    """Check a store before you trust it.

    \b
    Example:
      relabel verify shards labels.zarr
      relabel verify labels labels.zarr --images photos/
    """


@verify.command(cls=Command)
@click.argument("store")
@images_option
@files_option
@options(ShardsOptions)
@click.option(
    "--workers", cls=Shown, group="run", type=click.IntRange(1), metavar="N", help="Threads.", aside="one per core"
)
@quiet
@as_json
def shards(
    store: str,
    images: str | None,
    files: Path | None,
    workers: int | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Check every byte and every promise of STORE. Exits with 0 if good, 1 with findings, 2 if it cannot be read.

    With --repair, damaged shards are taken out of the store, and the command that made it labels them again; or, with
    --from, they are restored. It exits with 0 only if nothing is left to do.

    \b
    Example:
      relabel verify shards labels.zarr --images photos/
      relabel verify shards labels.zarr --subset 3/7 --json > findings.json
      relabel verify shards labels.zarr --repair --from /backup/labels.zarr
    """
    from relabel.verify import verify_shards

    how = made(ShardsOptions, given)
    report = verify_shards(store, source_of(images, files, how), how, workers=workers, show_progress=not quiet)
    finish(plain(report) if as_json else shards_text(report), is_good=report.is_good)


@verify.command(cls=Command)
@click.argument("store")
@images_option
@files_option
@options(RerunOptions, LabelsOptions)
@as_json
def labels(store: str, images: str | None, files: Path | None, as_json: bool, **given: Any) -> None:
    """Run the teacher of STORE again on a sample: are these its maps, and what are the labels worth?

    Compares the stored scores with the re-run's, says why they differ where they do, then measures labels of random
    crops against the teacher's own answer on their pixels, and recommends a space, a reading, K and M. Exits with
    0 if the maps are the teacher's, 1 with findings, 2 if it cannot be run.

    \b
    Example:
      relabel verify labels labels.zarr --images photos/ -n 64
      relabel verify labels labels.zarr --images 'train-{0000..1023}.tar' --checkpoint teacher.safetensors
    """
    from relabel.worth import verify_labels

    find_functions(given["teachers"])
    how = made(LabelsOptions, given, rerun=made(RerunOptions, given))
    source = source_of(images, files, how)
    if source is None:
        raise click.UsageError("Missing option '--images'")
    report = verify_labels(store, source, how)
    finish(plain(report) if as_json else labels_text(report), is_good=report.is_clean)
