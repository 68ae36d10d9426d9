"""`Ensemble`: what a run labels with, one proved teacher or several forward passes averaged on one grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.geometry.cells import resampling_weights
from relabel.manifest import Mean, Preprocessing
from relabel.teacher.load import load_teacher
from relabel.teacher.spec import EnsembleSpec, TeacherSpec
from relabel.teacher.teacher import Teacher

_STRIDES = (32, 16, 14, 8, 64, 4, 28)
"""Pixels of a cell, as most networks have them."""
_MOST_CELLS = 16
"""On a side: an image's bytes grow with the area, and labels of crops gain next to nothing from finer maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Forward passes that are averaged at every cell of one grid, as `averaged`; most often one, whose logits stay.

    A member of another grid is resampled: its log-probabilities are averaged over the cells that a larger cell covers,
    as pooling averages them, or interpolated.
    """

    members: tuple[Teacher, ...]
    grid: Grid
    flip_average: bool = False
    mean: Mean = "log-probability"
    _resampling: tuple[tuple[Tensor, Tensor] | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.members)
        # Made once: a small copy to a GPU in every call would wait for the batch before to finish.
        made = [
            None
            if m.grid == self.grid
            else tuple(w.float().to(m.device) for w in resampling_weights(m.grid, self.grid))
            for m in self.members
        ]
        object.__setattr__(self, "_resampling", tuple(made))

    @classmethod
    def of(cls, teacher: Teacher) -> Ensemble:
        """One teacher alone, on the grid that is kept where nothing is said."""
        return cls(members=(teacher,), grid=kept_grid("auto", teacher.grid))

    @property
    def passes(self) -> int:
        """How many forward passes a map is the average of."""
        return len(self.members) * (2 if self.flip_average else 1)

    @property
    def num_classes(self) -> int:
        """C, the same for every member."""
        return self.members[0].num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names, from the first member that knows them."""
        return next((m.class_names for m in self.members if m.class_names is not None), None)

    @property
    def device(self) -> torch.device:
        """Where the members run."""
        return self.members[0].device

    @property
    def views(self) -> tuple[Preprocessing, ...]:
        """The distinct kinds of pixels that the members need, that of the first member first."""
        return tuple(dict.fromkeys(_pixels(m.preprocessing) for m in self.members))

    def __call__(self, views: Sequence[Tensor]) -> Tensor:
        """Logits (B, C, H, W) float32 on the members' device.

        Args:
            views: the images as uint8 (B, 3, h, w), once for each of `views`, in that order; on any device.
        """
        pixels = dict(zip(self.views, views, strict=True))
        with torch.inference_mode():
            if self.passes == 1:
                return self._resampled(0, self.members[0](views[0]))
            return averaged(self._answers(pixels), self.mean)

    def _answers(self, pixels: Mapping[Preprocessing, Tensor]) -> Iterator[Tensor]:
        """Logits (B, C, H, W) of each forward pass."""
        for number, member in enumerate(self.members):
            own = pixels[_pixels(member.preprocessing)].to(self.device, non_blocking=True)
            yield self._resampled(number, member(own))
            if self.flip_average:
                yield self._resampled(number, member(own.flip(3)).flip(3))

    def _resampled(self, number: int, logits: Tensor) -> Tensor:
        weights = self._resampling[number]
        if weights is None:
            return logits
        rows, cols = weights
        return torch.matmul(torch.matmul(rows, logits.log_softmax(1)), cols.T)


def kept_grid(wanted: tuple[int, int] | Literal["auto", "teacher"], own: Grid) -> Grid:
    """The grid of a store's maps: (height, width), or the teacher's own, with "auto" at most 16 cells on a side.

    >>> print(kept_grid("auto", Grid(14, 14)), kept_grid("auto", Grid(18, 27)), kept_grid("teacher", Grid(18, 27)))
    14x14 11x16 18x27
    """
    if not isinstance(wanted, str):
        return Grid(*wanted)
    share = _MOST_CELLS / max(own.size_hw)
    if wanted == "teacher" or share >= 1:
        return own
    # Not by whole divisors: a teacher of 18 cells a side would be kept on fewer than one of 16.
    height, width = (max(1, math.floor(side * share + 0.5)) for side in own.size_hw)
    return Grid(height, width)


def averaged(answers: Iterable[Tensor], mean: Mean) -> Tensor:
    """The log-probabilities (B, C, ...) of one or more answers' average, of logits (B, C, ...) each.

    That of "log-probability" is the mean of logs, as pooling takes it of cells, so that it does not matter which comes
    first; that of "probability" is what older stores hold, and farther from the teacher once it is pooled.
    """
    total, count = torch.zeros(()), 0
    for logits in answers:
        log_probabilities = logits.log_softmax(1)
        if not count:
            total = log_probabilities
        elif mean == "log-probability":
            total += log_probabilities
        else:
            # Of logs, whose differences a probability that rounds to 0 would lose.
            total = torch.logaddexp(total, log_probabilities)
        count += 1
    # The mean of probabilities lacks a constant only, which the softmax takes off.
    return (total / count if mean == "log-probability" else total).log_softmax(1)


