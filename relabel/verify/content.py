"""The promises that a row's score map makes, checked for many rows at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.findings import class_text
from relabel.manifest import STEP, ScoreRecord
from relabel.score_map import NOT_STORED, OFFSET_STEP

_HALF_ROUNDING = 2.0**-8
"""Nats by which float16 may raise a score: half its step at -16, below which mass is nothing."""
_SLACK = 0.01
"""Room for the float32 arithmetic that made the scores, in probability or in nats."""
_OFFSET_ROUNDING = 0.6
"""Half a code and that same room, in codes of an offset."""
_LEAST_OFFSET, _MOST_OFFSET = -128, 127
"""Clamped: what stands behind the first two may be any smaller value, behind the last any larger one."""

_Found = Iterator[tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """n score maps as a store holds them; what could not be read is None.

    Attributes:
        scores: (n, K + 1, H, W) uint8 codes or float16, the planes, then the rest.
        classes: (n, K + M) uint16 or uint32.
        profile: (n, M + 1) int8 codes.
    """

    scores: NDArray[Any]
    classes: NDArray[Any] | None
    profile: NDArray[Any] | None


def content_findings(maps: Maps, record: ScoreRecord, class_names: Sequence[str] | None = None) -> _Found:
    """(number in the batch, what is wrong) for every broken promise of the maps of labelled rows; classes by name."""
    if not len(maps.scores):
        return
    if maps.classes is not None:
        yield from _class_findings(maps.classes, record, class_names)
    nats, missing = _decoded(maps.scores, record.step or STEP)
    # One look at the whole batch spares nearly every batch the looks at its cells.
    if missing is not None:
        yield from _hole_findings(nats, missing, record)
        # No probability, so that the sums below are of what is there.
        nats[missing | np.isinf(nats)] = -np.inf
    if not record.is_logit:
        yield from _mass_findings(nats, maps.profile, record)
        if maps.profile is not None:
            yield from _offset_findings(maps.profile, record)


def _class_findings(classes: NDArray[Any], record: ScoreRecord, class_names: Sequence[str] | None) -> _Found:
    ids = np.sort(classes, axis=1)
    for row in rows_of(ids[:, -1] >= record.num_classes):
        yield row, f"a class id lies outside [0, {record.num_classes}): {ids[row, -1]}"
    repeated = ids[:, 1:] == ids[:, :-1]
    for row in rows_of(repeated.any(axis=1)):
        yield row, f"a class is stored twice: {class_text(int(ids[row, 1:][repeated[row]][0]), class_names)}"


def _decoded(scores: NDArray[Any], step: float) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Scores in nats, and which of them are not stored; None where all are, and finite."""
    if scores.dtype == np.uint8:
        missing = scores == NOT_STORED if scores.max(initial=0) == NOT_STORED else None
        # One array, in place, here and below: a batch's scores in nats fill a core's cache once.
        nats = scores.astype(np.float32)
        nats *= np.float32(-step)
        return nats, missing
    nats = scores.astype(np.float32)
    # The extremes of an array with a NaN are NaN.
    return nats, None if np.isfinite([nats.min(initial=0), nats.max(initial=0)]).all() else np.isnan(nats)


def _hole_findings(nats: NDArray[np.float32], missing: NDArray[np.bool_], record: ScoreRecord) -> _Found:
    """Scores that are infinite, or missing where none may be."""
    for row in rows_of(any_cell(np.isinf(nats))):
        yield row, "a score is infinite"
    for row in rows_of(any_cell(missing[:, -1] if record.has_holes else missing)):
        yield row, "a score is not stored (or not a number), and its place may have no hole"


