"""``relabel import``, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from relabel.cli.arguments import files_option, images_option, local, source_of, store_to_write
from relabel.cli.options import Command, made, options
from relabel.cli.output import as_json, finish, plain
from relabel.cli.signals import telling_of
from relabel.cli.text import aligned, run_text
from relabel.importers import ImportOptions, ImportSummary
from relabel.manifest import Archive


@click.command("import", cls=Command)
@click.argument("archive", type=click.Choice(get_args(Archive)))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), callback=local)
@store_to_write
@images_option
@files_option
@options(ImportOptions, but=("archive",))
@as_json
def import_(
    archive: Archive, folder: Path, store: Path, images: str | None, files: Path | None, as_json: bool, **given: Any
) -> None:
    """Make STORE of the published archive in DIR: per-image .pt files of ReLabel or of Token Labeling.

    Every file is read without trusting it; one that is no map becomes a failed row. The store holds raw logits, and
    the part of the image that each map covers. Shards that STORE already holds are skipped. Exits with 1 if a shard
    could not be published, or more than --max-failures of the images failed.

    \b
    Example:
      relabel import relabel relabel_imagenet/ relabel.zarr --images imagenet/train/
      relabel import tokenlabeling label_top5_train_nfnet/ nfnet.zarr --images 'train-{0000..1023}.tar'
    """
    from relabel.importers import import_archive

    with telling_of(store):
        how = made(ImportOptions, given, archive=archive)
    summary = import_archive(folder, store, how, source_of(images, files, how))
    text = run_text(summary, str(store), parts=[aligned(_facts(summary))])
    finish(plain(summary) if as_json else text, is_good=summary.is_good)


def _facts(summary: ImportSummary) -> dict[str, str]:
    """What was found in the archive."""
    share = summary.scores_dropped / max(summary.scores, 1)
    dropped = f"; {summary.scores_dropped} of {summary.scores} scores dropped ({share:.2%})" if share else ""
    return {
        "maps": f"{summary.maps}, {summary.maps_without_image} of them of no image",
        "classes": f"{summary.planes} planes an image; maps list {summary.classes_mean:.1f} classes on average, "
        f"{summary.classes_most} at most{dropped}",
        "footprint": "the whole image" if summary.footprint == "whole" else "the centre square of each image",
        "orientation": f"stored [{', '.join(summary.orientation)}]",
    }
