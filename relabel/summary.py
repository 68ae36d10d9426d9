"""What a store is, in numbers a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.manifest import ClassSpaces, Manifest
from relabel.store import FAILED, LABELED, StoreReader

_SAMPLE, _SAMPLE_BYTES = 2048, 1 << 26
"""Images, fewer where their maps are larger than any usual one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """A store's manifest and counts.

    `unstored_mass` is the mean probability of the classes without a plane, and `first_class_is_label` how often the
    heaviest plane is the ground truth, both over a sample of `sampled` images; None where there is nothing to average,
    and raw logits are no mass; nor is a ground truth of other classes than the labels', as `class_spaces` tells.
    `first_classes` counts the sample by the class of that plane, `labels` the labelled images by their ground truth
    class, -1 being unknown. `bytes` are those of all files. `digest` is the one number that `relabel.open` can be told
    to insist on; None before the store is finished.
    """

    manifest: Manifest
    shards_published: int
    labeled: int
    failed: int
    bytes: int
    sampled: int
    unstored_mass: float | None
    first_class_is_label: float | None
    first_classes: dict[int, int]
    labels: dict[int, int]
    digest: str | None
    class_spaces: ClassSpaces

    @property
    def bytes_per_image(self) -> float | None:
        """All files of the store over its images, failed ones too."""
        images = self.labeled + self.failed
        return self.bytes / images if images else None


def summarise(store: str | Path) -> StoreSummary:
    """Read a store's row arrays, and a sample of its maps.

    Raises:
        StoreError: not a store, or a damaged one.
    """
    reader = StoreReader(store, partial=True)
    rows, truths, failed = [], [], 0
    for shard in sorted(reader.published):
        # A table holds a shard's keys too: a few at a time is all that a large store leaves room for.
        table = reader.table(shard)
        labeled = np.flatnonzero(table.statuses == LABELED)
        rows.append(shard * reader.rows_per_shard + labeled)
        truths.append(table.labels[labeled])
        failed += int((table.statuses == FAILED).sum())
    every = np.concatenate([np.empty(0, np.int64), *rows])
    truth = np.concatenate([np.empty(0, np.int32), *truths])
    most = min(_SAMPLE, max(1, _SAMPLE_BYTES // reader.manifest.scores.map_bytes))
    chosen = np.linspace(0, len(every) - 1, min(most, len(every))).astype(np.int64)
    spaces = reader.manifest.class_spaces(int(truth.max(initial=-1)))
    unstored, agreement, firsts = _sampled(reader, every[chosen], truth[chosen])
    return StoreSummary(
        manifest=reader.manifest,
        shards_published=len(reader.published),
        labeled=len(every),
        failed=failed,
        bytes=reader.files.size_bytes(),
        sampled=len(chosen),
        unstored_mass=unstored,
        first_class_is_label=None if spaces.are_same is False else agreement,
        first_classes=_counted(firsts),
        labels=_counted(truth),
        digest=reader.digest() if len(reader.published) == reader.num_shards else None,
        class_spaces=spaces,
    )


def _counted(classes: NDArray[Any]) -> dict[int, int]:
    values, counts = np.unique(classes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _sampled(
    reader: StoreReader, rows: NDArray[np.int64], truth: NDArray[np.int32]
) -> tuple[float | None, float | None, NDArray[Any]]:
    """The mean mass outside the planes, how often the first class is the truth where that is known, and the firsts."""
    if not len(rows):
        return None, None, truth
    batch = reader.read(rows)
    known, firsts = truth >= 0, batch.classes[:, 0]
    agreement = float((firsts[known] == truth[known]).mean()) if known.any() else None
    record = reader.manifest.scores
    if record.is_logit:
        return None, agreement, firsts
    stored = batch.maps(record).decoded().planes.float().exp().sum(1)
    # Coding may raise a sum a little above 1.
    return max(0.0, 1 - float(stored.mean())), agreement, firsts
