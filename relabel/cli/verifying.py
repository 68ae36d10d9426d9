"""``relabel verify``: a store's bytes, and what its labels are worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.cli.group import EXIT_FINDINGS, Commands
from relabel.cli.labels_text import labels_json, labels_text
from relabel.cli.output import show
from relabel.cli.size import NumbersCommand, each, size
from relabel.cli.teachers import ALL_CLASSES, OWN_WEIGHTS, Weights
from relabel.cli.text import shards_json, shards_text

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.worth import RerunOptions


@click.group(cls=Commands)
def verify() -> None:
    """Check a store before you trust it.

    \b
    Example:
      relabel verify shards labels.zarr
      relabel verify labels labels.zarr --images photos/
    """


@verify.command()
@click.argument("store")
@click.option("--images", help="Also compare keys and bytes with these images (a folder or tars, as for generate).")
@click.option("--workers", type=click.IntRange(1), help="Threads [one a core].")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def shards(store: str, images: str | None, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Check every byte and every promise of STORE. Exits with 0 if good, 1 with findings, 2 if it cannot be read.

    \b
    Example:
      relabel verify shards labels.zarr --images photos/
      relabel verify shards labels.zarr --json > findings.json
    """
    from relabel.verify import verify_shards

    report = verify_shards(store, images, workers=workers, show_progress=not quiet)
    show(shards_json(report) if as_json else shards_text(report))
    sys.exit(0 if report.is_clean else EXIT_FINDINGS)


@verify.command(cls=NumbersCommand)
@click.argument("store")
@click.option("--images", required=True, help="The images that were labeled: a folder or tars, as for generate.")
@click.option("-n", "--count", type=click.IntRange(1), default=256, show_default=True, help="Images, evenly sampled.")
@click.option("--crops", type=click.IntRange(1), default=4, show_default=True, help="Random crops of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of images and crops.")
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="FILE",
    multiple=True,
    type=Weights(exists=True, dir_okay=False, path_type=Path),
    help="The weights that the store was made with, where they came from a file: a manifest keeps their digest only.",
)
@click.option(
    "--teacher", "teachers", metavar="NAME", multiple=True, help="Another one than the manifest says, as for generate."
)
@click.option("--random-weights", type=int, metavar="SEED", multiple=True, help="Random weights, with --teacher.")
@click.option(
    "--image-size",
    "image_sizes",
    callback=each(size),
    multiple=True,
    metavar="H [W]",
    help="The teacher's input in pixels [the manifest's].",
)
@click.option("--classes", multiple=True, metavar="NAME|FILE", help="The classes that were kept [the manifest's].")
@click.option(
    "--crop-size",
    callback=size,
    metavar="H [W]",
    help="Pixels to which a crop is resized for the teacher's own answer [the input of the maps].",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...; auto takes a GPU if any.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the forward pass [the manifest's on a GPU, float32 on the CPU].",
)
@click.option("--batch-size", type=click.IntRange(1, 32), default=16, show_default=True, help="Images at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def labels(store: str, images: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Run the teacher of STORE again on a sample: are these its maps, and what are the labels worth?

    Compares the stored scores with the re-run's, says why they differ where they do, then measures labels of random
    crops against the teacher's own answer on their pixels, and recommends a space, a temperature, K and M. Exits with
    0 if the maps are the teacher's, 1 with findings, 2 if it cannot be run.

    \b
    Example:
      relabel verify labels labels.zarr --images photos/ -n 64
      relabel verify labels labels.zarr --images 'train-{0000..1023}.tar' --checkpoint teacher.safetensors
    """
    from relabel.worth import LabelsOptions, verify_labels

    options = LabelsOptions(
        count=given["count"],
        crops=given["crops"],
        batch_size=given["batch_size"],
        seed=given["seed"],
        rerun=_rerun(given),
        show_progress=not quiet,
    )
    report = verify_labels(store, images, options)
    show(labels_json(report) if as_json else labels_text(report))
    sys.exit(0 if report.is_clean else EXIT_FINDINGS)


def _rerun(given: dict[str, Any]) -> RerunOptions:
    from relabel.worth import RerunOptions

    names = given["teachers"]
    if any(":" in name for name in names):
        # As `python -m relabel` does by itself: a user's teacher is looked for where the user stands.
        sys.path.insert(0, str(Path.cwd()))
    return RerunOptions(
        teachers=names,
        checkpoints=tuple(None if file == OWN_WEIGHTS else file for file in given["checkpoints"]),
        random_weights=given["random_weights"],
        image_sizes_hw=given["image_sizes"],
        classes=tuple(None if kept == ALL_CLASSES else kept for kept in given["classes"]),
        device=given["device"],
        precision=given["precision"],
        crop_size_hw=given["crop_size"],
    )
