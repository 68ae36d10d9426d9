"""What other sizes of the teacher's input, and other grids, would give a label of a crop, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from relabel.geometry import Grid
from relabel.geometry.cells import resampling_weights
from relabel.manifest import PLANES, PROFILE, Manifest
from relabel.score_map import ScoreMap
from relabel.store import RowBatch
from relabel.teacher import Ensemble, kept_grid, load_ensemble
from relabel.worth.fidelity import divergence
from relabel.worth.fitting import ERRORS, difference, fit
from relabel.worth.options import LabelsOptions
from relabel.worth.rebuilding import rerun_spec
from relabel.worth.rerun import at_once, seen_by
from relabel.worth.samples import Samples, crop_samples
from relabel.worth.ways import row_bytes, sized_record

_COARSE = Grid(8, 8)
"""Tried of every finer map: a quarter to a third of the bytes of 15 x 15 cells, and labels of crops hardly notice."""
_AS_GOOD = 0.05
"""Of the store's KL: what so little more costs is not worth other options, as in `recommend`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLine:
    """Labels from maps of one image size and grid, at the store's K, M and coding.

    Attributes:
        image_size_hw: (height, width) in pixels of the first teacher's input.
        grid_hw: (height, width) in cells.
        is_stored: whether these are the store's own.
        cost: floating point operations of all forward passes, over those of the store's; NaN where they cannot be
            counted.
        bytes_an_image: scores, classes and profile of an image as a store keeps them.
        kl_teacher, kl_teacher_error: as `LabelLine` has them, at temperature 1.
        agreement_teacher: how often the label and the teacher name the same class.
        kl_fitted: KL of labels that are read as `--fit` would have them read, of images that were not fitted to; NaN
            for fewer images than can be fitted.
        more, more_error: by how much `kl_fitted` is above that of the store's size and grid, and the standard error of
            the difference over the same images; of labels as they are where nothing was fitted.
    """

    image_size_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    is_stored: bool
    cost: float
    bytes_an_image: float
    kl_teacher: float
    kl_teacher_error: float
    agreement_teacher: float
    kl_fitted: float
    more: float
    more_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesReport:
    """The table, the store's own line first, and what it says, in sentences."""

    lines: tuple[SizeLine, ...]
    sentences: tuple[str, ...]


@dataclass(slots=True)
class _Counted:
    """Of one size and grid, an image each: bytes, agreements, KL, and what a reading is fitted to."""

    bytes_each: list[int] = field(default_factory=list)
    agreements: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Size:
    """The teachers at one size of input, the grids that their maps are tried on, and floating point operations."""

    ensemble: Ensemble
    grids: tuple[Grid, ...]
    operations: int


