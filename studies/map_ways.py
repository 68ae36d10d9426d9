"""Ways to keep a teacher's scores that a store does not use: each gives labels of boxes, and the bytes of an image.

Scores are (B, C, H * W) here, boxes weights (B, n, H * W), labels the logs of (B, n, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from relabel import ScoreMap
from relabel.store.codecs import ENTRY_BYTES, ZSTD
from studies.map_answers import Answers

STEP, OFFSET_STEP = 1 / 2, 1 / 8


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Logs of labels (B, n, C) from what was kept, and its bytes (B,) without a row's fixed ones.

    `uncoded` are the logs of the same labels before coding, where they were taken.
    """

    labels: Tensor
    bytes: NDArray[np.float64]
    uncoded: Tensor | None = None


def zstd_bytes(codes: Tensor) -> NDArray[np.float64]:
    """(B,) bytes of a zstd frame an image, as the store makes them."""
    wrapped = (codes.to(torch.int32) % 256).to(torch.uint8).contiguous().numpy()
    return np.array([len(ZSTD.encode(one.tobytes())) for one in wrapped], np.float64)


def quantised(scores: Tensor, step: float = STEP) -> Tensor:
    """Scores as codes, still floating."""
    return (scores / -step).round().clamp(0, 254)


def rounded(offsets: Tensor) -> Tensor:
    """Offsets as a store keeps them."""
    return (offsets / OFFSET_STEP).round().clamp(-128, 127) * OFFSET_STEP


