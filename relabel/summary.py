"""What a store is, in numbers a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relabel.manifest import Manifest
from relabel.score_map import STEP
from relabel.store import FAILED, LABELLED, StoreReader

_SAMPLE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """A store's manifest and counts.

    `unstored_mass` is the mean probability of the classes without a plane, and `first_class_is_label` how often the
    heaviest plane is the ground truth, both over a sample of `sampled` images; NaN where there is nothing to average.
    `labels` counts the images of each ground truth class, -1 being unknown.
    """

    manifest: Manifest
    shards_published: int
    labelled: int
    failed: int
    bytes: int
    sampled: int
    unstored_mass: float
    first_class_is_label: float
    labels: dict[int, int]

    @property
    def bytes_per_image(self) -> float:
        """All files of the store over its images."""
        return self.bytes / max(self.labelled + self.failed, 1)


def summarise(store: str | Path) -> StoreSummary:
    """Read a store's row arrays, and a sample of its maps.

    Raises:
        StoreError: not a store, or a damaged one.
    """
    reader = StoreReader(store, partial=True)
    tables = {shard: reader.table(shard) for shard in sorted(reader.published)}
    statuses = [table.statuses for table in tables.values()]
    labels = [table.labels[table.statuses == LABELLED] for table in tables.values()]
    rows = [shard * reader.rows_per_shard + np.flatnonzero(t.statuses == LABELLED) for shard, t in tables.items()]
    every = np.concatenate([*rows, np.empty(0, np.int64)])
    truth = np.concatenate([*labels, np.empty(0, np.int32)])
    chosen = np.linspace(0, len(every) - 1, min(_SAMPLE, len(every))).astype(np.int64)
    unstored, agreement = _sampled(reader, every[chosen], truth[chosen])
    values, counts = np.unique(truth, return_counts=True)
    return StoreSummary(
        manifest=reader.manifest,
        shards_published=len(tables),
        labelled=len(every),
        failed=sum(int((s == FAILED).sum()) for s in statuses),
        bytes=reader.size_bytes(),
        sampled=len(chosen),
        unstored_mass=unstored,
        first_class_is_label=agreement,
        labels=dict(zip(values.tolist(), counts.tolist(), strict=True)),
    )


def _sampled(reader: StoreReader, rows: NDArray[np.int64], truth: NDArray[np.int32]) -> tuple[float, float]:
    if not len(rows):
        return float("nan"), float("nan")
    batch = reader.read(rows)
    planes = batch.scores[:, :-1].astype(np.float32)
    if batch.scores.dtype == np.uint8:
        planes = np.where(planes == 255, -np.inf, planes * -STEP)
    stored = np.exp(np.nan_to_num(planes, nan=-np.inf, neginf=-np.inf)).sum(1).mean()
    known = truth >= 0
    agreement = (batch.classes[known, 0] == truth[known]).mean() if known.any() else float("nan")
    return float(max(0.0, 1 - stored)), float(agreement)