class Sizes:
    """Takes batches of images, their crops and the teacher's answers on them.

    Args:
        manifest: of the store.
        options: which teachers run, and the heights of the first teacher's input in pixels, besides the store's; the
            width and every other teacher's input follow in proportion.

    Raises:
        TeacherError: a teacher cannot be run at one of these sizes.
    """

    def __init__(self, manifest: Manifest, options: LabelsOptions) -> None:
        self._record = record = manifest.scores
        self._seed = options.seed
        planes = min(PLANES, record.num_classes) if record.has_holes else record.planes
        profile = min(PROFILE, record.num_classes - planes) if record.has_holes else record.profile
        self._as_stored = sized_record(record, planes, profile)
        spec = rerun_spec(manifest, options.rerun)
        own = [teacher.image_size_hw or (1, 1) for teacher in spec.teachers]
        self._sizes: list[_Size] = []
        for height in dict.fromkeys((own[0][0], *(options.sizes or ()))):
            share = height / own[0][0]
            scaled = [(max(1, round(h * share)), max(1, round(w * share))) for h, w in own]
            teachers = [replace(t, image_size_hw=size) for t, size in zip(spec.teachers, scaled, strict=True)]
            ensemble = load_ensemble(replace(spec, teachers=tuple(teachers), grid_hw="teacher"))
            grids = [kept_grid("auto", ensemble.grid), ensemble.grid]
            if max(ensemble.grid.size_hw) > max(_COARSE.size_hw):
                grids.append(_COARSE)
            if not self._sizes:
                grids.insert(0, Grid(*self._record.grid_hw))
            self._sizes.append(_Size(ensemble, tuple(dict.fromkeys(grids)), _operations(ensemble)))
        self._counted: dict[tuple[int, Grid], _Counted] = {}

    def add(self, images: Sequence[tuple[Tensor, bytes]], boxes_xyxy: Tensor, on_crops: Tensor) -> None:
        """Measure labels of the crops of B images.

        Args:
            images: decoded, uint8 (3, H, W), and encoded.
            boxes_xyxy: (B, n, 4), fractions of the image.
            on_crops: the teacher's probabilities (B, n, C) on their pixels.
        """
        teacher = on_crops.double()
        for number, size in enumerate(self._sizes):
            most = at_once(self._record.num_classes, size.ensemble.grid.size_hw, len(images))
            for first in range(0, len(images), most):
                part = slice(first, first + most)
                seen = [seen_by(size.ensemble, pixels, data) for pixels, data in images[part]]
                views = [torch.stack(view) for view in zip(*(views for views, _ in seen), strict=True)]
                scores = size.ensemble(views).cpu().log_softmax(1)
                footprints = torch.stack([footprint for _, footprint in seen])
                for grid in size.grids:
                    rows, cols = (weights.float() for weights in resampling_weights(size.ensemble.grid, grid))
                    counted = self._counted.setdefault((number, grid), _Counted())
                    self._count(counted, rows @ scores @ cols.T, footprints, (boxes_xyxy[part], teacher[part]))

    def report(self) -> SizesReport | None:
        """The table; None where no image was measured."""
        if not self._counted:
            return None
        lines: list[SizeLine] = []
        own: Tensor | None = None
        for (number, grid), counted in self._counted.items():
            size, kl = self._sizes[number], torch.cat(counted.kl)
            judged = fit(Samples.joined(counted.samples), self._seed)
            read = kl if judged is None else judged.kl_each
            own = read if own is None else own
            more, more_error = difference(read - own)
            lines.append(
                SizeLine(
                    image_size_hw=size.ensemble.members[0].preprocessing.image_size_hw,
                    grid_hw=grid.size_hw,
                    is_stored=not lines,
                    cost=size.operations / self._sizes[0].operations if self._sizes[0].operations else math.nan,
                    bytes_an_image=sum(counted.bytes_each) / len(counted.bytes_each),
                    kl_teacher=difference(kl)[0],
                    kl_teacher_error=difference(kl)[1],
                    agreement_teacher=float(torch.cat(counted.agreements).mean()),
                    kl_fitted=math.nan if judged is None else float(read.mean()),
                    more=more,
                    more_error=more_error,
                )
            )
        return SizesReport(lines=tuple(lines), sentences=tuple(_sentences(lines)))

    def _count(self, counted: _Counted, scores: Tensor, footprints: Tensor, crops: tuple[Tensor, Tensor]) -> None:
        """Labels of crops, boxes (B, n, 4) and answers (B, n, C), from maps (B, C, h, w) as they would be stored."""
        boxes, teacher = crops
        record = replace(self._as_stored, grid_hw=(scores.shape[2], scores.shape[3]))
        rows = RowBatch.of(ScoreMap.from_logits(scores, record.planes, record.profile, footprint=footprints), record)
        maps = rows.maps(record)
        labels = torch.stack([maps.pool(box, uncovered="nearest") for box in boxes.unbind(1)], dim=1).double()
        first = sum(map(len, counted.kl))
        counted.samples.append(crop_samples(maps, boxes, teacher, torch.arange(first, first + len(boxes))))
        counted.kl.append(divergence(teacher, labels).mean(1))
        counted.agreements.append((labels.argmax(2) == teacher.argmax(2)).double().mean(1))
        counted.bytes_each += row_bytes(rows, record.compression)


def _operations(ensemble: Ensemble) -> int:
    """Of an image's map."""
    # Half a second, for the few who ask for sizes.
    from torch.utils.flop_counter import FlopCounterMode

    views = [torch.zeros(1, 3, *view.image_size_hw, dtype=torch.uint8) for view in ensemble.views]
    with FlopCounterMode(display=False) as counter:
        ensemble(views)
    return int(counter.get_total_flops())


def _sentences(lines: Sequence[SizeLine]) -> Iterator[str]:
    """What is nearer than the store's own, and what is as near for less; each label read as it is best."""
    own, *others = lines
    nearest = min(others, key=lambda line: line.more, default=own)
    if nearest.more < -ERRORS * nearest.more_error:
        yield (
            f"{_named(nearest)} would be nearer to the teacher's answers by {-nearest.more:.3f} +- "
            f"{nearest.more_error:.3f} nats, each read as is best, for {_price(nearest, own)}."
        )
    else:
        yield "No other size or grid is nearer to the teacher's answers, each read as is best."
    as_near = [
        line
        for line in others
        if line.more <= _AS_GOOD * (own.kl_teacher if math.isnan(own.kl_fitted) else own.kl_fitted)
        and (_cost(line), line.bytes_an_image) != (1.0, own.bytes_an_image)
        and _cost(line) <= 1
        and line.bytes_an_image <= own.bytes_an_image
    ]
    if as_near:
        cheapest, smallest = min(as_near, key=_cost), min(as_near, key=lambda line: line.bytes_an_image)
        for line in dict.fromkeys((cheapest, smallest)):
            yield (
                f"{_named(line)} is as near as these images tell ({line.more:+.3f} +- {line.more_error:.3f} nats), for "
                f"{_price(line, own)}; it names the teacher's class of {line.agreement_teacher:.1%} of the crops, the "
                f"store's of {own.agreement_teacher:.1%}."
            )


def _cost(line: SizeLine) -> float:
    return 1.0 if math.isnan(line.cost) else line.cost


def _named(line: SizeLine) -> str:
    (height, width), (rows, cols) = line.image_size_hw, line.grid_hw
    return f"--image-size {height} {width} --grid {rows} {cols}"


def _price(line: SizeLine, own: SizeLine) -> str:
    cost = "the same cost" if _cost(line) == 1 else f"{line.cost:.2f} times the cost"
    return f"{cost} and {line.bytes_an_image:,.0f} bytes an image instead of {own.bytes_an_image:,.0f}"
