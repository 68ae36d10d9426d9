"""Labels from score maps in memory and the loss that takes them, beside the dense way of the published codes.

``python -m bench.pool --batch 256``: K = 16, M = 64, 1000 classes, 15 x 15 cells. On the CPU all ways take turns on one
core, in CPU time. With a GPU (``--device cuda``, the default where there is one) token labels and their loss are timed
there too, by its own events.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from bench import measure, published, synthetic
from bench.measure import Figure, Timing, in_turn, timing
from relabel import ScoreMap, View, Views
from relabel.losses import soft_cross_entropy

TOKENS_HW = (14, 14)
_TOKENS = TOKENS_HW[0] * TOKENS_HW[1]
_FEW = 16  # dense token labels of a whole batch would take gigabytes
_IN_A_ROW = 8  # one batch alone is over too soon for the clock
_DENSE = "scatter + roi_align"


@dataclass(frozen=True, slots=True)
class Drawn:
    """The same images' maps, ours and the published lists (B, k, H, W), and a box of each image for every round.

    `boxes` has one batch more than there are rounds: `in_turn` warms up with the last.
    """

    maps: ScoreMap
    values: Tensor
    classes: Tensor
    boxes: list[Tensor]

    def dense_labels(self, turn: int, count: int, size_hw: tuple[int, int] = (1, 1)) -> Tensor:
        """(B, C, h, w) of the first `count` images, the published way."""
        maps = published.dense(self.values[:count], self.classes[:count], synthetic.CLASSES)
        return published.labels(maps, self.boxes[turn][:count], size_hw)


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    if options.quick:
        options.batch, options.rounds = min(options.batch, 4), 1
    with measure.one_core():
        drawn = draw(options.batch, options.rounds)
        figures = [*image_labels(drawn, options.rounds), *token_labels(drawn, options.rounds)]
        figures += turned_labels(drawn, options.rounds)
        figures += token_losses(drawn, options.rounds)
    name = None
    if options.device.type == "cuda":
        name = torch.cuda.get_device_name(options.device)
        figures += on_device(drawn, options.rounds, options.device)
    if options.json:
        shown = {"quick": options.quick, "accelerator": name, "figures": [figure.to_json() for figure in figures]}
        print(measure.to_json(shown))
        return
    on = measure.device()
    print(f"{on['cpu']}, Python {on['python']}, torch {on['torch']}, {name or 'no GPU'}, batch {options.batch}\n")
    print(measure.to_table(figures))
    print(
        "\n! misses what it should reach; +- is half the distance of the quartiles; one core's CPU time, or the GPU's"
    )
    if options.quick:
        print("--quick: far too small to say anything of speed")


def draw(count: int, rounds: int) -> Drawn:
    """Coded maps of synthetic logits, the top 5 classes of each cell of the same logits, and random crops."""
    lists = [published.cell_top(synthetic.logits(min(64, count - first), seed=first)) for first in range(0, count, 64)]
    values, classes = (torch.cat(parts) for parts in zip(*lists, strict=True))
    boxes = [synthetic.crop_boxes(count, seed) for seed in range(rounds + 1)]
    return Drawn(synthetic.score_maps(count, 16, 64), values, classes, boxes)


def image_labels(drawn: Drawn, rounds: int) -> list[Figure]:
    """One label a crop, dense and sparse: a few batches in a row, since the dense way empties the caches before."""
    maps, boxes, count = drawn.maps, drawn.boxes, len(drawn.maps)
    in_a_row = [[boxes[(turn + i) % len(boxes)] for i in range(_IN_A_ROW)] for turn in range(len(boxes))]
    seconds = in_turn(
        {
            "dense": lambda turn: [maps.pool(some) for some in in_a_row[turn]],
            "sparse": lambda turn: [maps.pool(some, sparse=True) for some in in_a_row[turn]],
            "theirs": lambda turn: drawn.dense_labels(turn, count),
        },
        rounds,
    )
    dense = _a_crop("image label (C), a crop", "us", seconds["dense"], count * _IN_A_ROW, reach=10.0)
    sparse = _a_crop("image label, sparse, a crop", "us", seconds["sparse"], count * _IN_A_ROW)
    return [_beside(one, _DENSE, seconds["theirs"], count) for one in (dense, sparse)]


def token_labels(drawn: Drawn, rounds: int) -> list[Figure]:
    """14 x 14 labels a crop, sparse, and the dense way of a few, since its targets of all would fill gigabytes."""
    maps, boxes, count = drawn.maps, drawn.boxes, len(drawn.maps)
    few = min(_FEW, count)
    seconds = in_turn(
        {
            "ours": lambda turn: maps.pool(boxes[turn], TOKENS_HW, sparse=True),
            "theirs": lambda turn: drawn.dense_labels(turn, few, TOKENS_HW),
        },
        rounds,
    )
    batch = _a_crop(f"token labels 14x14, sparse, batch {count}", "ms", seconds["ours"], 1, reach=40.0)
    crop = _a_crop("the same, a crop", "us", seconds["ours"], count)
    return [batch, _beside(crop, f"{_DENSE}, batch {few}", seconds["theirs"], few)]


def turned_labels(drawn: Drawn, rounds: int) -> list[Figure]:
    """The same of crops that are also turned by up to 15 degrees, beside those that are not."""
    maps, count = drawn.maps, len(drawn.maps)
    turned = [_turned(boxes, seed) for seed, boxes in enumerate(drawn.boxes)]
    seconds = in_turn(
        {
            "image": lambda turn: maps.pool(turned[turn], sparse=True, uncovered="nearest"),
            "box": lambda turn: maps.pool(drawn.boxes[turn], sparse=True),
            "tokens": lambda turn: maps.pool(turned[turn], TOKENS_HW, sparse=True, uncovered="nearest"),
            "boxes": lambda turn: maps.pool(drawn.boxes[turn], TOKENS_HW, sparse=True),
        },
        rounds,
    )
    image = _a_crop("image label, sparse, of a turned crop", "us", seconds["image"], count)
    tokens = _a_crop(f"token labels 14x14, sparse, turned crops, batch {count}", "ms", seconds["tokens"], 1)
    return [_beside(image, "boxes", seconds["box"], count), _beside(tokens, "boxes", seconds["boxes"], 1)]


def _turned(boxes: Tensor, seed: int) -> Views:
    """Crops (B, 4), each turned about its centre."""
    generator = torch.Generator().manual_seed(seed)
    angles = (torch.rand(len(boxes), generator=generator, dtype=torch.float64) - 0.5) * math.radians(30)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]).double() / 2, (boxes[:, 2:] - boxes[:, :2]).double()
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=1).reshape(-1, 2, 2)
    linear = turns * sides[:, None]
    matrices = torch.cat([linear, (centres - linear.sum(2) / 2)[..., None]], dim=2)
    return Views.of([View.affine((tuple(row), tuple(other))) for row, other in matrices.tolist()])


def token_losses(drawn: Drawn, rounds: int) -> list[Figure]:
    """The cross-entropy of token logits and its gradient, with labels given and with labels pooled first."""
    count = min(_FEW, len(drawn.maps))
    maps = drawn.maps[:count]
    logits = torch.randn(count, _TOKENS, synthetic.CLASSES, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    labels = [maps.pool(boxes[:count], TOKENS_HW, sparse=True) for boxes in drawn.boxes]
    target = drawn.dense_labels(0, count, TOKENS_HW)
    ids = target.argmax(1).flatten()

    def dense(target: Tensor) -> None:
        by_token = target.flatten(2).transpose(1, 2)
        _backward(logits, -(by_token * logits.log_softmax(2)).sum(2).mean())

    def pooled(turn: int) -> None:
        given = maps.pool(drawn.boxes[turn][:count], TOKENS_HW, sparse=True)
        _backward(logits, soft_cross_entropy(logits, given))

    seconds = in_turn(
        {
            "sparse": lambda turn: _backward(logits, soft_cross_entropy(logits, labels[turn])),
            "dense": lambda _: dense(target),
            "ids": lambda _: _backward(logits, functional.cross_entropy(logits.flatten(0, 1), ids)),
            "pooled": pooled,
            "theirs": lambda turn: dense(drawn.dense_labels(turn, count, TOKENS_HW)),
        },
        rounds,
    )
    given = _a_crop("loss of 196 tokens and its gradient, labels given, a crop", "us", seconds["sparse"], count)
    both = _a_crop("the same with the labels made, a crop", "us", seconds["pooled"], count)
    return [
        _beside(given, "a dense target given", seconds["dense"], count),
        _beside(replace(given, what="the same as the first"), "one class id a token", seconds["ids"], count),
        _beside(both, f"{_DENSE} + dense loss", seconds["theirs"], count),
    ]


def on_device(drawn: Drawn, rounds: int, device: torch.device) -> list[Figure]:
    """Token labels and loss of a whole batch on a GPU: boxes come from the CPU, maps as codes lie on the device."""
    maps, count = drawn.maps.to(device), len(drawn.maps)
    logits = torch.randn(count, _TOKENS, synthetic.CLASSES, device=device, dtype=torch.bfloat16).requires_grad_()
    labels = maps.pool(drawn.boxes[0], TOKENS_HW, sparse=True)
    ids = torch.randint(synthetic.CLASSES, (count * _TOKENS,), device=device)

    def both(turn: int) -> None:
        given = maps.pool(drawn.boxes[turn], TOKENS_HW, sparse=True)
        _backward(logits, soft_cross_entropy(logits, given))

    ways: dict[str, Callable[[int], object]] = {
        "both": both,
        "labels": lambda turn: maps.pool(drawn.boxes[turn], TOKENS_HW, sparse=True),
        "loss": lambda _: _backward(logits, soft_cross_entropy(logits, labels)),
        "ids": lambda _: _backward(logits, functional.cross_entropy(logits.flatten(0, 1), ids)),
    }
    seconds = {name: _device_seconds(way, max(rounds, 3), device) for name, way in ways.items()}
    first = _a_crop(f"GPU: token labels 14x14 and loss, batch {count}", "ms", seconds["both"], 1, reach=1.0)
    loss = _a_crop("GPU: of which the loss and its gradient", "ms", seconds["loss"], 1)
    return [
        first,
        _a_crop("GPU: of which the labels", "ms", seconds["labels"], 1),
        _beside(loss, "one class id a token", seconds["ids"], 1),
    ]


def _device_seconds(way: Callable[[int], object], rounds: int, device: torch.device) -> Timing:
    """What a way takes from its first kernel to its last, by events in the device's own queue, after warming up."""
    seconds = []
    with torch.cuda.device(device):
        for turn in range(-3, rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            way(max(turn, -1))
            end.record()
            torch.cuda.synchronize()
            if turn >= 0:
                seconds.append(start.elapsed_time(end) / 1e3)
    return timing(seconds)


def _backward(logits: Tensor, loss: Tensor) -> None:
    """The gradient of the logits, kept nowhere."""
    torch.autograd.grad(loss, logits)


_PER_SECOND = {"us": 1e6, "ms": 1e3}


def _a_crop(what: str, unit: str, took: Timing, count: int, *, reach: float | None = None) -> Figure:
    factor = _PER_SECOND[unit] / count
    wall = None if took.wall is None else took.wall * factor
    return Figure(
        what=what, unit=unit, measured=took.median * factor, spread=took.spread * factor, wall=wall, reach=reach
    )


def _beside(figure: Figure, peer: str, took: Timing, count: int) -> Figure:
    return replace(figure, peer=peer, peer_measured=took.median * _PER_SECOND[figure.unit] / count)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=256, help="crops at a time [256]")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every way [15]")
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="cuda also times token labels and their loss there [where there is a GPU]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
