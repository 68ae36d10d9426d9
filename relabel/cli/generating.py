"""``relabel generate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from relabel.cli.arguments import files_option, store_to_write
from relabel.cli.options import Command, Shown, made, options
from relabel.cli.output import as_json, finish, plain
from relabel.cli.ranks import rank_and_world_size
from relabel.cli.signals import telling_of
from relabel.cli.teachers import ensemble_spec
from relabel.cli.text import generate_text
from relabel.generate import GenerateOptions
from relabel.teacher import EnsembleSpec, TeacherSpec


@click.command(cls=Command)
@click.argument("images")
@store_to_write
@files_option
@options(TeacherSpec, EnsembleSpec, GenerateOptions)
@click.option("--timings", cls=Shown, is_flag=True, help="Print where the time went.")
@as_json
def generate(images: str, store: Path, files: Path | None, as_json: bool, timings: bool, **given: Any) -> None:
    """Run a teacher once over IMAGES and store a score map for each in STORE.

    IMAGES is a folder of class folders, or webdataset tars: a file, a glob, a brace pattern, a URL; or with --files
    the folder that a list starts from. Shards that STORE already holds are skipped, so that the same command goes on
    where an earlier run stopped. Exits with 1 if a shard could not be published, or more than --max-failures of the
    images failed.

    \b
    Example:
      relabel generate photos/ labels.zarr --teacher resnet50 --image-size 448 448
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher resnet10t --checkpoint teacher.safetensors
      torchrun --nproc-per-node 8 -m relabel generate photos/ labels.zarr --teacher convnext_tiny --batch-size auto
    """
    from relabel.generate.run import generate as run
    from relabel.images import open_source

    given["rank"], given["world_size"] = rank_and_world_size(given["rank"], given["world_size"], os.environ)
    with telling_of(store):
        how = made(GenerateOptions, given)
        summary = run(open_source(images, files, how), store, ensemble_spec(given), how)
    if summary.is_part:
        # The first process tells of all, in its exit code too: torchrun stops every process as soon as one says no.
        return
    shares = {name: getattr(summary, name).shares(summary.seconds) for name in ("waits", "busy")}
    result = plain(summary, **shares) if as_json else generate_text(summary, str(store), timings=timings)
    finish(result, is_good=summary.is_good)