def load_ensemble(spec: EnsembleSpec) -> Ensemble:
    """Load and prove every teacher at every scale.

    Raises:
        TeacherError: one cannot be loaded or proved, or they do not answer the same classes.
    """
    members = tuple(member for teacher in spec.teachers for member in _at_scales(teacher, spec.scales))
    grid = kept_grid(spec.grid_hw, members[0].grid)
    return Ensemble(members=members, grid=grid, flip_average=spec.flip, mean=spec.mean)


def _at_scales(spec: TeacherSpec, scales: Sequence[float]) -> list[Teacher]:
    if tuple(scales) == (1.0,):
        return [load_teacher(spec)]
    base = load_teacher(spec)
    sizes = [_scaled(base, scale) for scale in scales]
    if len(set(sizes)) != len(sizes):
        raise TeacherError(
            f"two of the scales {', '.join(map(str, scales))} of {spec.name} are one size in whole cells: {sizes}. "
            "Give scales that differ more"
        )
    own = base.preprocessing.image_size_hw
    return [base if size == own else load_teacher(replace(spec, image_size_hw=size)) for size in sizes]


def _scaled(teacher: Teacher, scale: float) -> tuple[int, int]:
    """(height, width) in pixels near `scale` times the teacher's, of whole cells but at scale 1."""
    if scale == 1:
        return teacher.preprocessing.image_size_hw
    sizes = zip(teacher.preprocessing.image_size_hw, teacher.grid.size_hw, strict=True)
    height, width = (
        max(1, math.floor(size * scale / cell + 0.5)) * cell
        for size, cell in ((size, _pixels_of_a_cell(size, cells)) for size, cells in sizes)
    )
    return round(height), round(width)


def _pixels_of_a_cell(size: int, cells: int) -> float:
    """What a cell strides; networks round a side that it does not divide up to whole cells."""
    return next((stride for stride in _STRIDES if -(-size // stride) == cells), size / cells)


def _pixels(preprocessing: Preprocessing) -> Preprocessing:
    """What of a preprocessing decides uint8 pixels: mean and deviation come later, but for the colour of margins."""
    mean = preprocessing.mean if preprocessing.fit == "letterbox" else (0.0, 0.0, 0.0)
    return replace(preprocessing, mean=mean, std=(1.0, 1.0, 1.0))


def _may_be_the_same(names: tuple[str, ...] | None, others: tuple[str, ...] | None) -> bool:
    """Whether two teachers' names may be those of the same classes: sources of models word some of them differently."""
    if names is None or others is None:
        return True
    mine, theirs = ([name.partition(",")[0].strip().lower() for name in each] for each in (names, others))
    return sum(map(str.__eq__, mine, theirs)) > len(names) // 2


def _check(members: tuple[Teacher, ...]) -> None:
    """That all see the same part of the image, and speak of the same classes."""
    first = members[0]
    height, width = first.preprocessing.image_size_hw
    for other in members[1:]:
        if other.num_classes != first.num_classes:
            raise TeacherError(
                f"{first.record.name} has {first.num_classes} classes and {other.record.name} {other.num_classes}: "
                "answers of different classes cannot be averaged. Give --classes to keep the same ones of each"
            )
        if not _may_be_the_same(first.class_names, other.class_names):
            raise TeacherError(
                f"{first.record.name} and {other.record.name} name their {first.num_classes} classes differently, so "
                "they cannot be averaged. Give --classes to keep the same ones of each, in the same order"
            )
        if other.device != first.device or other.preprocessing.decode != first.preprocessing.decode:
            raise TeacherError(f"all teachers need one --device and --decode; {other.record.name} has its own")
        its_height, its_width = other.preprocessing.image_size_hw
        if first.preprocessing.fit != other.preprocessing.fit or first.preprocessing.crop != other.preprocessing.crop:
            raise TeacherError(f"all teachers need one --fit and --crop; {other.record.name} has its own")
        if other.preprocessing.exif != first.preprocessing.exif:
            raise TeacherError(
                f"all teachers need one --exif, in whose frame their maps are; {other.record.name} has its own"
            )
        if first.preprocessing.fit != "squash" and height * its_width != width * its_height:
            raise TeacherError(
                f"with --fit {first.preprocessing.fit}, images of {height} x {width} and {its_height} x {its_width} "
                "pixels show different parts of an image. Give sizes of one aspect ratio, or --fit squash"
            )
