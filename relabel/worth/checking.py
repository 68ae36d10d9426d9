"""The stored maps of sampled rows against a re-run's: what is wrong, and why, as far as it can be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.findings import NUMBERS, Finding
from relabel.images.decode import fitted
from relabel.manifest import Fit, Interpolation
from relabel.score_map import ScoreMap
from relabel.store import LABELED, StoreReader
from relabel.worth.causes import NEAR, UNKNOWN, StoredPlanes, arrangement, explains, is_near, other_scores
from relabel.worth.rerun import Rerun
from relabel.worth.sampling import SampledRow
from relabel.worth.scores import Differences, compare

_FOOTPRINT = 1e-4
"""Fractions of the image: footprints are kept as float32."""
_IN_VAIN = 4
"""So many maps are looked for in vain in other rows, and in pixels that are made in other ways: both take a while."""
_MOST_ROWS, _ROWS = 4096, 64
_RIGHT = 0.1
"""Planes that are nearer than so much of the limit are right beyond doubt, and some other part of the map is not."""
_FITS: tuple[Fit, ...] = ("squash", "center", "letterbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunBatch:
    """B sampled images and what the teacher says of them now.

    Attributes:
        rows: B of them.
        pixels: uint8 (3, H, W) each, as decoded.
        stored: their maps as the store keeps them.
        scores: (B, C, H, W) log-probabilities, on the CPU.
        logits: (B, C, H, W) what the teacher answered, on the CPU.
        footprints: (B, 4) of the re-run's maps.
    """

    rows: Sequence[SampledRow]
    pixels: Sequence[Tensor]
    stored: ScoreMap
    scores: Tensor
    logits: Tensor
    footprints: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """How far stored scores were from a re-run's, in nats beyond coding.

    `mean` is over all images that were compared, `largest` any score's; `limit` is the mean of what `mean` may be;
    `wrong` counts the images that were further off.
    """

    compared: int
    wrong: int
    mean: float
    largest: float
    limit: float


def stored_maps(reader: StoreReader, rows: NDArray[np.int64]) -> ScoreMap:
    """The maps of rows, as codes or halves, with their footprints."""
    batch = reader.read(rows)
    scores = torch.from_numpy(batch.scores)
    footprint = None if batch.footprint is None else torch.from_numpy(batch.footprint)
    one = reader.manifest.footprint
    if footprint is None and one is not None and one != (0.0, 0.0, 1.0, 1.0):
        footprint = torch.tensor([one]).expand(len(rows), 4)
    return ScoreMap(
        torch.from_numpy(batch.classes.astype(np.int64)),
        scores[:, :-1],
        scores[:, -1],
        torch.from_numpy(batch.profile),
        num_classes=reader.manifest.scores.num_classes,
        footprint=footprint,
        holes=reader.manifest.scores.select == "cell",
        step=reader.manifest.scores.step,
    )


class ScoreCheck:
    """Takes batches, and gathers findings and their causes."""

    def __init__(self, reader: StoreReader, rerun: Rerun) -> None:
        self._reader, self._rerun = reader, rerun
        self._record = reader.manifest.scores
        self._causes: dict[str, list[str]] = {}
        self._in_vain = 0
        self._means: list[Tensor] = []
        self._limits: list[Tensor] = []
        self._largest = 0.0
        self.findings: list[Finding] = []

    def add(self, batch: RerunBatch) -> None:
        """Compare the maps of some images."""
        is_logit = self._record.scores == "logit"
        differences = compare(batch.stored, batch.scores, is_logit=is_logit, is_exact=self._rerun.is_exact)
        self._means.append(differences.mean)
        self._limits.append(differences.limits.mean)
        self._largest = max(self._largest, float(differences.largest.max()))
        for image, row in enumerate(batch.rows):
            faults = differences.faults(image)
            if faults:
                cause = self._cause(batch, image, differences)
                self._causes.setdefault(NUMBERS.sub("#", cause), []).append(cause)
                # What it is called will do; the report tells once what it means.
                self.findings.append(row.finding(f"{'; '.join(faults)}: {cause.partition(':')[0]}"))
            elif not self._same_footprint(batch, image):
                self.findings.append(row.finding(_other_footprint(batch, image)))

    def causes(self) -> tuple[str, ...]:
        """A sentence for each cause, the most frequent first."""
        # Factors differ a little from image to image; the middle one stands for all.
        alike = sorted(self._causes.values(), key=len, reverse=True)
        return tuple(f"{len(each)} of {self._wrong} wrong maps: {sorted(each)[len(each) // 2]}" for each in alike)

    @property
    def _wrong(self) -> int:
        return sum(map(len, self._causes.values()))

    def summary(self) -> ScoreSummary:
        """The differences over all batches."""
        means, limits = torch.cat([torch.empty(0), *self._means]), torch.cat([torch.empty(0), *self._limits])
        return ScoreSummary(
            compared=len(means),
            wrong=self._wrong,
            mean=float(means.mean()) if len(means) else 0.0,
            largest=self._largest,
            limit=float(limits.mean()) if len(means) else 0.0,
        )

    def _same_footprint(self, batch: RerunBatch, image: int) -> bool:
        stored = batch.stored.footprint
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
        mine = whole if stored is None else stored[image]
        allowed = torch.full((4,), _FOOTPRINT)
        if self._reader.manifest.imported is not None:
            # An import takes the centre exactly, a re-run cuts whole pixels.
            height, width = batch.pixels[image].shape[1:]
            allowed += 0.5 / torch.tensor([width, height, width, height])
        return bool(((mine - batch.footprints[image]).abs() <= allowed).all())

    def _cause(self, batch: RerunBatch, image: int, differences: Differences) -> str:
        limit = float(differences.limits.mean[image])
        stored, scores = self._planes(batch.stored, image), batch.scores[image]
        if differences.planes_fit[image] and stored.apart(scores) <= _RIGHT * limit:
            return "the planes are right, and what is said of the other classes is not"
        found = arrangement(stored, scores, limit)
        if found is None and self._in_vain < _IN_VAIN:
            found = self._other_row(batch, image, limit) or self._other_pixels(batch, image, limit)
            self._in_vain += found is None
        if found is None:
            found = other_scores(stored, scores, limit)
        if found is None:
            found = NEAR if is_near(stored, scores) else UNKNOWN
        return found

    def _planes(self, maps: ScoreMap, image: int) -> StoredPlanes:
        one = maps[image : image + 1].decoded()
        count = one.planes.shape[1]
        return StoredPlanes(
            planes=one.planes[0].float(),
            classes=one.classes[0, :count],
            step=self._record.step if self._record.dtype == "uint8" else None,
            is_logit=self._record.scores == "logit",
        )

    def _other_row(self, batch: RerunBatch, image: int, limit: float) -> str | None:
        """Whether this image's map stands in another row of its shard: rows were permuted."""
        row, scores = batch.rows[image], batch.scores[image]
        as_it_is = self._planes(batch.stored, image).apart(scores)
        for rows in self._neighbours(row):
            maps = stored_maps(self._reader, row.shard * self._reader.rows_per_shard + rows)
            nearest = min(self._planes(maps, i).apart(scores) for i in range(len(rows)))
            if explains(nearest, as_it_is, limit):
                return "another image's: the image's own map stands in another row of the shard, rows were permuted"
        return None

    def _neighbours(self, row: SampledRow) -> Iterator[NDArray[np.int64]]:
        """Labelled rows of the same shard, those next to it first."""
        labeled = np.flatnonzero(self._reader.statuses(row.shard) == LABELED).astype(np.int64)
        labeled = labeled[labeled != row.row]
        order = labeled[np.argsort(np.abs(labeled - row.row), kind="stable")][:_MOST_ROWS]
        yield from (order[start : start + _ROWS] for start in range(0, len(order), _ROWS))

    def _other_pixels(self, batch: RerunBatch, image: int, limit: float) -> str | None:
        """Whether the map is that of the same image, made ready in another way."""
        stored = self._planes(batch.stored, image)
        as_it_is = stored.apart(batch.scores[image])
        found: list[tuple[float, str]] = []
        for what, views in self._variants(batch.pixels[image]):
            scores = self._rerun.maps([view[None] for view in views]).log_softmax(1)[0]
            found.append((stored.apart(scores), what))
        distance, what = min(found)
        return what if explains(distance, as_it_is, limit) else None

    def _variants(self, pixels: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
        views = self._rerun.ensemble.views
        swapped = pixels.flip(0)
        yield "made with red and blue exchanged", [fitted(swapped, view)[0] for view in views]
        yield "made of the mirrored image", [fitted(pixels.flip(2), view)[0] for view in views]
        for fit in _FITS:
            if fit != views[0].fit:
                others = [replace(view, fit=fit, crop=1.0) for view in views]
                yield f"made with --fit {fit}", [fitted(pixels, view)[0] for view in others]
        kind: Interpolation = "bicubic" if views[0].interpolation == "bilinear" else "bilinear"
        others = [replace(view, interpolation=kind) for view in views]
        yield f"made with --interpolation {kind}", [fitted(pixels, view)[0] for view in others]


def _other_footprint(batch: RerunBatch, image: int) -> str:
    stored = batch.stored.footprint
    mine = [0.0, 0.0, 1.0, 1.0] if stored is None else stored[image].tolist()
    now = batch.footprints[image].tolist()
    return f"its map is said to cover {_box(mine)} of the image, and the re-run's covers {_box(now)}"


def _box(xyxy: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in xyxy) + ")"
