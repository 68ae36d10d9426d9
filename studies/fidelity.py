"""Truth per byte: how far the labels of a stored map are from those of all the teacher's logits, and what it weighs.

``python -m studies.fidelity IMAGES --teacher NAME --checkpoint FILE --image-size 320``

For random crops of photographs, and of mosaics of four: KL(label pooled from all logits || label pooled from what is
stored) in nats, how often both name the same class, what the coding alone costs, and bytes an image.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import measure, published
from bench.sampling import sample
from relabel import RelabelError
from relabel.progress import Progress
from relabel.teacher import Teacher, TeacherSpec, load_teacher
from studies.kept import FilledCells, Kept, Planes, PublishedCells
from studies.pictures import Crops, mosaics, photographs

_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One way to keep the maps of one set of images.

    `kl` and `coding_kl` are means in nats, the latter from the same labels before coding (None: not coded);
    `kl_error` is the standard error of `kl`; `agreement` is a fraction of the crops.
    """

    images: str
    stored: str
    bytes_an_image: float
    kl: float
    kl_error: float
    agreement: float
    coding_kl: float | None


class Tally:
    """The distances of labels, crop by crop."""

    def __init__(self) -> None:
        self._kl: list[Tensor] = []
        self._coding: list[Tensor] = []
        self._same: list[Tensor] = []

    def add(self, truth: Tensor, label: Tensor, exact: Tensor | None) -> None:
        """Labels (B, C): of all logits, of what is stored, and of the same before it was coded."""
        self._kl.append(kl(truth, label))
        self._same.append((truth.argmax(1) == label.argmax(1)).double())
        if exact is not None:
            self._coding.append(kl(exact, label))

    def line(self, images: str, stored: str, bytes_an_image: float) -> Line:
        """The means over all crops."""
        every = torch.cat(self._kl)
        return Line(
            images=images,
            stored=stored,
            bytes_an_image=bytes_an_image,
            kl=float(every.mean()),
            kl_error=float(every.std()) / math.sqrt(len(every)) if len(every) > 1 else math.nan,
            agreement=float(torch.cat(self._same).mean()),
            coding_kl=float(torch.cat(self._coding).mean()) if self._coding else None,
        )


def kl(truth: Tensor, label: Tensor) -> Tensor:
    """(B,) KL(truth || label) in nats of labels (B, C)."""
    p, q = truth.double().clamp(min=_SMALLEST), label.double().clamp(min=_SMALLEST)
    return (p * (p.log() - q.log())).sum(1)


