"""Whether outputs of a batch are mixed with each other, as MixUp and CutMix do, behind labels that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.geometry.views import View
from relabel.tracking.agreement import foreign_to, grid_of, knotted, solved
from relabel.tracking.places import Array, Place

_FEWEST = 256
"""Pixels that show both images."""
_GAIN = 0.4
"""Of what its own place leaves unexplained, what another image's explains: 0.15 at most by chance, 0.9 if mixed."""
_PASTED, _EXPLAINED = 100, 0.7
"""Pixels of a part that its own place does not explain, and how much of them another's does; noise: 0.3 at most."""
_LEFT = 0.01
"""Of the variance: less is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One output, the place that is told of it, and the row of its position image.

    Attributes:
        values: (rows, columns) of its liveliest channel, one in so many pixels.
        levels: (rows, columns) of the told place; NaN where the image is not shown.
        foreign: (rows, columns) where the told place does not explain what is seen.
        row: of the image.
    """

    values: Array
    levels: Array
    foreign: NDArray[np.bool_]
    row: int

    @classmethod
    def of(cls, output: Any, view: View, row: int, size_hw: tuple[int, int]) -> Shown | None:
        """None where nothing can be told."""
        found = grid_of(output, view, row, size_hw)
        if found is None:
            return None
        place, values = found
        return cls(values, _on_grid(place, place.levels), _on_grid(place, foreign_to(place, values)) == 1, row)


def _on_grid(place: Place, at_inside: NDArray[Any]) -> Array:
    grid = np.full(place.inside.shape, np.nan, np.float32)
    grid[place.inside] = at_inside
    return grid


def mixed(every: Sequence[Shown], before: Sequence[Shown] = ()) -> list[bool]:
    """Of each output, whether another one's image is mixed into it.

    Args:
        every: the outputs of a batch.
        before: outputs of earlier batches, which a stream may have mixed into these.
    """
    return [any(_explains(other, own) for other in (*every, *before) if other.row != own.row) for own in every]


def _explains(other: Shown, own: Shown) -> bool:
    """Whether another image was added to this one, or pasted over a part of it."""
    if other.levels.shape != own.levels.shape:
        return False
    pasted = own.foreign & np.isfinite(other.levels)
    if pasted.sum() >= _PASTED:
        values = own.values[pasted]
        if _left(knotted(other.levels[pasted]), values) < (1 - _EXPLAINED) * float(values.var()):
            return True
    both = np.isfinite(own.levels) & np.isfinite(other.levels)
    if both.sum() < _FEWEST:
        return False
    values = own.values[both]
    columns = knotted(own.levels[both])
    alone = _left(columns, values)
    if alone < _LEFT * float(values.var()):
        return False
    return _left(np.concatenate([columns, knotted(other.levels[both])], axis=1), values) < (1 - _GAIN) * alone


def _left(columns: NDArray[np.float32], values: Array) -> float:
    return float(np.square(values - columns @ solved(columns, values)).mean())
