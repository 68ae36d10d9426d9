"""What a reading is fitted to: labels as they are stored beside the teacher's own answers, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from relabel.labels import SparseLabels
from relabel.pooling import soft_labels
from relabel.reading import log_areas
from relabel.score_map import ScoreMap
from relabel.score_map.filling import whole_maps
from relabel.score_map.weighing import whole_weights

TOKENS = 14
"""A side: what a ViT at 224 pixels and LV-ViT have. The teacher's own maps are about as fine."""
_TOKENS_A_CROP = 16
_LEAST = 1e-300


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Samples:
    """n crops, or tokens of crops. What a map does not store has one score and one column, the last of S.

    Attributes:
        images: (n,) int64, which image each is of.
        log_areas: (n,) of the crops.
        pooled, whole: (n, S) the logarithm of what the label as it is gives each class, of the crop or the token and of
            the whole image.
        counts: (n, S) how many classes a column stands for.
        teacher: (n, S) the teacher's probability of all of them together.
        certainty: (n,) the sum of p log p over the teacher's probabilities p of all C.
        likeliest: (n,) int64, the column of the teacher's likeliest class, -1 where it is not stored.

    Floating ones are float64.
    """

    images: Tensor
    log_areas: Tensor
    pooled: Tensor
    whole: Tensor
    counts: Tensor
    teacher: Tensor
    certainty: Tensor
    likeliest: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Samples:
        """Some of them, by a mask (n,)."""
        return Samples(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Those of several batches."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


def crop_samples(stored: ScoreMap, boxes_xyxy: Tensor, teacher: Tensor, images: Tensor) -> Samples:
    """Crops (B, n, 4) of B images, by the teacher's probabilities (B, n, C) of them; `images` (B,) are numbers."""
    maps = _exact(stored)
    whole = _whole(maps)
    parts = []
    for boxes, answers in zip(boxes_xyxy.unbind(1), teacher.unbind(1), strict=True):
        labels = maps.pool(boxes, sparse=True, uncovered="nearest")
        parts.append(_samples(labels, whole, boxes, answers, images))
    return Samples.joined(parts)


def token_samples(stored: ScoreMap, boxes_xyxy: Tensor, teacher: Tensor, images: Tensor, places: Tensor) -> Samples:
    """Tokens at `places` (k,) of one crop an image (B, 4), by the teacher's probabilities (B, C, k) of them."""
    maps = _exact(stored)
    whole = _whole(maps)
    tokens = maps.pool(boxes_xyxy, TOKENS, sparse=True, uncovered="nearest")
    parts = []
    for place, answers in zip(places.tolist(), teacher.unbind(2), strict=True):
        at = divmod(place, TOKENS)
        labels = replace(
            tokens,
            probabilities=tokens.probabilities[:, :, *at],
            other=tokens.other[:, *at],
            covered=tokens.covered[:, *at],
        )
        parts.append(_samples(labels, whole, boxes_xyxy, answers, images))
    return Samples.joined(parts)


def token_places(seed: int) -> Tensor:
    """(k,) int64, which tokens of a crop are looked at, as they are numbered row by row."""
    return torch.randperm(TOKENS**2, generator=torch.Generator().manual_seed(seed % 2**63))[:_TOKENS_A_CROP]


def _exact(stored: ScoreMap) -> ScoreMap:
    """In float64, whose softmax keeps what is unlikely apart from what cannot be."""
    maps = stored.decoded()
    return replace(maps, planes=maps.planes.double(), rest=maps.rest.double(), reading=None)


def _whole(maps: ScoreMap) -> Tensor:
    stored, other = soft_labels(whole_maps(maps), whole_weights(maps), space="logit")
    return _logs(stored.flatten(1), other.flatten())


def _logs(probabilities: Tensor, other: Tensor) -> Tensor:
    each = torch.cat([probabilities, other.unsqueeze(1)], dim=1)
    return each.clamp(min=_LEAST).log()


def _samples(labels: SparseLabels, whole: Tensor, boxes: Tensor, answers: Tensor, images: Tensor) -> Samples:
    p = answers.double()
    ids = labels.classes.long()
    listed = p.gather(1, ids)
    # Rounding may leave less than nothing to the others.
    left = (p.sum(1) - listed.sum(1)).clamp(min=0)
    counts = torch.ones(len(ids), ids.shape[1] + 1, dtype=torch.float64)
    counts[:, -1] = labels.num_classes - ids.shape[1]
    is_likeliest = ids == p.argmax(1, keepdim=True)
    places = is_likeliest.int().argmax(1)
    return Samples(
        images=images,
        log_areas=log_areas(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).double()),
        pooled=_logs(labels.probabilities, labels.other),
        whole=whole,
        counts=counts,
        teacher=torch.cat([listed, left.unsqueeze(1)], dim=1),
        certainty=torch.special.xlogy(p, p).sum(1),
        likeliest=torch.where(is_likeliest.any(1), places, -1),
    )
