"""Why a stored map is not what the teacher says: what an import or a user can do to one, held against a re-run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relabel.score_map import ScoreMap
from relabel.worth.scores import beyond_coding, planes_apart, planes_of, step_of

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


def cause(stored: ScoreMap, scores: Tensor, limit: float, *, is_other: bool) -> str:
    """What was done to a map that is wrong, by the re-run's log-probabilities (C, H, W) of the same image.

    Args:
        stored: one map, as the store keeps it.
        scores: what it should be of.
        limit: mean nats that two runs may differ by.
        is_other: whether another teacher was run than the manifest tells of.
    """
    planes = stored.decoded().planes.float()
    expected = planes_of(scores[None], stored.classes[:, : planes.shape[1]])
    as_it_is = _apart(stored, expected)
    arranged = {
        "transposed: rows and columns are exchanged": expected.transpose(2, 3).reshape(expected.shape),
        "mirrored left to right": expected.flip(3),
        "mirrored upside down": expected.flip(2),
    }
    found = [(_apart(stored, cells), what) for what, cells in arranged.items()]
    found.append((_of_any_classes(stored, scores), "in another class order: each plane is some other class's map"))
    distance, what = min(found)
    if distance < min(_FITS * limit, _NEARER * as_it_is):
        return what
    known = ~planes.isnan()
    correlation = float(torch.corrcoef(torch.stack([planes[known], expected[known]]))[0, 1])
    if as_it_is < _NEAR and correlation > 1 - _UNLIKE:
        return NEAR
    return ANOTHER if is_other else UNKNOWN


def _apart(stored: ScoreMap, expected: Tensor) -> float:
    """The mean distance in nats of one map from expected planes (1, K, H, W)."""
    apart = float(planes_apart(stored, expected).nanmean())
    # Nothing to compare is no likeness.
    return math.inf if math.isnan(apart) else apart


def _of_any_classes(stored: ScoreMap, scores: Tensor) -> float:
    """The mean distance in nats of each plane from the class that is nearest to it; infinite where none can be."""
    if stored.holes:
        # The classes of a list differ from cell to cell.
        return math.inf
    planes = stored.decoded().planes[0].float()
    nearest = [beyond_coding(plane, scores, step=step_of(stored)).mean((1, 2)).min() for plane in planes]
    return float(torch.stack(nearest).mean())
