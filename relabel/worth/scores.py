"""Stored score maps against those of a re-run, as far as coding and precision let two runs differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.score_map import NOT_STORED, OFFSET_STEP, ScoreMap
from relabel.score_map.coding import decode_offsets, is_code

_LEAST_OFFSET, _MOST_OFFSET = -128 * OFFSET_STEP, 127 * OFFSET_STEP
_HALF = 2.0**-11
"""A float16 is rounded by so much of itself at most."""
_EXACT, _ROUGH = (0.005, 0.02, 0.1), (0.06, 0.2, 1.0)
"""Mean, usual and largest difference of two runs over the spread of the scores: in float32 (or TF32), or less.

Measured between bfloat16 and float32: at most 0.008 on average, 0.034 for 99 of 100 scores, and 0.06, of a ResNet, a
MobileNet and a vision transformer. The labels of an EfficientNet-Lite moved 4 times as far as the ResNet's. TF32 has
three bits more than bfloat16, so an eighth of that, and as much room beside.
"""
_SLACK = (0.002, 0.002, 0.01)
"""Nats that are nothing: float32 sums in another order."""
_SHARE = 0.02
"""Of an image's scores: so many may lie further off than is usual; of bfloat16 1 in 100 did by 0.034 of the spread."""
_LACKING = 0.05
"""Of the label's probability: so much the kept classes may lack of the likeliest ones', as rules of choice differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Of B images, (B,) each, in nats beyond what coding explains.

    Attributes:
        mean, largest: over all stored scores, the planes and, where it is a rest, the rest.
        share: of those scores, how many are further off than is usual.
        offsets: the mean over the profile; 0 where it means nothing.
        lacking: the probability in the label of the whole image that the kept classes lack of as many likeliest ones'.
        limits: (3, B), what may lie between the maps of two runs: on average, for nearly all scores, and for any.
    """

    mean: Tensor
    largest: Tensor
    share: Tensor
    offsets: Tensor
    lacking: Tensor
    limits: Tensor

    def faults(self, image: int) -> list[str]:
        """What is wrong with an image's map, in words; empty where nothing is."""
        limit, usual, most = self.limits[:, image].tolist()
        mean, largest, share, offsets, lacking = (
            float(values[image]) for values in (self.mean, self.largest, self.share, self.offsets, self.lacking)
        )
        found = []
        if not (mean <= limit and largest <= most and share <= _SHARE):
            found.append(
                f"coding aside, its scores are {mean:.3f} nats from the re-run's on average and {largest:.2f} at most, "
                f"{share:.0%} of them above {usual:.3f}"
            )
        if not offsets <= usual:
            found.append(f"its profile is {offsets:.2f} nats off")
        if lacking > _LACKING:
            found.append(f"its classes lack {lacking:.0%} of the probability of the likeliest ones")
        return found


def beyond_coding(stored: Tensor, expected: Tensor, *, step: float | None) -> Tensor:
    """|stored - expected| less what rounding to a code explains; NaN where nothing is stored.

    Args:
        stored: nats, as decoded; NaN where not stored.
        expected: nats, of the same shape; a code's range is laid over it.
        step: nats a code, or None where `stored` came from float16.
    """
    if step is not None:
        return ((stored - expected.clamp(-(NOT_STORED - 1) * step, 0)).abs() - step / 2).clamp(min=0)
    return ((stored - expected).abs() - _HALF * expected.abs()).clamp(min=0)


def centred(scores: Tensor, present: Tensor, dim: int) -> Tensor:
    """Scores less their mean over the present ones along `dim`: what is left when any constant may be added."""
    known = torch.where(present, scores, 0.0)
    return scores - known.sum(dim, keepdim=True) / present.sum(dim, keepdim=True).clamp(min=1)


