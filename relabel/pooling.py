"""Pooled planes to soft labels: RoIAlign and softmax over what is stored, never over a dense C x H x W tensor.

Two spaces. "logit", what ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858) describe: log-probabilities
are pooled, and the softmax comes after. "probability": probabilities are pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import CellWeights

Space = Literal["logit", "probability"]


@dataclass(frozen=True, slots=True)
class SparseLabels:
    """Soft labels without the dense target: the stored classes, and one probability for each of all the others.

    `classes` is (B, n) integer; `probabilities` is (B, n) for image labels or (B, n, h, w) for token labels; `other`
    is (B) or (B, h, w), the probability of *each* class that is not among `classes`; `covered` has the shape of
    `other`, the fraction of the crop that the map covers.
    """

    classes: Tensor
    probabilities: Tensor
    other: Tensor
    covered: Tensor
    num_classes: int

    def dense(self) -> Tensor:
        """(B, C) or (B, C, h, w): sums to 1 over the classes."""
        shape = (self.other.shape[0], self.num_classes, *self.other.shape[1:])
        index = self.classes.long().reshape(*self.classes.shape, *(1 for _ in shape[2:]))
        labels = self.other.unsqueeze(1).expand(shape).clone()
        return labels.scatter_(1, index.expand_as(self.probabilities), self.probabilities)

    def __repr__(self) -> str:
        return (
            f"SparseLabels({tuple(self.probabilities.shape)} of {self.num_classes} classes, {self.probabilities.dtype})"
        )


def pool_maps(maps: Tensor, weights: CellWeights) -> Tensor:
    """RoIAlign of maps (B, P, H, W) with one box each: (B, P, h, w)."""
    batch, planes, height, width = maps.shape
    if weights.rows.shape[1] == weights.cols.shape[1] == 1:
        # One bin: the outer product of both axes' weights is smaller than a half-pooled map.
        cells = weights.rows.reshape(batch, height, 1) * weights.cols.reshape(batch, 1, width)
        return torch.bmm(maps.flatten(2), cells.reshape(batch, -1, 1)).unsqueeze(3)
    half = torch.bmm(maps.reshape(batch, planes * height, width), weights.cols.transpose(1, 2))
    half = half.reshape(batch, planes, height, -1)
    return torch.matmul(weights.rows.unsqueeze(1), half)


def soft_labels(
    scores: Tensor, offsets: Tensor, others: int, weights: CellWeights, *, space: Space
) -> tuple[Tensor, Tensor]:
    """The labels of one box an image: (B, K + M, h, w) of the stored classes, (B, h, w) of each other class.

    Args:
        scores: (B, K + 1, H, W) log-probability planes, the last one the mean log-probability of all other classes.
        offsets: (B, M + 1) offsets to that last plane, of the M profile classes, then of each remaining class.
        others: how many classes remain, C - K - M.
        weights: from `geometry.roi_weights`.
        space: what is pooled.
    """
    if space not in _SPACES:
        raise InvalidValueError(f"space must be one of {', '.join(map(repr, _SPACES))}; got {space!r}")
    return _SPACES[space](scores, offsets, others, weights)


def _pool_logits(scores: Tensor, offsets: Tensor, others: int, weights: CellWeights) -> tuple[Tensor, Tensor]:
    pooled = pool_maps(scores, weights)
    planes, rest = pooled[:, :-1], pooled[:, -1:]
    # The remaining classes share one score, so they enter the softmax once, with their number as a factor.
    multiplicity = torch.zeros(offsets.shape[1], dtype=offsets.dtype)
    multiplicity[-1] = math.log(others) if others else -math.inf
    tail = rest + (offsets + multiplicity.to(offsets.device))[:, :, None, None]
    probabilities = torch.softmax(torch.cat([planes, tail], dim=1), dim=1)
    return probabilities[:, :-1], probabilities[:, -1] / max(others, 1)


def _pool_probabilities(scores: Tensor, offsets: Tensor, others: int, weights: CellWeights) -> tuple[Tensor, Tensor]:
    # The planes' probabilities are known at every cell, so the left-over mass is known too, without the rest plane.
    stored = scores[:, :-1].exp()
    mass = stored.sum(1, keepdim=True)
    in_tail = others + offsets.shape[1] - 1
    pooled = pool_maps(stored / (mass.clamp(min=1) if in_tail else mass), weights)
    multiplicity = torch.zeros(offsets.shape[1], dtype=offsets.dtype)
    multiplicity[-1] = math.log(others) if others else -math.inf
    share = (offsets + multiplicity.to(offsets.device)).softmax(dim=1) if in_tail else torch.zeros_like(offsets)
    tail = (1 - pooled.sum(1, keepdim=True)).clamp(min=0) * share[:, :, None, None]
    return torch.cat([pooled, tail[:, :-1]], dim=1), tail[:, -1] / max(others, 1)


_SPACES: dict[str, Callable[[Tensor, Tensor, int, CellWeights], tuple[Tensor, Tensor]]] = {
    "logit": _pool_logits,
    "probability": _pool_probabilities,
}
