"""How far each kind of label is from what the teacher says of the crop itself, and from the label of all its logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relabel.manifest import ScoreRecord
from relabel.pooling import Space
from relabel.worth.ways import Answers, Labeler, LineKind, Way, labelers

_SMALLEST = 1e-38
"""A softmax in float32 may round to 0 what is only unlikely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLine:
    """One kind of label, over all crops; NaN where nothing is known.

    Attributes:
        label: what it is.
        kind: the group that it belongs to.
        space, planes, profile: see `Way`.
        bytes_an_image: scores, classes and profile of an image as a store keeps them.
        kl_teacher, kl_full: mean KL in nats, of the teacher's own answer on the crop's pixels, or of the label of all
            logits, from the label; infinite where that excludes what is possible.
        kl_teacher_error: one standard error of the first, over images.
        agreement_teacher, agreement_full: how often both name the same class.
        agreement_truth: how often the label names the ground truth.
        entropy: mean, in nats.
    """

    label: str
    kind: LineKind
    space: Space | None
    planes: int | None
    profile: int | None
    bytes_an_image: float
    kl_teacher: float
    kl_teacher_error: float
    agreement_teacher: float
    kl_full: float
    agreement_full: float
    agreement_truth: float
    entropy: float


@dataclass(slots=True)
class Tally:
    """What is counted of one way: for each image, its mean over the crops, (B,) a batch."""

    way: Way
    bytes_each: list[int] = field(default_factory=list)
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Values (B, n), one a crop."""
        self.values.setdefault(name, []).append(values.mean(1))

    def each(self, name: str) -> Tensor:
        """(images,) float64."""
        return torch.cat(self.values[name])

    def mean(self, name: str) -> float:
        """Over the images of which it is known; NaN without any."""
        return float(self.each(name).nanmean())

    @property
    def bytes_an_image(self) -> float:
        """The mean, NaN where it is not known."""
        return sum(self.bytes_each) / len(self.bytes_each) if self.bytes_each else math.nan


class Fidelity:
    """Takes batches of images and crops; nothing of them is kept but a few numbers an image."""

    def __init__(self, record: ScoreRecord) -> None:
        self._record = record
        self.tallies: dict[str, Tally] = {}

    def add(self, answers: Answers, boxes_xyxy: Tensor, on_crops: Tensor) -> None:
        """Measure every way on the crops of B images.

        Args:
            answers: of the whole images.
            boxes_xyxy: (B, n, 4), fractions of the image.
            on_crops: the teacher's probabilities (B, n, C) on their pixels.
        """
        boxes, teacher = boxes_xyxy.unbind(1), on_crops.double()
        ways = iter(labelers(answers, self._record))
        first = next(ways)
        full = torch.stack([first.labels(box) for box in boxes], dim=1).double()
        reference = _Reference(teacher, full, answers.truths)
        self._count(Way(name="the teacher on the crop", kind="teacher"), teacher, reference)
        self._count(first.way, full, reference)
        for labeler in ways:
            self._measure(labeler, boxes, reference)

    def lines(self) -> Iterator[LabelLine]:
        """The table."""
        for tally in self.tallies.values():
            way = tally.way
            errors = tally.each("kl_teacher")
            errors = errors[~errors.isnan()]
            if not len(errors):
                # Without any ground truth.
                continue
            yield LabelLine(
                label=way.name,
                kind=way.kind,
                space=way.space,
                planes=way.planes,
                profile=way.profile,
                bytes_an_image=tally.bytes_an_image,
                kl_teacher_error=float(errors.std()) / math.sqrt(len(errors)) if len(errors) > 1 else math.nan,
                **{name: tally.mean(name) for name in tally.values},
            )

    def _measure(self, labeler: Labeler, boxes: tuple[Tensor, ...], reference: _Reference) -> None:
        way = labeler.way
        labels = torch.stack([labeler.labels(box) for box in boxes], dim=1).double()
        self._count(way, labels, reference)
        self.tallies[way.name].bytes_each += labeler.bytes_each or []

    def _count(self, way: Way, labels: Tensor, reference: _Reference) -> None:
        tally = self.tallies.setdefault(way.name, Tally(way))
        for name, values in reference.compared(labels, is_hard=way.is_hard).items():
            tally.add(name, values)


def divergence(truth: Tensor, label: Tensor) -> Tensor:
    """(...) float64, KL(truth || label) in nats of probabilities (..., C); a label's 0 is taken for rounding."""
    p, q = truth.double(), label.double().clamp(min=_SMALLEST)
    # Rounding may take it below 0.
    return (p * (p.clamp(min=_SMALLEST).log() - q.log())).sum(-1).clamp(min=0)


class _Reference:
    """What labels are held against: probabilities (B, n, C) float64 and ground truths (B,)."""

    def __init__(self, teacher: Tensor, full: Tensor, truths: Tensor) -> None:
        self._teacher, self._full, self._truths = teacher, full, truths

    def compared(self, labels: Tensor, *, is_hard: bool) -> dict[str, Tensor]:
        """(B, n) of each of `LabelLine`'s numbers, NaN where a label (B, n, C) is, and where there is no truth."""
        known = ~labels.isnan().any(2)
        likeliest = labels.argmax(2)
        found: dict[str, Tensor] = {}
        for name, p in (("teacher", self._teacher), ("full", self._full)):
            apart = divergence(p, labels)
            found[f"kl_{name}"] = torch.full_like(apart, math.inf) if is_hard else apart
            found[f"agreement_{name}"] = (p.argmax(2) == likeliest).double()
        found["agreement_truth"] = (likeliest == self._truths[:, None]).double()
        found["agreement_truth"][(self._truths < 0) | (self._truths >= labels.shape[2])] = math.nan
        found["entropy"] = -(labels * labels.clamp(min=_SMALLEST).log()).sum(2)
        return {name: values.masked_fill(~known, math.nan) for name, values in found.items()}
