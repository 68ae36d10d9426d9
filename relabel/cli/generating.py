"""``relabel generate``: its options, and what they ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.cli.output import show
from relabel.cli.ranks import rank_and_world_size
from relabel.cli.size import NumbersCommand
from relabel.cli.teachers import ensemble_spec, teacher_options
from relabel.cli.text import generate_json, generate_text

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.generate import GenerateOptions

_EXIT_FINDINGS = 1


def _local(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if ":/" in str(value):
        raise click.BadParameter(f"{value} is a URL; generate writes into a local folder. Copy it there afterwards")
    return value


def _batch_size(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return value
    if not (value.isascii() and value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"{value!r} is neither a number of images, 1 or more, nor auto")
    return int(value)


@click.command(cls=NumbersCommand)
@click.argument("images")
@click.argument("store", type=click.Path(path_type=Path), callback=_local)
@click.option(
    "--teacher",
    "teachers",
    required=True,
    multiple=True,
    metavar="NAME",
    help="A timm model, hf-hub:OWNER/NAME, torchvision:NAME, transformers:NAME_OR_FOLDER, or package.module:function "
    "returning a model. Given several times, the mean of their probabilities is stored.",
)
@teacher_options
@click.option("--planes", type=click.IntRange(1), default=16, show_default=True, help="K, classes kept as planes.")
@click.option("--profile", type=click.IntRange(0), default=64, show_default=True, help="M, classes kept as offsets.")
@click.option(
    "--samples-per-shard",
    type=click.IntRange(1),
    help="Folders: images of a shard [4096]. Tars: the most images of a tar; skips the listing pass.",
)
@click.option(
    "--batch-size",
    default="64",
    show_default=True,
    callback=_batch_size,
    metavar="N|auto",
    help="Images of a forward pass; auto tries which is fastest. Halved where memory runs out.",
)
@click.option("--workers", type=click.IntRange(1), help="Threads that decode and resize [by the cores].")
@click.option("--rank", type=click.IntRange(0), help="This process among --world-size [as torchrun or srun says].")
@click.option("--world-size", type=click.IntRange(1), help="Processes that share the work [as torchrun or srun says].")
@click.option(
    "--max-failures", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Failed fraction to accept."
)
@click.option("--retry-failed", is_flag=True, help="Label shards again that hold failed images.")
@click.option(
    "--scores",
    type=click.Choice(["uint8", "float16"]),
    default="uint8",
    show_default=True,
    help="Coding of the scores.",
)
@click.option(
    "--step",
    type=click.FloatRange(1 / 16, 1),
    default=1 / 4,
    show_default=True,
    help="Nats a code of uint8 scores; finer is larger.",
)
@click.option(
    "--compression", type=click.Choice(["zstd", "none"]), default="zstd", show_default=True, help="Of the score maps."
)
@click.option("--timings", is_flag=True, help="Print where the time went.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def generate(images: str, store: Path, teachers: tuple[str, ...], as_json: bool, timings: bool, **given: Any) -> None:
    """Run a teacher once over IMAGES and store a score map for each in STORE.

    IMAGES is a folder of class folders, or webdataset tars: a file, a glob, a brace pattern, a URL. Shards that STORE
    already holds are skipped, so that the same command goes on where an earlier run stopped. Exits with 1 if a shard
    could not be published, or more than --max-failures of the images failed.

    \b
    Example:
      relabel generate photos/ labels.zarr --teacher resnet50 --image-size 448 448
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher resnet10t --checkpoint teacher.safetensors
      torchrun --nproc-per-node 8 -m relabel generate photos/ labels.zarr --teacher convnext_tiny --batch-size auto
    """
    from relabel.generate import generate as run

    options = _options(given)
    summary = run(images, store, ensemble_spec(teachers, given), options)
    if summary.is_part:
        # The first process tells of all, in its exit code too: torchrun stops every process as soon as one says no.
        return
    show(generate_json(summary) if as_json else generate_text(summary, str(store), timings=timings))
    sys.exit(0 if summary.is_good else _EXIT_FINDINGS)


def _options(given: dict[str, Any]) -> GenerateOptions:
    from relabel.generate import GenerateOptions

    rank, world_size = rank_and_world_size(given["rank"], given["world_size"], os.environ)
    return GenerateOptions(
        planes=given["planes"],
        profile=given["profile"],
        samples_per_shard=given["samples_per_shard"],
        batch_size=given["batch_size"],
        workers=given["workers"],
        rank=rank,
        world_size=world_size,
        max_failures=given["max_failures"],
        retry_failed=given["retry_failed"],
        dtype=given["scores"],
        compression=given["compression"],
        step=given["step"],
        show_progress=not given["quiet"],
    )
