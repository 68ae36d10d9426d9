"""The command line: it parses, calls one function and prints. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import relabel
from relabel.cli.ranks import rank_and_world_size
from relabel.cli.size import ImageSizeCommand, image_size
from relabel.cli.text import (
    generate_json,
    generate_text,
    printable,
    shards_json,
    shards_text,
    store_json,
    store_text,
)
from relabel.errors import RelabelError

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.generate import GenerateOptions
    from relabel.teacher import TeacherSpec

_EXIT_FINDINGS = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141


class _Commands(click.Group):
    """A group whose commands end with a sentence, not a traceback, on what the user can mend."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has what it wanted (`| head`). Nothing must be flushed into the pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_EXIT_BROKEN_PIPE)
        except (RelabelError, OSError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            click.echo("\n".join(["error: " + printable(lines[0]), *map(printable, lines[1:])]), err=True)
            ctx.exit(_EXIT_USAGE)
        except KeyboardInterrupt:
            again = "; nothing published is lost, run the same command again to go on"
            click.echo(f"interrupted{again if ctx.invoked_subcommand == 'generate' else ''}", err=True)
            ctx.exit(_EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relabel.__version__, prog_name="relabel")
def main() -> None:
    """Offline teacher labels for image training: a score map for every image, a soft label for every crop.

    \b
    Example:
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher convnext_tiny
      relabel verify shards labels.zarr --images 'train-{0000..1023}.tar'
      relabel inspect labels.zarr
    """


def _local(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if ":/" in str(value):
        raise click.BadParameter(f"{value} is a URL; generate writes into a local folder. Copy it there afterwards")
    return value


@main.command(cls=ImageSizeCommand)
@click.argument("images")
@click.argument("store", type=click.Path(path_type=Path), callback=_local)
@click.option("--teacher", required=True, help="A timm model name, or package.module:function returning a model.")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The teacher's weights: a safetensors file or a torch state dict. Default: timm's pretrained weights.",
)
@click.option("--random-weights", type=int, metavar="SEED", help="Random weights, for benchmarks.")
@click.option("--image-size", callback=image_size, metavar="H [W]", help="The teacher's input in pixels, height first.")
@click.option(
    "--fit",
    type=click.Choice(["squash", "center", "letterbox"]),
    default="squash",
    show_default=True,
    help="Resize the whole image, its largest centred crop, or pad it.",
)
@click.option("--planes", type=click.IntRange(1), default=16, show_default=True, help="K, classes kept as planes.")
@click.option("--profile", type=click.IntRange(0), default=64, show_default=True, help="M, classes kept as offsets.")
@click.option(
    "--samples-per-shard",
    type=click.IntRange(1),
    help="Folders: images of a shard [4096]. Tars: the most images of a tar; skips the listing pass.",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...; auto takes a GPU if any.")
@click.option("--compile", "compile_model", is_flag=True, help="Run the teacher through torch.compile.")
@click.option("--channels-last", is_flag=True, help="Run the teacher in channels-last memory order.")
@click.option("--workers", type=click.IntRange(1), help="Threads that decode and resize [one a core].")
@click.option("--rank", type=click.IntRange(0), help="This process among --world-size [as torchrun or srun says].")
@click.option("--world-size", type=click.IntRange(1), help="Processes that share the work [as torchrun or srun says].")
@click.option(
    "--max-failures", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Failed fraction to accept."
)
@click.option("--scores", type=click.Choice(["uint8", "float16"]), default="uint8", show_default=True)
@click.option("--compression", type=click.Choice(["zstd", "none"]), default="zstd", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def generate(images: str, store: Path, as_json: bool, **given: Any) -> None:
    """Run a teacher once over IMAGES and store a score map for each in STORE.

    IMAGES is a folder of class folders, or webdataset tars: a file, a glob, a brace pattern, a URL. Shards that STORE
    already holds are skipped, so that the same command goes on where an earlier run stopped. Exits with 1 if a shard
    could not be published, or more than --max-failures of the images failed.

    \b
    Example:
      relabel generate photos/ labels.zarr --teacher resnet50 --image-size 448 448
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher resnet10t --checkpoint teacher.safetensors
    """
    from relabel.generate import generate as run

    if ":" in given["teacher"]:
        # As `python -m relabel` does by itself: a user's teacher is looked for where the user stands.
        sys.path.insert(0, str(Path.cwd()))
    options = _generate_options(given)
    summary = run(images, store, _teacher_spec(given), options)
    _print(generate_json(summary) if as_json else generate_text(summary, str(store)))
    sys.exit(0 if summary.is_good else _EXIT_FINDINGS)


def _teacher_spec(given: dict[str, Any]) -> TeacherSpec:
    from relabel.teacher import TeacherSpec

    return TeacherSpec(
        name=given["teacher"],
        checkpoint=given["checkpoint"],
        random_weights=given["random_weights"],
        image_size_hw=given["image_size"],
        fit=given["fit"],
        precision=given["precision"],
        device=given["device"],
        compile=given["compile_model"],
        channels_last=given["channels_last"],
    )


def _generate_options(given: dict[str, Any]) -> GenerateOptions:
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
        dtype=given["scores"],
        compression=given["compression"],
        show_progress=not given["quiet"],
    )


@main.group(cls=_Commands)
def verify() -> None:
    """Check a store before you trust it.

    \b
    Example:
      relabel verify shards labels.zarr
    """


@verify.command("shards")
@click.argument("store")
@click.option("--images", help="Also compare keys and bytes with these images (a folder or tars, as for generate).")
@click.option("--workers", type=click.IntRange(1), help="Threads [one a core].")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def verify_shards_command(store: str, images: str | None, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Check every byte and every promise of STORE. Exits with 0 if good, 1 with findings, 2 if it cannot be read.

    \b
    Example:
      relabel verify shards labels.zarr --images photos/
      relabel verify shards labels.zarr --json > findings.json
    """
    from relabel.verify import verify_shards

    report = verify_shards(store, images, workers=workers, show_progress=not quiet)
    _print(shards_json(report) if as_json else shards_text(report))
    sys.exit(0 if report.is_clean else _EXIT_FINDINGS)


@main.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(store: str, as_json: bool) -> None:
    """Print what STORE is: teacher, grid, planes, images, failures, size, unstored mass, labels.

    \b
    Example:
      relabel inspect labels.zarr
    """
    from relabel.summary import summarise

    summary = summarise(store)
    _print(store_json(summary) if as_json else store_text(summary, store))


def _print(result: dict[str, Any] | str) -> None:
    """Text, or JSON of a kind that every parser reads: NaN is no number there."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))
