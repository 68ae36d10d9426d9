"""What it buys to average forward passes: mirrored images, other sizes, two teachers, in logs and in probabilities.

``python -m studies.averages PHOTOGRAPHS --teacher NAME --checkpoint FILE --image-size 320 --sizes 256 480``

For random crops, the label pooled from all scores in logit space: KL from the teacher's own answer to the crop's pixels
in nats, that of one pass taken off, with the standard error of the difference over images; how often both name the same
class; how often the label names the ground truth. The same at the temperature that is best for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from bench.sampling import sample
from relabel.geometry import WHOLE, Grid
from relabel.geometry.cells import cell_boxes, resampling_weights, roi_weights
from relabel.images.decode import decode, fitted
from relabel.manifest import Mean
from relabel.teacher import Teacher, TeacherSpec, averaged, load_teacher
from relabel.worth.fidelity import divergence
from studies.pictures import crop_boxes

_TEMPERATURES = (1.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
_CROPS = 4
_QUARTER = 240
"""Pixels a side of each photograph of a mosaic."""
_LABELS = tuple[str, Mean]


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels uint8 (3, H, W), crops (n, 4) xyxy fractions, and the class, -1 where there are several."""

    pixels: Tensor
    boxes: Tensor
    truth: int


@dataclass(slots=True)
class Gathered:
    """Of each case and mean: logs of labels (n, C) an image, and the answers (n, C) to the crops' pixels."""

    labels: dict[_LABELS, list[Tensor]] = field(default_factory=dict)
    answers: dict[str, list[Tensor]] = field(default_factory=dict)
    truths: list[int] = field(default_factory=list)


def pictures(options: argparse.Namespace) -> Iterator[Picture]:
    """Photographs at their own size, or mosaics of four of them."""
    torch.manual_seed(1 if options.mosaics else 0)
    images = sample(options.images, options.count, seed=0)
    like = TeacherSpec(name=options.teacher, random_weights=0, image_size_hw=(_QUARTER, _QUARTER), device="cpu")
    quarter = load_teacher(like).preprocessing
    if not options.mosaics:
        for image in images:
            pixels = decode(image.encoded()).pixels
            yield Picture(pixels, crop_boxes((pixels.shape[1], pixels.shape[2]), _CROPS), image.label)
    for _ in range(options.mosaics):
        chosen = torch.randint(0, len(images), (4,)).tolist()
        four = [fitted(decode(images[i].encoded()).pixels, quarter)[0] for i in chosen]
        pixels = torch.cat([torch.cat(four[:2], dim=2), torch.cat(four[2:], dim=2)], dim=1)
        yield Picture(pixels, crop_boxes((2 * _QUARTER, 2 * _QUARTER), _CROPS), -1)


