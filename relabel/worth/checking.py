"""The stored maps of sampled rows against a re-run's: what is wrong, and why, as far as it can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.findings import Finding
from relabel.store import StoreReader
from relabel.worth.causes import cause
from relabel.worth.rerun import Rerun
from relabel.worth.sampling import SampledRow
from relabel.worth.scores import compare
from relabel.worth.ways import Answers

_FOOTPRINT = 1e-4
"""Fractions of the image: footprints are kept as float32."""


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


class ScoreCheck:
    """Takes batches, and gathers findings and their causes."""

    def __init__(self, reader: StoreReader, rerun: Rerun) -> None:
        self._reader, self._rerun = reader, rerun
        self._is_other = any(rerun.findings())
        self._causes: Counter[str] = Counter()
        self._means: list[Tensor] = []
        self._limits: list[Tensor] = []
        self._largest = 0.0
        self.findings: list[Finding] = []

    def add(self, rows: Sequence[SampledRow], answers: Answers, sizes_hw: Sequence[tuple[int, int]]) -> None:
        """Compare the maps of B images, of sizes (height, width) in pixels."""
        differences = compare(answers.stored, answers.scores, is_exact=self._rerun.is_exact)
        self._means.append(differences.mean)
        self._limits.append(differences.limits[0])
        self._largest = max(self._largest, float(differences.largest.max()))
        for image, row in enumerate(rows):
            faults = differences.faults(image)
            if faults:
                stored, limit = answers.stored[image : image + 1], float(differences.limits[0, image])
                found = cause(stored, answers.scores[image], limit, is_other=self._is_other)
                self._causes[found] += 1
                # What it is called will do; the report tells once what it means.
                self.findings.append(row.finding(f"{'; '.join(faults)}: {found.partition(':')[0]}"))
            elif not self._same_footprint(answers, image, sizes_hw[image]):
                self.findings.append(row.finding(_other_footprint(answers, image)))

    def causes(self) -> tuple[str, ...]:
        """A sentence for each cause, the most frequent first."""
        return tuple(f"{n} of {self._causes.total()} wrong maps: {what}" for what, n in self._causes.most_common())

    def summary(self) -> ScoreSummary:
        """The differences over all batches."""
        means, limits = torch.cat([torch.empty(0), *self._means]), torch.cat([torch.empty(0), *self._limits])
        return ScoreSummary(
            compared=len(means),
            wrong=self._causes.total(),
            mean=float(means.mean()) if len(means) else 0.0,
            largest=self._largest,
            limit=float(limits.mean()) if len(means) else 0.0,
        )

    def _same_footprint(self, answers: Answers, image: int, size_hw: tuple[int, int]) -> bool:
        mine = answers.stored.footprints_xyxy()[image]
        allowed = torch.full((4,), _FOOTPRINT)
        if self._reader.manifest.imported is not None:
            # An import takes the centre exactly, a re-run cuts whole pixels.
            height, width = size_hw
            allowed += 0.5 / torch.tensor([width, height, width, height])
        return bool(((mine - answers.footprints[image]).abs() <= allowed).all())


def _other_footprint(answers: Answers, image: int) -> str:
    mine, now = (_box(xyxy[image].tolist()) for xyxy in (answers.stored.footprints_xyxy(), answers.footprints))
    return f"its map is said to cover {mine} of the image, and the re-run's covers {now}"


def _box(xyxy: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in xyxy) + ")"
