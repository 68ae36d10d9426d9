"""The promises that a row's score map makes, checked for many rows at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from relabel.manifest import ScoreRecord
from relabel.score_map import NOT_STORED, STEP
from relabel.store import RowBatch

_HALF_STEP = STEP / 2
_SLACK = 1e-3
"""Room for float16 rounding, on top of half a coding step."""


def content_findings(batch: RowBatch, record: ScoreRecord) -> Iterator[tuple[int, str]]:
    """(index in the batch, what is wrong) for every broken promise of a batch of labelled rows."""
    yield from _class_findings(batch.classes, record)
    scores, stored = _log_probabilities(batch.scores)
    if record.select == "image":
        for row in np.flatnonzero(~stored.all(axis=(1, 2, 3))):
            yield int(row), "a plane misses cells (score not stored or not finite), and this store's planes are whole"
    if record.scores == "log-probability":
        # Where a score is missing the sums below mean nothing; that row has its finding already.
        whole = stored.all(axis=(1, 2, 3))
        for row, what in _mass_findings(scores, record):
            if whole[row]:
                yield row, what
    yield from _profile_findings(batch.profile, record)


def _log_probabilities(scores: NDArray[np.generic]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(n, K + 1, H, W) scores in nats, 0 where not stored, and where they are stored."""
    if scores.dtype == np.uint8:
        stored = scores != NOT_STORED
        return np.where(stored, scores.astype(np.float32) * np.float32(-STEP), 0), stored
    stored = np.isfinite(scores.astype(np.float32))
    return np.where(stored, scores.astype(np.float32), 0), stored


def _class_findings(classes: NDArray[np.generic], record: ScoreRecord) -> Iterator[tuple[int, str]]:
    ids = np.sort(classes.astype(np.int64), axis=1)
    for row in np.flatnonzero((ids[:, -1] >= record.num_classes) | (ids[:, 0] < 0)):
        yield int(row), f"a class id lies outside [0, {record.num_classes}): {ids[row, -1]}"
    twice = (ids[:, 1:] == ids[:, :-1]).any(axis=1)
    for row in np.flatnonzero(twice):
        yield int(row), "a class is stored twice"


def _mass_findings(scores: NDArray[np.float32], record: ScoreRecord) -> Iterator[tuple[int, str]]:
    """Probabilities sum to at most 1, and the mean log of the others is at most the log of their mean (Jensen)."""
    planes, rest = scores[:, :-1], scores[:, -1]
    above = (planes > _SLACK).any(axis=(1, 2, 3))
    for row in np.flatnonzero(above):
        yield int(row), f"a log-probability is above 0: {planes[row].max():.3f}"
    most = np.exp(planes).sum(axis=1)
    for row in np.flatnonzero((most > math.exp(_HALF_STEP) + _SLACK).any(axis=(1, 2))):
        yield (
            int(row),
            f"the planes' probabilities sum to {most[row].max():.3f} at a cell, above 1 within the coding step",
        )
    others = record.num_classes - record.planes
    if others == 0:
        return
    left = 1 - most * math.exp(-_HALF_STEP)
    implied = others * np.exp(rest - _HALF_STEP)
    # A clamped code stands for any smaller score, so the smallest rest proves nothing.
    wrong = (implied > np.maximum(left, 0) + _SLACK) & (rest > -(NOT_STORED - 1) * STEP)
    for row in np.flatnonzero(wrong.any(axis=(1, 2))):
        yield int(row), "the rest plane holds more probability than the planes leave at a cell"


def _profile_findings(profile: NDArray[np.int8], record: ScoreRecord) -> Iterator[tuple[int, str]]:
    """Offsets average to 0, and the remaining classes' one keeps their mass, so it is at least their mean."""
    others = record.num_classes - record.planes - record.profile
    if record.scores != "log-probability" or record.select != "image" or others < 1:
        return
    codes = profile.astype(np.float64)
    clamped = (np.abs(codes) >= 127).any(axis=1)
    least = -codes[:, :-1].sum(axis=1) / others
    rounding = (record.profile / others + 1) / 2 + 1e-6
    for row in np.flatnonzero((codes[:, -1] < least - rounding) & ~clamped):
        yield int(row), "the profile's offsets disagree with the rest plane they refer to"
