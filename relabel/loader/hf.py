"""The loss of tickets for the Trainer of transformers, which this knows by its calls alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch.nn.functional as F
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.loader.maps import LabelMaps
from relabel.losses import TokenLabelingLoss, soft_cross_entropy
from relabel.score_map import How, Size
from relabel.tickets import COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class HFLoss:
    """See `hf_loss`.

    Attributes:
        maps: the store.
        size: None for image labels, h x w for token labels.
        token_weight: what the mean over tokens counts beside the image's loss.
        how: as for `ScoreMap.pool`.
    """

    maps: LabelMaps
    size: Size | None
    token_weight: float
    how: How

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of a batch, a scalar; called by the Trainer.

        Args:
            outputs: the model's.
            labels: tickets (B, 11), or class ids (B,).
            num_items_in_batch: how many *numbers* the labels of a whole step have: 11 a ticket. None is this batch.
        """
        several = _logits(outputs, self.size)
        if labels is None or labels.is_floating_point():
            raise InvalidValueError(
                f"labels must be tickets (B, {COLUMNS}) of int64, or class ids (B,); got "
                + ("none" if labels is None else f"{tuple(labels.shape)} of {labels.dtype}")
                + ". Call the column of tickets 'labels': the default collator makes floats of one called 'label'; and "
                "keep what the transform needs with remove_unused_columns=False"
            )
        # With DataParallel it is the same number for each GPU, and their sum undoes what the Trainer multiplies by.
        count = num_items_in_batch.sum() if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
        if labels.ndim == 1:
            return _of_classes(several[0], labels, count)
        maps, views = self.maps.maps_of(labels)
        num_items = None if count is None else count / COLUMNS
        pooled = [
            maps.pool(views, None if logits.ndim == 2 else self.size, sparse=True, **self.how) for logits in several
        ]
        if len(several) == 1:
            return soft_cross_entropy(several[0], pooled[0], num_items=num_items)
        loss: Tensor = TokenLabelingLoss(token_weight=self.token_weight)(several, *pooled, num_items=num_items)
        return loss


def hf_loss(maps: LabelMaps, *, size: Size | None = None, token_weight: float = 0.5, **how: Unpack[How]) -> HFLoss:
    """The ``compute_loss_func`` of transformers' Trainer for labels that are tickets: their soft cross-entropy.

    The same images give the same loss and gradient whether they come at once or by gradient accumulation. Class ids, as
    of an evaluation, get the cross-entropy by the same rule; they must be those of the teacher, which the model's are.

    Args:
        maps: the store.
        size: None trains images. With (h, w), or n for (n, n), tokens are trained: ``outputs.logits``, or what the
            model returns, is (B, N, C) with N = h * w, or a pair of logits (B, C) and (B, N, C), of the image and of
            its tokens, whose losses are added as `TokenLabelingLoss` does.
        token_weight: what the mean over tokens counts in such a pair.
        how: as for `ScoreMap.pool`.

    Returns:
        A callable (outputs, labels, num_items_in_batch=None), which pools on the device of the labels. It raises a
        LabelError for what is no ticket of this store, and an InvalidValueError for logits and labels that do not
        belong together.

    Raises:
        InvalidValueError: `maps` is no store that was opened.
    """
    if not isinstance(maps, LabelMaps):
        raise InvalidValueError(f"maps is relabel.open(path); got {maps!r}, a {type(maps).__name__}")
    return HFLoss(maps=maps, size=size, token_weight=token_weight, how=how)


def _logits(outputs: Any, size: Size | None) -> tuple[Tensor, ...]:
    """Those of images (B, C); where a size is given those of tokens (B, N, C), behind those of images if there are."""
    found = outputs.get("logits", outputs) if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    several = found[:2] if isinstance(found, Sequence) else [found]
    wanted = [2] if size is None else [2, 3]
    by_dim = {logits.ndim: logits for logits in reversed(several) if isinstance(logits, Tensor)}
    if wanted[-1] not in by_dim:
        what = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in several]
        raise InvalidValueError(
            "the model's logits must be (B, C) of images; with size=, (B, N, C) of tokens, or a pair of both. "
            f"Got {', '.join(map(str, what)) or 'none'} with size={size!r}"
        )
    return tuple(by_dim[ndim] for ndim in wanted if ndim in by_dim)


def _of_classes(images: Tensor, ids: Tensor, count: Tensor | int | None) -> Tensor:
    if images.ndim != 2:
        raise InvalidValueError(
            "class ids (B,) need logits of images (B, C), and the model answers those of tokens alone: evaluate with "
            "tickets, or let it answer a pair"
        )
    if count is None:
        return F.cross_entropy(images.float(), ids.long())
    return F.cross_entropy(images.float(), ids.long(), reduction="sum") / count
