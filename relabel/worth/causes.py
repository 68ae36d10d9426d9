"""Why a stored map is not what the teacher says: what an import or a user can do to one, held against a re-run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.worth.scores import beyond_coding, planes_apart, planes_of

_FITS, _NEARER = 2.0, 0.5
"""An arrangement explains a map that fits it as two runs fit each other, give or take a factor of 2, and twice as well
as the right one: both are noisy."""
_NEAR, _UNLIKE = 0.5, 0.1
"""Nats, and 1 - correlation: several times what bfloat16 moves scores by (0.008 of their spread on average, see
`scores`), so that a rougher computation is near, and two teachers that were not trained from each other are not."""

ANOTHER = (
    "of another teacher: the weights that were run are not those that the manifest tells, and no arrangement of their "
    "maps fits"
)
UNKNOWN = (
    "unknown: neither transposed, nor mirrored, nor in another class order; made by another teacher than the manifest "
    "says, by other weights, or of images that were made ready otherwise"
)
NEAR = (
    "near, but not equal: images were decoded or resized otherwise, at a lower precision than the manifest tells, or "
    "the weights were trained a little further"
)


@dataclass(frozen=True, slots=True)
class StoredPlanes:
    """One image's planes in nats (K, H, W), NaN where not stored, its plane classes (K,), and how they are compared.

    `step` is nats per code, None for float16; `is_logit` says that they are raw logits.
    """

    planes: Tensor
    classes: Tensor
    step: float | None
    is_logit: bool

    def apart(self, expected: Tensor) -> float:
        """The mean distance in nats from expected planes (K, H, W)."""
        apart = float(planes_apart(self.planes, expected, step=self.step, is_logit=self.is_logit).nanmean())
        # Nothing to compare is no likeness.
        return math.inf if math.isnan(apart) else apart


def cause(stored: StoredPlanes, scores: Tensor, limit: float, *, is_other: bool) -> str:
    """What was done to a map that is wrong, by the re-run's log-probabilities (C, H, W) of the same image.

    Args:
        stored: the map.
        scores: what it should be of.
        limit: mean nats that two runs may differ by.
        is_other: whether another teacher was run than the manifest tells of.
    """
    expected = planes_of(scores[None], stored.classes[None])[0]
    as_it_is = stored.apart(expected)
    found = [(stored.apart(planes), what) for what, planes in _arrangements(expected)]
    found.append((_of_any_classes(stored, scores), "in another class order: each plane is some other class's map"))
    distance, what = min(found)
    if distance < min(_FITS * limit, _NEARER * as_it_is):
        return what
    known = ~stored.planes.isnan()
    correlation = float(torch.corrcoef(torch.stack([stored.planes[known], expected[known]]))[0, 1])
    if as_it_is < _NEAR and correlation > 1 - _UNLIKE:
        return NEAR
    return ANOTHER if is_other else UNKNOWN


def _arrangements(planes: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Planes (K, H, W) with their cells in other places."""
    yield "transposed: rows and columns are exchanged", planes.transpose(1, 2).reshape(planes.shape)
    yield "mirrored left to right", planes.flip(2)
    yield "mirrored upside down", planes.flip(1)


def _of_any_classes(stored: StoredPlanes, scores: Tensor) -> float:
    """The mean distance in nats of each plane from the class that is nearest to it; infinite where none can be."""
    if stored.is_logit or bool(stored.planes.isnan().any()):
        # The classes of a list differ from cell to cell.
        return math.inf
    nearest = [beyond_coding(plane, scores, step=stored.step).mean((1, 2)).min() for plane in stored.planes]
    return float(torch.stack(nearest).mean())