def _taken(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes.reshape(*classes.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of a map before they are coded: K planes and the rest, (B, K + 1, H * W), and offsets (B, M + 1)."""

    of: Answers
    classes: Tensor
    planes: Tensor
    offsets: Tensor

    @classmethod
    def of_classes(cls, of: Answers, classes: Tensor, count: int) -> Parts:
        """The first `count` of classes (B, K + M) as planes."""
        scores = of.scores.flatten(2)
        kept = _taken(scores, classes[:, :count])
        rest = (scores.sum(1) - kept.sum(1)) / (scores.shape[1] - count)
        offsets = scores.mean(2) - rest.mean(1, keepdim=True)
        left = scores.shape[1] - classes.shape[1]
        others = offsets.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True) - math.log(left)
        offsets = torch.cat([offsets.gather(1, classes[:, count:]), others], 1)
        return cls(of, classes, torch.cat([kept, rest[:, None]], 1), offsets)

    @classmethod
    def as_stored(cls, of: Answers, planes: int, profile: int) -> Parts:
        """With the classes that `ScoreMap` chooses."""
        maps = ScoreMap.from_logits(of.scores, max(planes, 1), planes + profile - max(planes, 1))
        return cls.of_classes(of, maps.classes, planes)

    @classmethod
    def chosen(cls, of: Answers, planes: int, profile: int, rule: str) -> Parts:
        """With the planes and the profile's classes that a rule of `RULES` finds most worth it."""
        first, then = RULES[rule](of)
        kept = first.topk(planes, 1).indices
        return cls.of_classes(
            of, torch.cat([kept, then.scatter(1, kept, -math.inf).topk(profile, 1).indices], 1), planes
        )

    @property
    def count(self) -> int:
        """K."""
        return self.planes.shape[1] - 1

    @property
    def id_bytes(self) -> int:
        """Of the class ids, the offsets and the entry in the index."""
        return 2 * self.classes.shape[1] + self.offsets.shape[1] + ENTRY_BYTES

    def codes(self, step: float = STEP) -> Tensor:
        """(B, K + 1, H * W)."""
        return quantised(self.planes, step)

    def labels(self, planes: Tensor) -> Tensor:
        """From decoded planes and rest (B, K + 1, H * W)."""
        pooled = torch.bmm(self.of.weights, planes.transpose(1, 2))
        return self.pooled_labels(pooled, pooled[..., -1:] + rounded(self.offsets)[:, None])

    def pooled_labels(self, planes: Tensor, tail: Tensor) -> Tensor:
        """From pooled planes (B, n, K + ...) and the pooled scores of the M classes and of each other (B, n, M + 1)."""
        stored = torch.cat([planes[..., : self.count], tail[..., :-1]], -1)
        dense = tail[..., -1:].expand(-1, -1, self.of.scores.shape[1]).clone()
        ids = self.classes[:, None].expand(-1, dense.shape[1], -1)
        return dense.scatter_(2, ids, stored).log_softmax(-1)


def plain(parts: Parts) -> Kept:
    """As a store does."""
    codes = parts.codes()
    return Kept(parts.labels(codes * -STEP), zstd_bytes(codes) + parts.id_bytes)


def _windows(of: Answers) -> Tensor:
    """(B, 28, C) pooled scores of the boxes that choose classes."""
    from relabel.score_map.choice import _region_weights

    weights = _region_weights(*of.grid.size_hw, torch.float32, torch.device("cpu"))
    return torch.matmul(of.scores.flatten(2), weights).transpose(1, 2)


def _by_error(of: Answers, power: int) -> tuple[Tensor, Tensor]:
    """Planes to classes by their probability times what an offset to the rest gets wrong."""
    pooled = _windows(of)
    label = pooled.softmax(-1)
    scores = of.scores.flatten(2)
    offset = scores.mean(2) - scores.mean((1, 2))[:, None]
    wrong = pooled - pooled.mean(-1, keepdim=True) - offset[:, None]
    return (label * wrong.abs() ** power).mean(1), label.mean(1)


def _with_cells(of: Answers, share: float) -> tuple[Tensor, Tensor]:
    label = (1 - share) * _windows(of).softmax(-1).mean(1) + share * of.scores.exp().mean((2, 3))
    return label, label


def _profile_by_root(of: Answers) -> tuple[Tensor, Tensor]:
    label = _windows(of).softmax(-1)
    return label.mean(1), label.sqrt().mean(1)


def _greedy(of: Answers, most: int = 48) -> tuple[Tensor, Tensor]:
    """Planes one after the other, each time the class that lowers the mean KL of the 28 boxes' labels most.

    All classes begin as offsets; that the rest moves when a class leaves it is not followed.
    """
    pooled = _windows(of)
    label = pooled.softmax(-1)
    scores = of.scores.flatten(2)
    so_far = pooled.mean(-1, keepdim=True) + (scores.mean(2) - scores.mean((1, 2))[:, None])[:, None]
    order = torch.full_like(pooled[:, 0], -math.inf)
    for rank in range(most):
        norm = so_far.logsumexp(-1, keepdim=True)
        change = torch.log1p(((pooled - norm).exp() - (so_far - norm).exp()).clamp(min=-1 + 1e-7))
        gain = (label * (pooled - so_far) - change).mean(1).masked_fill(order > -math.inf, -math.inf)
        best = gain.argmax(1, keepdim=True)
        order.scatter_(1, best, float(most - rank))
        index = best[:, None].expand(-1, pooled.shape[1], -1)
        so_far = so_far.scatter(2, index, pooled.gather(2, index))
    return order, label.mean(1)


RULES: dict[str, Callable[[Answers], tuple[Tensor, Tensor]]] = {
    "planes by probability x error of an offset": lambda of: _by_error(of, 1),
    "planes by probability x squared error": lambda of: _by_error(of, 2),
    "30 % of the weight to single cells": lambda of: _with_cells(of, 0.3),
    "the profile by the root of probability": _profile_by_root,
    "planes greedily, by the KL that each saves": _greedy,
}


def floored(parts: Parts, floor: float) -> Kept:
    """Planes, but not the rest, clamped from below."""
    codes = quantised(torch.cat([parts.planes[:, :-1].clamp(min=floor), parts.planes[:, -1:]], 1))
    return Kept(parts.labels(codes * -STEP), zstd_bytes(codes) + parts.id_bytes)


def floored_at_rest(parts: Parts, below: float) -> Kept:
    """Planes clamped at the rest, less some nats."""
    rest = parts.planes[:, -1:]
    codes = quantised(torch.cat([torch.maximum(parts.planes[:, :-1], rest - below), rest], 1))
    return Kept(parts.labels(codes * -STEP), zstd_bytes(codes) + parts.id_bytes)


def square_root_law(parts: Parts, unit: float) -> Kept:
    """A score is -unit * code^2: finer near 0."""
    codes = (parts.planes.clamp(max=0) / -unit).sqrt().round().clamp(0, 254)
    return Kept(parts.labels(codes**2 * -unit), zstd_bytes(codes) + parts.id_bytes)


def coarse(parts: Parts, first: int) -> Kept:
    """Planes from `first` on at half the grid's height and width, linearly interpolated."""
    height, width = parts.of.grid.size_hw
    late = parts.planes[:, first:-1].reshape(-1, 1, height, width)
    small = quantised(F.interpolate(late, (-(-height // 2), -(-width // 2)), mode="area"))
    large = F.interpolate(small * -STEP, (height, width), mode="bilinear").reshape(
        len(parts.planes), -1, height * width
    )
    whole = quantised(torch.cat([parts.planes[:, :first], parts.planes[:, -1:]], 1))
    decoded = torch.cat([whole[:, :first] * -STEP, large, whole[:, -1:] * -STEP], 1)
    codes = torch.cat([whole.flatten(1), small.reshape(len(whole), -1)], 1)
    return Kept(parts.labels(decoded), zstd_bytes(codes) + parts.id_bytes)


def cosines(parts: Parts, quantum: float) -> Kept:
    """Planes by a 2-D discrete cosine transform, coarser at high frequencies, one frequency behind another."""
    height, width = parts.of.grid.size_hw
    down, right = _cosine_basis(height), _cosine_basis(width)
    frequency = torch.arange(height)[:, None] + torch.arange(width)
    unit = quantum * (1 + 0.15 * frequency)
    codes = (down @ parts.planes.unflatten(2, (height, width)) @ right.T / unit).round()
    decoded = (down.T @ (codes * unit) @ right).flatten(2)
    ordered = codes.flatten(2)[..., frequency.flatten().argsort(stable=True)].transpose(1, 2)
    escaped = (ordered.abs() > 127).sum((1, 2)).numpy()
    size = zstd_bytes(torch.where(ordered.abs() <= 127, ordered, 128.0))
    return Kept(parts.labels(decoded), size + 2 * escaped + parts.id_bytes)


def _cosine_basis(size: int) -> Tensor:
    basis = torch.cos(math.pi * torch.arange(size)[:, None] * (2 * torch.arange(size) + 1) / (2 * size))
    basis[0] /= math.sqrt(2)
    return basis * math.sqrt(2 / size)


def second_rest(parts: Parts) -> Kept:
    """The mean of the profile's classes as a plane of its own, to which their offsets are."""
    scores, ids = parts.of.scores.flatten(2), parts.classes
    profile = _taken(scores, ids[:, parts.count :])
    left = scores.shape[1] - ids.shape[1]
    rests = torch.stack([profile.mean(1), (scores.sum(1) - _taken(scores, ids).sum(1)) / left], 1)
    codes = quantised(torch.cat([parts.planes[:, :-1], rests], 1))
    pooled = torch.bmm(parts.of.weights, codes.transpose(1, 2) * -STEP)
    offsets = rounded(profile.mean(2) - rests[:, 0].mean(1, keepdim=True))
    others = (scores.mean(2) - rests[:, 1].mean(1, keepdim=True)).scatter(1, ids, -math.inf).logsumexp(1)
    last = pooled[..., -1:] + (others - math.log(left))[:, None, None]
    tail = torch.cat([pooled[..., -2:-1] + offsets[:, None], last], -1)
    return Kept(parts.pooled_labels(pooled, tail), zstd_bytes(codes) + parts.id_bytes)


def exact_mass(parts: Parts) -> Kept:
    """If the classes without an entry had, together, the mass that they have in each box."""
    kept = plain(parts)
    pooled = torch.bmm(parts.of.weights, parts.codes().transpose(1, 2) * -STEP)
    every = torch.bmm(parts.of.weights, parts.of.scores.flatten(2).transpose(1, 2))
    ids = parts.classes[:, None].expand(-1, every.shape[1], -1)
    mass = every.scatter(2, ids, -math.inf).logsumexp(-1, keepdim=True) - math.log(every.shape[2] - ids.shape[2])
    tail = torch.cat([pooled[..., -1:] + rounded(parts.offsets)[:, None, :-1], mass], -1)
    return Kept(parts.pooled_labels(pooled, tail), kept.bytes)


def varying(of: Answers, threshold: float, most: int = 48, profile: int = 64) -> Kept:
    """Only planes whose probability times an offset's error is worth it, up to `most`; image by image."""
    worth, label = _by_error(of, 1)
    labels, sizes = [], []
    for i in range(len(of.scores)):
        count = int((worth[i] >= threshold).sum().clamp(1, most))
        one = Answers(of.scores[i : i + 1], of.boxes[i : i + 1], of.truth[i : i + 1], None, of.logits[i : i + 1])
        kept = worth[i].topk(count).indices
        then = label[i].scatter(0, kept, -1).topk(profile).indices
        made = plain(Parts.of_classes(one, torch.cat([kept, then])[None], count))
        labels.append(made.labels)
        sizes.append(made.bytes + 1)
    return Kept(torch.cat(labels), np.concatenate(sizes))


def low_rank(parts: Parts, rank: int) -> Kept:
    """The M classes not by one offset each, but also by factors (5 bits) of `rank` planes that they share."""
    scores, count = parts.of.scores.flatten(2), parts.count
    others = _taken(scores, parts.classes[:, count:])
    rest = (scores.sum(1) - _taken(scores, parts.classes).sum(1)) / (scores.shape[1] - parts.classes.shape[1])
    apart = others - rest[:, None]
    means = apart.mean(2, keepdim=True)
    heavy = _taken(_windows(parts.of).softmax(-1).mean(1), parts.classes[:, count:]).clamp(min=1e-4).sqrt()[..., None]
    left, values, common = torch.linalg.svd((apart - means) * heavy, full_matrices=False)
    factors = left[:, :, :rank] * values[:, None, :rank] / heavy
    largest = factors.abs().amax(1, keepdim=True).clamp(min=1e-6)
    common, levels = common[:, :rank] * largest.transpose(1, 2), (factors / largest * 15).round()
    lowest = common.amin(2, keepdim=True)
    shared = ((common - lowest) / STEP).round().clamp(0, 255)
    exact = torch.cat([parts.planes[:, :count], rest[:, None]], 1)
    pooled = torch.bmm(parts.of.weights, quantised(exact).transpose(1, 2) * -STEP)
    sums = torch.bmm(torch.bmm(parts.of.weights, (shared * STEP + lowest).transpose(1, 2)), levels.transpose(1, 2) / 15)
    residual = (scores.mean(2) - rest.mean(1, keepdim=True)).scatter(1, parts.classes, -math.inf).logsumexp(1)
    residual -= math.log(scores.shape[1] - parts.classes.shape[1])
    tail = torch.cat(
        [pooled[..., -1:] + rounded(means[..., 0])[:, None] + sums, pooled[..., -1:] + residual[:, None, None]], -1
    )
    size = zstd_bytes(torch.cat([quantised(exact), shared], 1)) + zstd_bytes(levels.transpose(1, 2)) + 4 * rank
    return Kept(parts.pooled_labels(pooled, tail), size + parts.id_bytes)


def byte_orders(codes: Tensor) -> dict[str, Tensor]:
    """The same codes (B, K + 1, H, W), each laid out so that all can be had back."""
    left, up, both = (F.pad(codes, pad)[..., : codes.shape[2], : codes.shape[3]] for pad in _BEFORE)
    low, high = torch.minimum(left, up), torch.maximum(left, up)
    guess = torch.where(both >= high, low, torch.where(both <= low, high, left + up - both))
    return {
        "classes innermost": codes.permute(0, 2, 3, 1),
        "differences to the left": codes - left,
        "differences to the rest": torch.cat([codes[:, :-1] - codes[:, -1:], codes[:, -1:]], 1),
        "differences to JPEG-LS's guess": codes - guess,
    }


_BEFORE = ((1, 0, 0, 0), (0, 0, 1, 0), (1, 0, 1, 0))
