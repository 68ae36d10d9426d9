"""Other ways to keep a score map, tried and mostly left out: what each buys in truth, and costs in bytes.

``python -m studies.map_ideas IMAGES --teacher NAME --checkpoint FILE --image-size 320 --crop-size 160``

For random crops, and for single ones of their 14 x 14 tokens: KL(label pooled from all logits || label pooled from what
is kept) in nats, how often both name the same class, KL from what the teacher says of the crop's own pixels, and bytes
an image: the zstd frame and its index entry, ids and offsets, and 30 bytes for a row's key, hash, label and status.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numcodecs import zstd

from bench import measure
from relabel import ScoreMap
from relabel.geometry import WHOLE
from relabel.manifest import STEP, ScoreRecord
from relabel.store import RowBatch
from relabel.worth.fidelity import divergence
from relabel.worth.ways import Labeler, cell_labelers, row_bytes
from studies import map_ways as ways
from studies.map_answers import Answers, answers
from studies.map_ways import Kept

ROW_BYTES = 30  # key, hash, label and status of an image, as they compress in a store of ImageNet's names
_TINY = torch.finfo(torch.float32).tiny


def stored(of: Answers, planes: int, profile: int, step: float) -> Kept:
    """What `relabel generate` keeps, pooled as a trainer pools it."""
    exact = ScoreMap.from_logits(of.scores, planes, profile)
    count = exact.planes.shape[1]
    record = ScoreRecord(
        num_classes=exact.num_classes,
        planes=count,
        profile=exact.classes.shape[1] - count,
        grid_hw=exact.grid.size_hw,
        step=step,
    )
    rows = RowBatch.of(exact, record)
    maps = rows.maps(record)
    labels, uncoded = (
        torch.stack([made.pool(boxes) for boxes in of.boxes.unbind(1)], dim=1).clamp(min=_TINY).log()
        for made in (maps, exact)
    )
    return Kept(labels, np.array(row_bytes(rows, "zstd")), uncoded)


def of_cells(of: Answers, labeler: Labeler) -> Kept:
    """What the papers keep, in one of its kinds."""
    labels = torch.stack([labeler.labels(boxes) for boxes in of.boxes.unbind(1)], dim=1).clamp(min=_TINY).log()
    return Kept(labels, np.array(labeler.bytes_each))


def row(of: Answers, name: str, kept: Kept) -> tuple[str, ...]:
    """A line of the table."""
    n, truth, label = of.crops, of.truth, kept.labels
    kl = divergence(truth.exp(), label.exp())
    same = (truth.argmax(-1) == label.argmax(-1))[:, :n]
    from_pixels = coding = ""
    if kept.uncoded is not None:
        lost = divergence(kept.uncoded.exp(), label.exp())
        coding = f"{float(lost[:, :n].mean()):.1e}, {float(lost[:, n:].mean()):.1e}"
    if of.pixels is not None:
        from_pixels = f"{float(divergence(of.pixels.exp(), label[:, :n].exp()).mean()):.3f}"
    size = float(kept.bytes.mean()) + ROW_BYTES
    agreement = f"{float(same.float().mean()):.2%}"
    return name, f"{size:.0f}", f"{kl[:, :n].mean():.4f}", f"{kl[:, n:].mean():.3f}", agreement, from_pixels, coding


def steps(of: Answers) -> dict[str, Callable[[], Kept]]:
    """The step of codes, at two K."""
    return {
        f"K = {planes}, M = {profile}, step {step:g}": partial(stored, of, planes, profile, step)
        for planes, profile in ((16, 64), (8, 64))
        for step in (1 / 8, 1 / 4, 1 / 2, 1)
    }


def sizes(of: Answers) -> dict[str, Callable[[], Kept]]:
    """Grids, K and M, at the default step."""
    grids = [side for side in (of.grid.height, 10, 8, 6, 4) if side <= of.grid.height]
    coarser = {side: of if side == of.grid.height else of.on_grid(side) for side in dict.fromkeys(grids)}
    return {
        f"grid {side}x{side}, K = {planes}, M = {profile}": partial(stored, at, planes, profile, 1 / 4)
        for side, at in coarser.items()
        for planes, profile in ((8, 64), (8, 256), (16, 64), (16, 128), (32, 128))
    }


def cells(of: Answers) -> dict[str, Callable[[], Kept]]:
    """The published kinds of maps, at the default step where they are coded."""
    whole = torch.tensor([WHOLE.xyxy]).expand(len(of.logits), 4)
    return {
        labeler.way.name: partial(of_cells, of, labeler) for labeler in cell_labelers(of.logits.float(), whole, STEP)
    }


def ideas(of: Answers) -> dict[str, Callable[[], Kept]]:
    """Everything else, at K = 16 and M = 64, and a step of 1/2 nat unless it says otherwise."""
    base = ways.Parts.as_stored(of, 16, 64)
    found: dict[str, Callable[[], Kept]] = {"as it is": lambda: ways.plain(base)}
    for rule in ways.RULES:
        found[f"classes: {rule}"] = partial(_by_rule, of, rule)
    for floor in (-20, -16, -12):
        found[f"scores below {floor} raised to it"] = partial(ways.floored, base, floor)
    for below in (4, 0):
        found[f"planes raised to the rest - {below}"] = partial(ways.floored_at_rest, base, below)
    for unit in (1 / 64, 1 / 32):
        found[f"square-root law, code^2 / {1 / unit:.0f}"] = partial(ways.square_root_law, base, unit)
    found["planes from the 9th on at half the grid"] = lambda: ways.coarse(base, 8)
    found["the same, K = 32"] = lambda: ways.coarse(ways.Parts.as_stored(of, 32, 64), 8)
    for quantum in (1.0, 1.5):
        found[f"2-D DCT, {quantum:g} nats, coarser by 15 % a frequency"] = partial(ways.cosines, base, quantum)
    found["a second rest, of the profile's classes"] = lambda: ways.second_rest(base)
    found["other classes' mass exact in every box (a bound, no bytes for it)"] = lambda: ways.exact_mass(base)
    for threshold in (0.006, 0.002):
        found[f"K by the image, planes worth {threshold} nats or more, M = 64"] = partial(ways.varying, of, threshold)
    for planes, classes, rank in ((0, 128, 4), (4, 128, 4), (8, 64, 4), (16, 64, 2), (16, 128, 4)):
        found[f"K = {planes}, {classes} more classes as sums of {rank} common planes"] = partial(
            _of_low_rank, of, planes, classes, rank
        )
    return found


def _by_rule(of: Answers, rule: str) -> Kept:
    return ways.plain(ways.Parts.chosen(of, 16, 64, rule))


def _of_low_rank(of: Answers, planes: int, classes: int, rank: int) -> Kept:
    return ways.low_rank(ways.Parts.as_stored(of, planes, classes), rank)


def byte_orders(of: Answers) -> list[tuple[str, str]]:
    """The bytes of the zstd frame alone, of the same codes laid out otherwise."""
    base = ways.Parts.as_stored(of, 16, 64)
    codes = base.codes(1 / 2).reshape(len(of.scores), -1, *of.grid.size_hw)
    orders = {"as they are": codes, **ways.byte_orders(codes)}
    lines = [(name, f"{ways.zstd_bytes(laid).mean():.0f}") for name, laid in orders.items()]
    best = [len(zstd.compress(one.tobytes(), level=19, checksum=True)) for one in codes.byte().numpy()]
    return [*lines, ("zstd level 19", f"{sum(best) / len(best):.0f}")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    of = answers(options)
    header = (
        "kept",
        "bytes",
        "KL",
        "KL of a token",
        "top-1 agreement",
        "KL from the pixels",
        "of which coding: crop, token",
    )
    tables = {"steps": steps, "sizes": sizes, "cells": cells, "ideas": ideas}
    for name in options.tables:
        if name == "orders":
            print(f"\n{measure.aligned([('laid out', 'bytes'), *byte_orders(of)])}")
            continue
        lines = [row(of, what, make()) for what, make in tables[name](of).items()]
        print(
            f"\n{len(of.scores)} images, grid {of.grid}, {of.crops} crops each\n\n{measure.aligned([header, *lines])}"
        )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help="a folder, or webdataset tars, as `relabel generate` takes them")
    parser.add_argument("--teacher", required=True, help="a timm classifier whose head is linear")
    parser.add_argument("--checkpoint", type=Path, help="the teacher's weights")
    parser.add_argument("--image-size", type=int, default=320, help="side of its input in pixels [%(default)s]")
    parser.add_argument("--crop-size", type=int, help="side at which it sees the pixels of a crop [it does not]")
    parser.add_argument("--count", type=int, default=300, help="images, at random [%(default)s]")
    parser.add_argument("--mosaics", type=int, default=0, help="so many mosaics of four instead [%(default)s]")
    parser.add_argument("--answers", type=Path, help="a file that keeps the teacher's answers for another run")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=("steps", "sizes", "cells", "ideas", "orders"),
        default=["steps", "sizes"],
        help="[steps sizes]",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
