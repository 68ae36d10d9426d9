"""What a teacher's lower precision does to labels: of random crops, against the same teacher in float32.

``python -m studies.precision IMAGES --teacher NAME --checkpoint FILE --image-size 320``

KL(float32's label || the other's) in nats: mean, 99th percentile and largest over all crops, how often both name the
same class, and the same for what is stored, beside what storing alone costs float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import measure
from bench.sampling import sample
from relabel import RelabelError, ScoreMap
from relabel.progress import Progress
from relabel.teacher import Teacher, TeacherSpec, load_teacher
from relabel.worth.fidelity import divergence
from studies.pictures import photographs

_PRECISIONS = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How far one kind of labels is from another, over all crops; KL in nats."""

    labels: str
    against: str
    mean: float
    percentile_99: float
    largest: float
    agreement: float


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    torch.manual_seed(options.seed)
    try:
        lines = _lines(options)
    except RelabelError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(measure.to_json({"lines": [dataclasses.asdict(line) for line in lines]}))
    else:
        print(measure.aligned([("labels", "against", "mean KL", "99 %", "largest", "top-1 agreement"), *_rows(lines)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help="a folder, or webdataset tars, as `relabel generate` takes them")
    parser.add_argument("--teacher", required=True, help="as `relabel generate` takes it")
    parser.add_argument("--checkpoint", type=Path, help="the teacher's weights")
    parser.add_argument("--random-weights", type=int, help="a seed instead")
    parser.add_argument("--image-size", type=int, help="side of its input in pixels [its own]")
    parser.add_argument("--precision", nargs="+", default=["bfloat16"], choices=_PRECISIONS, help="[bfloat16]")
    parser.add_argument("--device", default="auto", help="where it runs [%(default)s]")
    parser.add_argument("--count", type=int, default=300, help="images, at random [%(default)s]")
    parser.add_argument("--boxes", type=int, default=4, help="random crops of each [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=20, help="images at a time [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of images and boxes [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def _lines(options: argparse.Namespace) -> list[Line]:
    exact = _teacher(options, "float32")
    others = {precision: _teacher(options, precision) for precision in options.precision}
    images = sample(options.images, options.count, options.seed)
    labels: dict[str, list[Tensor]] = {}
    with Progress("labelling", len(images), unit="images") as progress:
        for crops in photographs(images, exact.preprocessing, options.batch_size, options.boxes):
            for precision, teacher in {"float32": exact, **others}.items():
                logits = teacher(crops.pixels).cpu()
                whole = ScoreMap.from_logits(logits, logits.shape[1], 0)
                stored = ScoreMap.from_logits(logits).coded()
                for box in crops.boxes.unbind(1):
                    labels.setdefault(f"{precision}, all logits", []).append(whole.pool(box))
                    labels.setdefault(f"{precision}, stored", []).append(stored.pool(box))
            progress.advance(len(crops.pixels))
    every = {name: torch.cat(batches) for name, batches in labels.items()}
    pairs = [(f"{p}, {kind}", f"float32, {kind}") for kind in ("all logits", "stored") for p in options.precision]
    return [_line(every, *pair) for pair in (*pairs, ("float32, stored", "float32, all logits"))]


def _line(every: dict[str, Tensor], labels: str, against: str) -> Line:
    distances = divergence(every[against], every[labels])
    return Line(
        labels=labels,
        against=against,
        mean=float(distances.mean()),
        percentile_99=float(distances.quantile(0.99)),
        largest=float(distances.max()),
        agreement=float((every[labels].argmax(1) == every[against].argmax(1)).double().mean()),
    )


def _teacher(options: argparse.Namespace, precision: Any) -> Teacher:
    size = options.image_size
    return load_teacher(
        TeacherSpec(
            name=options.teacher,
            checkpoint=options.checkpoint,
            random_weights=options.random_weights,
            image_size_hw=(size, size) if size else None,
            device=options.device,
            precision=precision,
        )
    )


def _rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    return [
        (
            line.labels,
            line.against,
            f"{line.mean:.1e}",
            f"{line.percentile_99:.1e}",
            f"{line.largest:.1e}",
            f"{line.agreement:.2%}",
        )
        for line in lines
    ]


if __name__ == "__main__":
    main()