def _mass_findings(nats: NDArray[np.float32], profile: NDArray[Any] | None, record: ScoreRecord) -> _Found:
    """Probabilities sum to at most 1 at every cell and over the map; a fault that follows from another is not told.

    Writes over `nats`.
    """
    # A code cannot say it.
    if record.step is None and nats.max(initial=0) > _SLACK:
        for row in rows_of(any_cell(nats > _SLACK)):
            yield row, f"a log-probability is above 0: {nats[row].max():.3f}"
        # Enough to be too much, and its exponential does not overflow.
        np.minimum(nats, 1, out=nats)
    pooled = None if profile is None else _pooled_mass(nats, profile, record)
    rounding = _HALF_ROUNDING if record.step is None else record.step / 2
    most = math.exp(rounding) + _SLACK
    each = np.exp(nats, out=nats).reshape(*nats.shape[:2], math.prod(nats.shape[2:]))
    # A product with ones is a sum that takes half the time.
    mass = np.matmul(np.ones((1, each.shape[1] - 1), np.float32), each[:, :-1])[:, 0]
    above = any_cell(mass > most)
    for row in rows_of(above):
        yield row, f"the planes' probabilities sum to {mass[row].max():.3f} at a cell, above 1 within the coding step"
    # The mean log-probability of the other classes is at most the log of their mean probability (Jensen).
    mass += (record.num_classes - record.planes) * each[:, -1]
    above_with_rest = any_cell(mass > most) & ~above
    for row in rows_of(above_with_rest):
        yield row, "the rest plane holds more probability than the planes leave at a cell"
    if pooled is not None:
        # Offsets are rounded, and the rest that they are added to as well.
        most = math.exp(rounding + OFFSET_STEP / 2) + _SLACK
        for row in rows_of((pooled > most) & ~above & ~above_with_rest):
            yield row, f"planes and profile sum to the probability {pooled[row]:.3f} over the map, above 1"


def _pooled_mass(nats: NDArray[np.float32], profile: NDArray[Any], record: ScoreRecord) -> NDArray[np.float32]:
    """(n,) what the label of the whole map sums to before it is normalised; 0 where clamping may have raised it."""
    others = record.num_classes - record.planes - record.profile
    flat = nats.reshape(*nats.shape[:2], math.prod(nats.shape[2:]))
    means = flat @ np.full(flat.shape[-1], 1 / flat.shape[-1], np.float32)
    offsets = means[:, -1:] + profile * np.float32(OFFSET_STEP)
    weights = np.array([1] * record.profile + [others], np.float32)
    mass = np.exp(means[:, :-1]).sum(axis=1) + np.exp(np.minimum(offsets, 1)) @ weights
    clamped = any_cell(nats[:, -1] == np.float32(-(record.step or 0)) * (NOT_STORED - 1)) & (record.step is not None)
    pooled: NDArray[np.float32] = np.where(clamped, 0, mass)
    return pooled


def _offset_findings(profile: NDArray[Any], record: ScoreRecord) -> _Found:
    """Offsets average to 0, and the remaining classes' one keeps their mass, so it is at least their mean."""
    others = record.num_classes - record.planes - record.profile
    codes = profile.astype(np.float64)
    total, remaining = codes[:, :-1].sum(axis=1), codes[:, -1]
    clamped = (codes == _MOST_OFFSET).any(axis=1)
    if others:
        wrong = remaining < -total / others - (record.profile / others + 1) * _OFFSET_ROUNDING
    else:
        clamped |= (codes == _LEAST_OFFSET).any(axis=1)
        wrong = (np.abs(total) > record.profile * _OFFSET_ROUNDING) | (remaining != 0)
    for row in rows_of(wrong & ~clamped):
        yield row, "the profile's offsets do not average to 0 over the classes without a plane"


def any_cell(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, ...) to (n,)."""
    rows: NDArray[np.bool_] = np.logical_or.reduce(wrong, axis=tuple(range(1, wrong.ndim)))
    return rows


def rows_of(wrong: NDArray[np.bool_]) -> list[int]:
    """The numbers of the rows that are."""
    found: list[int] = np.flatnonzero(wrong).tolist()
    return found
