"""``relabel import``: its options, and what it prints."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.cli.output import show
from relabel.cli.text import aligned, failure_lines, printable

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch.
    from relabel.importers import ImportSummary

_EXIT_FINDINGS = 1


def _local(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if ":/" in str(value):
        raise click.BadParameter(f"{value} is a URL; import reads and writes local folders")
    return value


@click.command("import")
@click.argument("archive", type=click.Choice(["relabel", "tokenlabeling"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), callback=_local)
@click.argument("store", type=click.Path(path_type=Path), callback=_local)
@click.option("--images", help="The images that it labels (a folder or tars, as for generate): keys, hashes, classes.")
@click.option(
    "--extension", default=".JPEG", show_default=True, help="Without --images: what ends a key, after the file's name."
)
@click.option(
    "--classes", "num_classes", type=click.IntRange(1), default=1000, show_default=True, help="C, of the teacher."
)
@click.option("--planes", type=click.IntRange(1), help="K, classes kept of an image [all that any image lists].")
@click.option(
    "--footprint",
    type=click.Choice(["whole", "center"]),
    help="The part of an image that a map covers [relabel: whole, tokenlabeling: center].",
)
@click.option(
    "--orientation",
    type=click.Choice(["auto", "yx", "xy"]),
    default="yx",
    show_default=True,
    help="Whether maps are stored [.., y, x] or [.., x, y]; auto finds out, with --boxes.",
)
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV or tab-separated: key, x0, y0, x1, y1 (fractions; pixels with width, height), perhaps class.",
)
@click.option("--teacher-name", help="What the manifest calls the teacher [as the archive's authors do].")
@click.option("--samples-per-shard", type=click.IntRange(1), help="Rows of a shard [4096; of tars, a tar is a shard].")
@click.option("--workers", type=click.IntRange(1), help="Threads, and processes that read the archive [one a core].")
@click.option(
    "--max-failures", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Failed fraction to accept."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def import_(folder: Path, store: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Make STORE of the published archive in DIR: per-image .pt files of ReLabel or of Token Labeling.

    Every file is read without trusting it; one that is no map becomes a failed row. The store holds raw logits, and
    the part of the image that each map covers. Shards that STORE already holds are skipped. Exits with 1 if a shard
    could not be published, or more than --max-failures of the images failed.

    \b
    Example:
      relabel import relabel relabel_imagenet/ relabel.zarr --images imagenet/train/
      relabel import tokenlabeling label_top5_train_nfnet/ nfnet.zarr --images 'train-{0000..1023}.tar'
      relabel import relabel relabel_imagenet/ relabel.zarr --orientation auto --boxes boxes.csv
    """
    from relabel.importers import ImportOptions, import_archive

    summary = import_archive(folder, store, ImportOptions(show_progress=not quiet, **given))
    show(_json(summary) if as_json else _text(summary, str(store)))
    sys.exit(0 if summary.is_good else _EXIT_FINDINGS)


def _json(summary: ImportSummary) -> dict[str, Any]:
    derived = ("images_per_second", "failed", "is_good", "had_nothing_to_do")
    return asdict(summary) | {name: getattr(summary, name) for name in derived}


def _text(summary: ImportSummary, store: str) -> str:
    if summary.had_nothing_to_do:
        lines = [f"{printable(store)}: nothing to do, all {summary.shards} shards were there already"]
    else:
        lines = [
            f"{printable(store)}: {summary.shards_published} shards published, {summary.shards_skipped} were there "
            f"already, of {summary.shards}",
            f"{summary.images} images in {summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s",
        ]
    lines.append(aligned(_facts(summary)))
    lines += failure_lines(summary.failures, summary.failures_unlisted)
    if summary.failed_earlier:
        lines.append(f"{summary.failed_earlier} images of the shards that were there already failed earlier")
    if not summary.is_good:
        lines.append(f"more failed than --max-failures {summary.max_failures:g} accepts, or a shard is not published")
    return "\n".join(lines)


def _facts(summary: ImportSummary) -> dict[str, str]:
    """What was found in the archive."""
    share = summary.scores_dropped / max(summary.scores, 1)
    dropped = f"; {summary.scores_dropped} of {summary.scores} scores dropped ({share:.2%})" if share else ""
    facts = {
        "maps": f"{summary.maps}, {summary.maps_without_image} of them of no image",
        "classes": f"{summary.planes} planes an image; maps list {summary.classes_mean:.1f} classes on average, "
        f"{summary.classes_most} at most{dropped}",
        "footprint": "the whole image" if summary.footprint == "whole" else "the centre square of each image",
        "orientation": f"stored [{', '.join(summary.orientation)}]",
    }
    if found := summary.evidence:
        yx, xy = (f"{i:.3f} inside, {o:.3f} outside" for i, o in zip(found.inside, found.outside, strict=True))
        facts["orientation"] += (
            f": {found.better[0]} images speak for [y, x] and {found.better[1]} for [x, y], of {found.images} looked at"
        )
        facts["boxes"] = f"share of the ground truth as [y, x] {yx}; as [x, y] {xy}"
    return facts
