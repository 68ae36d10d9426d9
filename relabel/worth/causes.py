"""Why a stored map is not what the teacher says: the known ways to spoil one, each tried on the re-run's map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.worth.scores import centred, planes_apart, planes_of

_FITS, _NEARER, _MUCH_NEARER = 2.0, 0.5, 0.2
"""An arrangement explains a map that it fits within so many limits, and is nearer to, or that it is much nearer to."""
_TEMPERED = 0.03
"""A factor nearer to 1 is none."""
_NEAR = 0.5
"""Nats, and 1 - correlation of _UNLIKE: maps that are no nearer than that are of another teacher."""
_UNLIKE = 0.1
_DIRECTIONS = {(-1, 0): "up", (1, 0): "down", (0, -1): "to the left", (0, 1): "to the right"}

UNKNOWN = (
    "no arrangement of the re-run's maps fits: made by another teacher, other weights or other preprocessing than what "
    "was run"
)
NEAR = (
    "near the re-run's maps, but not equal: images decoded or resized otherwise, a lower precision than the manifest "
    "tells, or weights that were trained a little further"
)


@dataclass(frozen=True, slots=True)
class StoredPlanes:
    """One image's planes in nats (K, H, W), NaN where not stored, its plane classes (K,), and how they are compared.

    `step` is nats a code, None for float16; `is_logit` says that they are raw logits.
    """

    planes: Tensor
    classes: Tensor
    step: float | None
    is_logit: bool

    def apart(self, scores: Tensor) -> float:
        """The mean distance in nats from a re-run's log-probabilities (C, H, W)."""
        return self.planes_apart(planes_of(scores[None], self.classes[None])[0])

    def planes_apart(self, expected: Tensor) -> float:
        """The mean distance in nats from expected planes (K, H, W); NaN there counts as not stored."""
        apart = float(planes_apart(self.planes, expected, step=self.step, is_logit=self.is_logit).nanmean())
        # Nothing to compare is no likeness.
        return math.inf if math.isnan(apart) else apart


def arrangement(stored: StoredPlanes, scores: Tensor, limit: float) -> str | None:
    """What was done to a map, by the re-run's log-probabilities (C, H, W) of the same image; None if nothing fits.

    Args:
        stored: the map that is wrong.
        scores: what it should be of.
        limit: mean nats that two runs may differ by.
    """
    expected = planes_of(scores[None], stored.classes[None])[0]
    as_it_is = stored.planes_apart(expected)
    found = [(stored.planes_apart(planes), what) for what, planes in _arrangements(expected)]
    found += [(stored.apart(moved), what) for what, moved in _other_classes(scores)]
    distance, what = min(found)
    return what if explains(distance, as_it_is, limit) else None


def other_scores(stored: StoredPlanes, scores: Tensor, limit: float) -> str | None:
    """What else may have been done to a map that no `arrangement` explains: to its numbers, or to its classes' ids."""
    expected = planes_of(scores[None], stored.classes[None])[0]
    return _scaled(stored, expected, limit) or _renumbered(stored, scores, limit)


def explains(distance: float, as_it_is: float, limit: float) -> bool:
    """Whether a map that lies `distance` from the stored one explains it, which lies `as_it_is` from the right one."""
    return distance <= max(min(_FITS * limit, _NEARER * as_it_is), _MUCH_NEARER * as_it_is)


def is_near(stored: StoredPlanes, scores: Tensor) -> bool:
    """Whether a map is much like the re-run's, if not equal to it."""
    expected = planes_of(scores[None], stored.classes[None])[0]
    known = ~stored.planes.isnan()
    both = torch.stack([stored.planes[known], expected[known]])
    return stored.planes_apart(expected) < _NEAR and float(torch.corrcoef(both)[0, 1]) > 1 - _UNLIKE


def _arrangements(planes: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Planes (K, H, W) with their cells in other places; NaN where nothing is known."""
    yield "transposed: rows and columns are exchanged", planes.transpose(1, 2).reshape(planes.shape)
    yield "mirrored left to right", planes.flip(2)
    yield "upside down", planes.flip(1)
    yield "turned by 180 degrees", planes.flip(1, 2)
    if planes.shape[1] == planes.shape[2]:
        yield "turned by 90 degrees", planes.rot90(1, (1, 2))
        yield "turned by 270 degrees", planes.rot90(-1, (1, 2))
    for (down, right), direction in _DIRECTIONS.items():
        yield f"shifted by a cell {direction}", _shifted(planes, down, right)
        if down:
            for across in (-1, 1):
                yield f"shifted by a cell {direction} and {_DIRECTIONS[0, across]}", _shifted(planes, down, across)


def _shifted(planes: Tensor, down: int, right: int) -> Tensor:
    """Moved by so many cells; the border that this leaves is not known, whatever a fault has put there."""
    moved = planes.roll((down, right), (1, 2)).clone()
    for cells, dim in ((down, 1), (right, 2)):
        if cells:
            moved.select(dim, 0 if cells > 0 else -1).fill_(torch.nan)
    return moved


def _other_classes(scores: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "under class ids that are one too high", scores.roll(1, 0)
    yield "under class ids that are one too low", scores.roll(-1, 0)


def _scaled(stored: StoredPlanes, expected: Tensor, limit: float) -> str | None:
    """Whether the scores are the right ones times a factor, or plus a constant at each cell."""
    as_it_is, rounding = stored.planes_apart(expected), stored.step or 0.0
    if as_it_is < rounding:
        # What is nearer than rounding would be explained by anything.
        return None
    present = ~stored.planes.isnan()
    mine, right = (centred(planes, present, -3)[present] for planes in (stored.planes, expected))
    factor = float((mine * right).sum() / right.square().sum().clamp(min=1e-12))
    # A score and the mean of its cell's are rounded by half a step each at most.
    distance = float(((mine - factor * right).abs() - rounding).clamp(min=0).mean())
    # A map that says nearly the same of all cells is near any other, times next to nothing.
    flat = float((mine.abs() - rounding).clamp(min=0).mean())
    if factor <= 0 or flat <= limit or not explains(distance, min(as_it_is, flat), limit):
        return None
    if abs(factor - 1) > _TEMPERED:
        return f"tempered: differences are {factor:.2f} times the re-run's, as by a temperature of {1 / factor:.2f}"
    return None if stored.is_logit else "off by a constant at each cell: normalised over other classes than all"


def _renumbered(stored: StoredPlanes, scores: Tensor, limit: float) -> str | None:
    """Whether each plane is the map of some other class."""
    if stored.is_logit or bool(stored.planes.isnan().any()):
        return None
    cells = scores[0].numel()
    nearest = torch.cdist(stored.planes.flatten(1), scores.flatten(1), p=1).min(1).values / cells
    # Rounding alone is a quarter of a step on average.
    within = _FITS * limit + (stored.step or 0.0) * 0.3
    return "under other class ids: classes are in another order" if float(nearest.mean()) <= within else None
