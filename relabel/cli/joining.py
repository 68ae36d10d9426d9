"""``relabel merge`` and ``relabel diff``: several stores at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.cli.arguments import local
from relabel.cli.options import Command
from relabel.cli.output import as_json, finish, plain, quiet
from relabel.cli.signals import telling_of
from relabel.cli.text import aligned
from relabel.paths import printable

if TYPE_CHECKING:
    from relabel.comparing import StoreDiff, Unlike

_LINES = 20


@click.command(cls=Command)
@click.argument("stores", nargs=-1, required=True)
@click.argument("out", type=click.Path(path_type=Path), callback=local)
@quiet
@as_json
def merge(stores: tuple[str, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Make one store, OUT, of STORES that the same teacher made of other images, in their order.

    No teacher runs: rows are copied, and checked on the way. Of tars, OUT is the store that generate makes of all tars
    in that order, and generate goes on with it. Shards that OUT already holds are skipped.

    \b
    Example:
      relabel merge monday.zarr tuesday.zarr labels.zarr
    """
    from relabel.merging import merge as run

    with telling_of(out):
        summary = run(stores, out, show_progress=not quiet)
    text = (
        f"{printable(str(out))}: {summary.images} images in {summary.shards} shards, of {summary.stores} stores; "
        f"{summary.shards_skipped} shards were there already"
    )
    finish(plain(summary) if as_json else text, is_good=True)


@click.command(cls=Command)
@click.argument("first")
@click.argument("second")
@quiet
@as_json
def diff(first: str, second: str, as_json: bool, quiet: bool) -> None:
    """Do the stores FIRST and SECOND label the same images, and alike? Exits with 0 if so, 1 if not, 2 if it cannot be.

    Images are found by key, wherever they stand. Maps that differ by rounding only are alike.

    \b
    Example:
      relabel diff labels.zarr again.zarr
      relabel diff labels.zarr smaller.zarr --json > diff.json
    """
    from relabel.comparing import diff as run

    report = run(first, second, show_progress=not quiet)
    finish(plain(report) if as_json else _diff_text(report), is_good=report.is_alike)


def _diff_text(report: StoreDiff) -> str:
    facts = {
        "images": "{} and {}".format(*report.images),
        "shards not published": "{} and {}".format(*report.unpublished),
        "only in the first": _unlike(report.only_first),
        "only in the second": _unlike(report.only_second),
        "other bytes": _unlike(report.other_bytes),
        "labelled in one only": _unlike(report.other_status),
        "other ground truth": _unlike(report.other_truth),
        "other footprint": _unlike(report.other_footprint),
        "labelled in both": f"{report.compared}, {report.equal} of them with equal bytes",
        "scores apart": _nats(report.apart_mean, report.apart_largest),
        "labels apart (KL)": _nats(report.kl_mean, report.kl_largest),
        "same likeliest class": "not comparable" if math.isnan(report.agreement) else f"{report.agreement:.2%}",
    }
    lines = [aligned(facts)]
    if report.differences:
        lines.append("made otherwise (the first's value != the second's):")
        lines += [f"  {printable(line)}" for line in report.differences[:_LINES]]
        lines += [f"  and {len(report.differences) - _LINES} more"] * (len(report.differences) > _LINES)
    return "\n".join([*lines, _verdict(report)])


def _verdict(report: StoreDiff) -> str:
    if report.is_equal:
        return "equal: the same images, and the same bytes of each"
    if report.is_alike:
        return f"alike: the same images, and scores within {report.step:g} nats, which is rounding"
    return "different"


def _unlike(found: Unlike) -> str:
    if not found.count:
        return "0"
    more = f" and {found.count - len(found.keys)} more" if found.count > len(found.keys) else ""
    return f"{found.count}: {', '.join(found.keys)}{more}"


def _nats(mean: float, largest: float) -> str:
    return "not comparable" if math.isnan(mean) else f"{mean:.2g} nats on average, {largest:.2g} at most"
