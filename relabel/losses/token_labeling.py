"""The loss of Token Labeling: of an image's label and of its tokens' labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from relabel.errors import InvalidValueError
from relabel.labels import Labels, MixedLabels
from relabel.losses.soft import NumItems, Reduction, check, checked_reduction, cross_entropies, reduced

Correction = Literal["agreement", "published"]
"""How an image's ground truth corrects the teacher's label; see `TokenLabelingLoss`."""

_TEACHER_SHARES = {"agreement": (0.9, 0.5), "published": (0.5, 0.9)}  # where the two agree, and where not


class TokenLabelingLoss(nn.Module):
    """The loss of Token Labeling (arXiv 2104.10858): of the image's label and, weighted, of all its token labels.

    Args:
        image_weight: what the image's cross-entropy counts.
        token_weight: what the mean over all tokens counts: 0.5 in the paper and for VOLO, 1 in the published code's
            defaults.
        correction: whether and how the ground truth corrects the image's label, which becomes
            ``share * teacher + (1 - share) * ground truth``. None: not at all. "agreement": the teacher's share is 0.9
            where its first class is that of the ground truth, and 0.5 where it is not, so that a doubtful label
            counts less. "published": the other way round, 0.5 and 0.9, as the published code does, though its
            comment means the first.
        reduction: "mean", "sum", or "none" for the loss of each image, (B,).

    Raises:
        InvalidValueError: a negative or infinite weight, or an unknown correction or reduction.
    """

    def __init__(
        self,
        *,
        image_weight: float = 1.0,
        token_weight: float = 0.5,
        correction: Correction | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        for name, weight in (("image_weight", image_weight), ("token_weight", token_weight)):
            if not 0 <= weight < float("inf"):
                raise InvalidValueError(f"{name} must be 0 or more and finite; got {weight}")
        if correction is not None and correction not in _TEACHER_SHARES:
            raise InvalidValueError(f"correction must be None, 'agreement' or 'published'; got {correction!r}")
        self.image_weight, self.token_weight, self.correction = image_weight, token_weight, correction
        self.reduction = checked_reduction(reduction)

    def forward(  # noqa: PLR0913 - its keywords are the public way to say what belongs to a batch
        self,
        logits: tuple[Tensor, Tensor],
        image_labels: Labels,
        token_labels: Labels,
        *,
        share: float | Tensor | None = None,
        ground_truth: Tensor | None = None,
        num_items: NumItems = None,
    ) -> Tensor:
        """The loss of a batch, a scalar, or (B,) with the reduction "none".

        Args:
            logits: of the images (B, C) and of their tokens (B, N, C), as a student returns them.
            image_labels: (B, C), dense or sparse.
            token_labels: (B, C, h, w) with h * w = N, dense or sparse. With MixToken the token logits are un-mixed, so
                that these stay with their own image.
            share: of `mixing.MixToken`'s box, a number or a tensor of one: the image's label, corrected, becomes
                ``share * label + (1 - share) *`` that of the image at the same place from the batch's other end. None
                where ``box.labels`` has mixed them.
            ground_truth: for a correction: class ids (B,), -1 where unknown (the teacher's label then stays), or labels
                (B, C), smoothed or not. With CutMix or Mixup there is no one class to correct by.
            num_items: as for `soft_cross_entropy`.

        Raises:
            InvalidValueError: as `soft_cross_entropy`; a share outside [0, 1]; a ground truth without a correction or
                the other way round; a correction of `MixedLabels`.
        """
        image_logits, token_logits = logits
        if (ground_truth is None) != (self.correction is None):
            raise InvalidValueError(
                "a correction needs each call's ground truth, and only a correction uses one; "
                f"got correction={self.correction!r} and {'no' if ground_truth is None else 'a'} ground truth"
            )
        if ground_truth is not None and isinstance(image_labels, MixedLabels):
            raise InvalidValueError(
                "a correction is of the label of one image, and MixedLabels are of two: mix with MixToken and give its "
                "share, or train without a correction"
            )
        check(image_logits, image_labels)
        if share is not None or ground_truth is not None:
            # An image's dense label is as small as its logits; only those of tokens must stay sparse.
            dense = image_labels if isinstance(image_labels, Tensor) else image_labels.dense()
            dense = dense.to(torch.promote_types(dense.dtype, torch.float32))
            if self.correction is not None and ground_truth is not None:
                dense = _corrected(dense, ground_truth, _TEACHER_SHARES[self.correction])
            image_labels = dense if share is None else _with_reversed(dense, share)
        images, tokens = cross_entropies(image_logits, image_labels), cross_entropies(token_logits, token_labels)
        losses = self.image_weight * images[:, 0] + self.token_weight * tokens.mean(1)
        return reduced(losses, self.reduction, num_items)

    def extra_repr(self) -> str:
        """The settings, as `nn.Module` prints them."""
        weights = f"image_weight={self.image_weight}, token_weight={self.token_weight}"
        return f"{weights}, correction={self.correction!r}, reduction={self.reduction!r}"


def _corrected(labels: Tensor, ground_truth: Tensor, shares: tuple[float, float]) -> Tensor:
    """(B, C) labels with the ground truth's part in them; `shares` are the teacher's, where it agrees and where not."""
    if ground_truth.shape == labels.shape and ground_truth.is_floating_point():
        true, known = ground_truth.argmax(1, keepdim=True), torch.ones_like(ground_truth[:, :1], dtype=torch.bool)
    elif ground_truth.shape == labels.shape[:1] and ground_truth.dtype == torch.int64:
        known = ground_truth.unsqueeze(1) >= 0
        true = ground_truth.unsqueeze(1).clamp(min=0)
        ground_truth = torch.zeros_like(labels).scatter_(1, true, 1)
    else:
        raise InvalidValueError(
            f"ground_truth must be class ids ({labels.shape[0]},) of int64, or floating labels {tuple(labels.shape)}; "
            f"got {tuple(ground_truth.shape)} of {ground_truth.dtype}"
        )
    agrees = labels.argmax(1, keepdim=True) == true
    share = shares[1] + (shares[0] - shares[1]) * agrees.to(labels.dtype)
    corrected: Tensor = share * labels + (1 - share) * ground_truth
    return torch.where(known, corrected, labels)


def _with_reversed(labels: Tensor, share: float | Tensor) -> Tensor:
    if isinstance(share, Tensor):
        if share.numel() != 1:
            raise InvalidValueError(f"share is one number for the batch; got {tuple(share.shape)}")
        share = share.reshape(()).to(labels.device, labels.dtype, non_blocking=True)
    elif not 0 <= share <= 1:
        raise InvalidValueError(f"share must lie in [0, 1]; got {share}")
    return share * labels + (1 - share) * labels.flip(0)