def compare(name: str, batches: Iterable[tuple[Tensor, Tensor]], ways: Sequence[Kept], folder: Path) -> list[Line]:
    """Every way's line for batches of logits (B, C, H, W) and boxes (B, n, 4) xyxy fractions."""
    tallies = [Tally() for _ in ways]
    for logits, boxes in batches:
        truths = [published.labels(logits, box)[:, :, 0, 0] for box in boxes.unbind(1)]
        for way, tally in zip(ways, tallies, strict=True):
            pool = way.take(logits)
            for box, truth in zip(boxes.unbind(1), truths, strict=True):
                tally.add(truth, *pool(box))
    return [t.line(name, way.name, way.bytes_an_image(folder)) for way, t in zip(ways, tallies, strict=True)]


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    torch.manual_seed(options.seed)
    try:
        lines = [line for size in options.image_size for line in _single(options, size)]
        lines += _mosaics(options) if options.mosaics else []
    except RelabelError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(measure.to_json({"options": _plain(options), "lines": [dataclasses.asdict(line) for line in lines]}))
    else:
        print(_table(lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help="a folder, or webdataset tars, as `relabel generate` takes them")
    parser.add_argument("--teacher", required=True, help="a timm classifier, or package.module:function")
    parser.add_argument("--checkpoint", type=Path, help="the teacher's weights")
    parser.add_argument("--image-size", type=int, action="append", help="side of its input in pixels; may be repeated")
    parser.add_argument("--device", default="auto", help="where it runs [%(default)s]")
    parser.add_argument("--count", type=int, default=300, help="images, at random [%(default)s]")
    parser.add_argument("--boxes", type=int, default=4, help="random crops of each [%(default)s]")
    parser.add_argument("--mosaics", type=int, default=120, help="mosaics of four; 0 for none [%(default)s]")
    parser.add_argument("--mosaic-size", type=int, default=400, help="their side in pixels [%(default)s]")
    parser.add_argument("--planes", type=int, nargs="+", default=[5, 8, 16, 32], help="values of K [5 8 16 32]")
    parser.add_argument("--profile", type=int, nargs="+", default=[0, 64, 128], help="values of M [0 64 128]")
    parser.add_argument("--step", type=float, default=1 / 4, help="nats a code [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=20, help="images at a time [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of images, mosaics and boxes [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if min(options.count, options.boxes, options.batch_size, *options.planes) < 1 or min(options.profile) < 0:
        parser.error("needs at least one image, one box, one image a batch and one plane, and no negative profile")
    options.image_size = options.image_size or [320]
    return options


def _single(options: argparse.Namespace, size: int) -> list[Line]:
    teacher = _teacher(options, size)
    images = sample(options.images, options.count, options.seed)
    crops = photographs(images, teacher.preprocessing, options.batch_size, options.boxes)
    return _lines(f"{len(images)} photographs", teacher, crops, -(-len(images) // options.batch_size), options)


def _mosaics(options: argparse.Namespace) -> list[Line]:
    teacher = _teacher(options, options.mosaic_size)
    images = sample(options.images, options.count, options.seed)
    crops = mosaics(images, teacher.preprocessing, options.mosaics, options.boxes)
    return _lines(f"{options.mosaics} mosaics", teacher, crops, options.mosaics, options)


def _teacher(options: argparse.Namespace, size: int) -> Teacher:
    spec = TeacherSpec(
        name=options.teacher,
        checkpoint=options.checkpoint,
        image_size_hw=(size, size),
        device=options.device,
        precision="float32",
    )
    return load_teacher(spec)


def _lines(
    what: str, teacher: Teacher, crops: Iterable[Crops], batches: int, options: argparse.Namespace
) -> list[Line]:
    size = teacher.preprocessing.image_size_hw[0]
    name = f"{what}, {size} px, grid {teacher.grid}"
    with tempfile.TemporaryDirectory(prefix="relabel-fidelity-") as temporary:
        folder = Path(temporary)
        ways: list[Kept] = [
            Planes(planes, profile, options.step) for planes in options.planes for profile in options.profile
        ]
        ways += [FilledCells(step=options.step), PublishedCells(folder)]
        with Progress(name, batches, unit="batches") as progress:

            def answers() -> Iterable[tuple[Tensor, Tensor]]:
                for crop in crops:
                    yield teacher(crop.pixels).cpu(), crop.boxes
                    progress.advance(1)

            return compare(name, answers(), ways, folder)


def _table(lines: Sequence[Line]) -> str:
    parts: list[str] = []
    for images in dict.fromkeys(line.images for line in lines):
        rows = [("stored", "bytes", "KL", "+-", "top-1 agreement", "of which coding")]
        for line in (line for line in lines if line.images == images):
            coding = "" if line.coding_kl is None else f"{line.coding_kl:.1e}"
            rows.append(
                (
                    line.stored,
                    f"{line.bytes_an_image:.0f}",
                    f"{line.kl:.3f}",
                    f"{line.kl_error:.3f}",
                    f"{line.agreement:.2%}",
                    coding,
                )
            )
        parts.append(f"{images}\n\n{measure.aligned(rows)}")
    return "\n\n".join(parts)


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without the paths of this machine."""
    hidden = ("images", "checkpoint", "json")
    return {name: value for name, value in vars(options).items() if name not in hidden}


if __name__ == "__main__":
    main()