def planes_apart(stored: ScoreMap, expected: Tensor) -> Tensor:
    """(B, K, H, W): how far stored planes are from expected ones, beyond coding; NaN where not stored.

    Maps with holes are of raw logits, which are compared up to a constant at each cell, which no label sees.
    """
    planes = stored.decoded().planes.float()
    if stored.holes:
        present = ~planes.isnan()
        apart = (centred(planes, present, 1) - centred(expected, present, 1)).abs()
        return (apart - 2 * _HALF * expected.abs()).clamp(min=0)
    return beyond_coding(planes, expected, step=step_of(stored))


def step_of(stored: ScoreMap) -> float | None:
    """Nats per code; None of float16."""
    return stored.step if is_code(stored.planes) else None


def compare(stored: ScoreMap, scores: Tensor, *, is_exact: bool) -> Differences:
    """Hold stored maps against a re-run's log-probabilities (B, C, H, W).

    Args:
        stored: as the store keeps them; where they have holes, only what is stored counts.
        scores: of the same images, on the CPU.
        is_exact: whether both runs computed in float32.
    """
    maps, count, num_classes = stored.decoded(), stored.planes.shape[1], stored.num_classes
    ids = maps.classes.long()
    expected = planes_of(scores, ids[:, :count])
    apart = planes_apart(stored, expected)
    # By the spread of an image's scores.
    parts, slack = (torch.tensor(each)[:, None] for each in (_EXACT if is_exact else _ROUGH, _SLACK))
    limits = parts * scores.std(1).mean((1, 2)) + slack
    offsets = lacking = scores.new_zeros(len(scores))
    if not stored.holes:
        lacking = _lacking(scores, ids)
        if num_classes > count:
            # In float64: of two sums over all classes little may be left.
            rest = ((scores.double().sum(1) - expected.double().sum(1)) / (num_classes - count)).float()
            further = beyond_coding(maps.rest.float(), rest, step=step_of(stored))
            apart = torch.cat([apart, further.unsqueeze(1)], dim=1)
            offsets = _offsets_apart(maps, scores, rest)
    known = (~apart.isnan()).sum((1, 2, 3)).clamp(min=1)
    return Differences(
        mean=apart.nansum((1, 2, 3)) / known,
        largest=apart.nan_to_num(0.0).amax((1, 2, 3)),
        share=(apart > limits[1][:, None, None, None]).sum((1, 2, 3)) / known,
        offsets=offsets,
        lacking=lacking,
        limits=limits,
    )


def planes_of(scores: Tensor, classes: Tensor) -> Tensor:
    """(B, K, H, W) of scores (B, C, H, W) and class ids (B, K)."""
    return scores.gather(1, classes.long()[:, :, None, None].expand(-1, -1, *scores.shape[2:]))


def _offsets_apart(maps: ScoreMap, scores: Tensor, rest: Tensor) -> Tensor:
    """(B,) the mean difference of the profile, in nats beyond its coding."""
    if maps.profile is None:
        return scores.new_zeros(len(scores))
    count, ids = maps.planes.shape[1], maps.classes.long()
    offsets = scores.mean((2, 3)) - rest.mean((1, 2))[:, None]
    others = maps.num_classes - ids.shape[1]
    residual = offsets.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True) - math.log(max(others, 1))
    expected = torch.cat([offsets.gather(1, ids[:, count:]), residual], dim=1)
    apart = (
        decode_offsets(maps.profile, torch.float32) - expected.clamp(_LEAST_OFFSET, _MOST_OFFSET)
    ).abs() - OFFSET_STEP / 2
    # Of no other class there is no offset.
    return apart[:, : None if others else -1].clamp(min=0).sum(1) / max(apart.shape[1] - (not others), 1)


def _lacking(scores: Tensor, ids: Tensor) -> Tensor:
    """(B,) see `Differences.lacking`."""
    label = scores.mean((2, 3)).softmax(1)
    return label.topk(ids.shape[1], dim=1).values.sum(1) - label.gather(1, ids).sum(1)