class Study:
    """The teachers at their sizes."""

    def __init__(self, options: argparse.Namespace) -> None:
        first = (options.teacher, options.checkpoint)
        side = options.image_size
        self.sizes = {size: _teacher(*first, size) for size in (side, *options.sizes)}
        self.crops = [_teacher(*first, options.crop_size)]
        self.own, self.other = self.sizes[side], None
        if options.other:
            self.other = _teacher(options.other, options.other_checkpoint, side)
            self.crops.append(_teacher(options.other, options.other_checkpoint, options.crop_size))
        self.gathered = Gathered()

    @torch.inference_mode()
    def take(self, picture: Picture) -> None:
        """Every case on one picture."""
        views = {size: self._scores(teacher, picture.pixels) for size, teacher in self.sizes.items()}
        side = self.own.preprocessing.image_size_hw[0]
        one = views.pop(side)
        cases = {"one pass": [one]}
        cases["mirrored"] = [one, self._scores(self.own, picture.pixels, is_mirrored=True)]
        cases |= {f"{min(size, side)} + {max(size, side)} px": [one, view] for size, view in views.items()}
        own, *others = (self._on_crops(teacher, picture) for teacher in self.crops)
        answers = {"own": own}
        if self.other is not None:
            cases["the other teacher"] = [self._scores(self.other, picture.pixels)]
            cases["both teachers"] = [one, *cases["the other teacher"]]
            answers["both"] = averaged([own, *others], "log-probability")
        weights = self._weights(picture.boxes)
        for name, passes in cases.items():
            for mean in get_args(Mean):
                scores = averaged(passes, mean)[0].flatten(1)
                self.gathered.labels.setdefault((name, mean), []).append((weights @ scores.T).log_softmax(1))
        for name, answer in answers.items():
            self.gathered.answers.setdefault(name, []).append(answer.log_softmax(1))
        self.gathered.truths.append(picture.truth)

    def _scores(self, teacher: Teacher, pixels: Tensor, *, is_mirrored: bool = False) -> Tensor:
        """(1, C, H, W) log-probabilities on the first teacher's grid."""
        view = fitted(pixels, teacher.preprocessing)[0][None]
        logits = teacher(view.flip(3)).flip(3) if is_mirrored else teacher(view)
        rows, cols = (w.float() for w in resampling_weights(teacher.grid, self.own.grid))
        return rows @ logits.log_softmax(1) @ cols.T

    def _on_crops(self, teacher: Teacher, picture: Picture) -> Tensor:
        """(n, C), the model's own answers."""
        height, width = picture.pixels.shape[1:]
        places = (picture.boxes * torch.tensor([width, height, width, height])).round().int().tolist()
        crops = [picture.pixels[:, top:bottom, left:right] for left, top, right, bottom in places]
        return teacher(torch.stack([fitted(c, teacher.preprocessing)[0] for c in crops])).mean((2, 3))

    def _weights(self, boxes: Tensor) -> Tensor:
        """(n, H * W)."""
        grid = Grid(*self.own.grid.size_hw)
        weights = roi_weights(cell_boxes(boxes, WHOLE, grid), grid, (1, 1), clamp_uncovered=False)
        return (weights.rows[:, 0, :, None] * weights.cols[:, 0, None, :]).flatten(1)


def lines(of: Gathered) -> Iterator[str]:
    """A Markdown table for each kind of answer."""
    truths = torch.tensor(of.truths)
    for name, answers in of.answers.items():
        truth = torch.stack(answers)
        headings = f"KL from {name} answers", "mean of", "KL", "minus one pass", "top-1", "truth"
        yield f"\n| {' | '.join(headings)} | KL at its best T | minus one pass |"
        yield "|---|---|---|---|---|---|---|---|"
        base: tuple[Tensor, Tensor] | None = None
        for (case, mean), labels in of.labels.items():
            if case in ("one pass", "the other teacher") and mean == "probability":
                continue
            label = torch.stack(labels)
            plain, (best, at) = (
                _apart(truth, label),
                min(_tempered(truth, label), key=lambda pair: float(pair[0].mean())),
            )
            base = base or (plain, best)
            same = (truth.argmax(2) == label.argmax(2)).double().mean()
            known = (label.argmax(2) == truths[:, None])[truths >= 0].double().mean()
            yield (
                f"| {case} | {mean} | {plain.mean():.3f} | {_difference(plain, base[0])} | {same:.1%} | {known:.1%} "
                f"| {best.mean():.3f}, T = {at:g} | {_difference(best, base[1])} |"
            )


def _apart(truth: Tensor, label: Tensor) -> Tensor:
    """(images,)."""
    return divergence(truth.exp(), label.exp()).mean(1)


def _tempered(truth: Tensor, label: Tensor) -> Iterator[tuple[Tensor, float]]:
    yield from ((_apart(truth, (label / t).log_softmax(2)), t) for t in _TEMPERATURES)


def _difference(values: Tensor, base: Tensor) -> str:
    apart = values - base
    return f"{apart.mean():+.3f} +- {apart.std() / len(apart) ** 0.5:.3f}"


def _teacher(name: str, checkpoint: Path | None, side: int) -> Teacher:
    size = (side, side)
    return load_teacher(
        TeacherSpec(name=name, checkpoint=checkpoint, image_size_hw=size, device="cpu", precision="float32")
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="tars or a folder")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--other", help="a second teacher of the same classes")
    parser.add_argument("--other-checkpoint", type=Path)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--crop-size", type=int, default=224, help="pixels at which crops are answered")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[], help="other image sizes, each averaged with the own"
    )
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--mosaics", type=int, default=0, help="so many mosaics of four instead of the photographs")
    options = parser.parse_args(arguments)
    study = Study(options)
    for picture in pictures(options):
        study.take(picture)
    print(*lines(study.gathered), sep="\n")


if __name__ == "__main__":
    main()
