"""Cross-entropies of soft labels and token labels, without the dense target where labels are sparse.

A sparse label is one probability `other` for every class and an excess over it for a few. With logp = log_softmax of
the logits its cross-entropy is -(other * sum of all logp + sum of excess_i * logp_i), and its gradient softmax - label
needs no dense label either. All is computed in float32 (float64 for float64 logits), whatever autocast says.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from relabel.errors import InvalidValueError
from relabel.labels import Labels, MixedLabels, SparseLabels

Correction = Literal["agreement", "published"]
"""How an image's ground truth corrects the teacher's label; see `TokenLabelingLoss`."""

_TEACHER_SHARES = {"agreement": (0.9, 0.5), "published": (0.5, 0.9)}  # where the two agree, and where not


def soft_cross_entropy(logits: Tensor, labels: Labels) -> Tensor:
    """The mean cross-entropy of soft labels: of B images, or of all their B * N tokens.

    Args:
        logits: of images (B, C), with image labels; or of tokens (B, N, C), row by row, with token labels of N = h * w.
            Any floating dtype; bfloat16 and float16 are widened, which is exact.
        labels: dense (B, C) or (B, C, h, w), `SparseLabels` or `MixedLabels`. No gradient goes to sparse ones. Where
            they do not sum to 1, as those of the published Token Labeling code, they are taken as they are.

    Returns:
        A scalar, float32 (float64 for float64 logits); NaN or infinite where the logits are.

    Raises:
        InvalidValueError: class ids in place of soft labels, image labels for token logits or the other way round,
            another number of images, classes or tokens, or none of them.

    >>> import torch
    >>> round(float(soft_cross_entropy(torch.zeros(2, 10), torch.full((2, 10), 0.1))), 4)  # the log of 10
    2.3026
    """
    _check(logits, labels)
    if logits.ndim == 2:
        logits = logits.unsqueeze(1)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if isinstance(labels, Tensor):
        target = labels.reshape(*labels.shape[:2], -1).transpose(1, 2)
        return -(logits.log_softmax(dim=2, dtype=dtype) * target.to(dtype)).sum(2).mean()
    losses: Tensor = _SparseCrossEntropy.apply(logits, *_target(labels, dtype))  # type: ignore[no-untyped-call]
    return losses.mean()


class SoftCrossEntropy(nn.Module):
    """`soft_cross_entropy` as a module: called with logits and labels, it answers the mean."""

    def forward(self, logits: Tensor, labels: Labels) -> Tensor:
        """See `soft_cross_entropy`."""
        return soft_cross_entropy(logits, labels)


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

    Raises:
        InvalidValueError: a negative or infinite weight, or an unknown correction.
    """

    def __init__(
        self, *, image_weight: float = 1.0, token_weight: float = 0.5, correction: Correction | None = None
    ) -> None:
        super().__init__()
        for name, weight in (("image_weight", image_weight), ("token_weight", token_weight)):
            if not 0 <= weight < float("inf"):
                raise InvalidValueError(f"{name} must be 0 or more and finite; got {weight}")
        if correction is not None and correction not in _TEACHER_SHARES:
            raise InvalidValueError(f"correction must be None, 'agreement' or 'published'; got {correction!r}")
        self.image_weight, self.token_weight, self.correction = image_weight, token_weight, correction

    def forward(
        self,
        logits: tuple[Tensor, Tensor],
        image_labels: Labels,
        token_labels: Labels,
        *,
        share: float | Tensor | None = None,
        ground_truth: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, a scalar.

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
        _check(image_logits, image_labels)
        if share is not None or ground_truth is not None:
            # An image's dense label is as small as its logits; only those of tokens must stay sparse.
            dense = image_labels if isinstance(image_labels, Tensor) else image_labels.dense()
            dense = dense.to(torch.promote_types(dense.dtype, torch.float32))
            if self.correction is not None and ground_truth is not None:
                dense = _corrected(dense, ground_truth, _TEACHER_SHARES[self.correction])
            image_labels = dense if share is None else _with_reversed(dense, share)
        image_loss = soft_cross_entropy(image_logits, image_labels)
        return self.image_weight * image_loss + self.token_weight * soft_cross_entropy(token_logits, token_labels)

    def extra_repr(self) -> str:
        """The settings, as `nn.Module` prints them."""
        return f"image_weight={self.image_weight}, token_weight={self.token_weight}, correction={self.correction!r}"


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


class _Target(NamedTuple):
    """What sparse labels say of N tokens (1 for an image): `other` (B, N) of each class, and an excess of some.

    `classes` is (B, m) int64 and may repeat a class, whose excesses (B, m, N) then add up.
    """

    classes: Tensor
    excess: Tensor
    other: Tensor


def _target(labels: SparseLabels | MixedLabels, dtype: torch.dtype) -> _Target:
    if isinstance(labels, SparseLabels):
        other = labels.other.to(dtype)
        excess = labels.probabilities.to(dtype) - other.unsqueeze(1)
        return _Target(labels.classes.long(), excess.reshape(*excess.shape[:2], -1), other.reshape(len(other), -1))
    first, second = _target(labels.first, dtype), _target(labels.second, dtype)
    share = labels.share.to(dtype).reshape(len(first.other), -1)  # (B, 1), or (B, N) where it differs by token
    return _Target(
        torch.cat([first.classes, second.classes], dim=1),
        torch.cat([first.excess * share.unsqueeze(1), second.excess * (1 - share).unsqueeze(1)], dim=1),
        first.other * share + second.other * (1 - share),
    )


class _SparseCrossEntropy(torch.autograd.Function):
    """(B, N) cross-entropies of logits (B, N, C) and a `_Target`.

    Autograd's own way keeps three tensors of the logits' size or more. This keeps the logits, and each pass makes one
    float32 tensor of their size: log_softmax forward, the gradient backward.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, excess: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(logits, classes, excess, other)
        logp = logits.log_softmax(dim=2, dtype=other.dtype)
        listed = logp.gather(2, _index(logits, classes))
        return -(other * logp.sum(2) + (listed * excess.transpose(1, 2)).sum(2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, classes, excess, other = ctx.saved_tensors
        # softmax * the label's sum - label, each times what comes from above; the sum is 1 but for rounding.
        total = logits.shape[2] * other + excess.sum(1)
        result = logits.softmax(dim=2, dtype=other.dtype)
        result.mul_((total * grad).unsqueeze(2)).sub_((other * grad).unsqueeze(2))
        result.scatter_add_(2, _index(logits, classes), -(excess * grad.unsqueeze(1)).transpose(1, 2))
        return result.to(logits.dtype), None, None, None


def _index(logits: Tensor, classes: Tensor) -> Tensor:
    return classes.unsqueeze(1).expand(-1, logits.shape[1], -1)


def _check(logits: Tensor, labels: Labels) -> None:
    """Refuse logits and labels that do not belong together."""
    if logits.ndim not in (2, 3) or not logits.is_floating_point() or 0 in logits.shape:
        raise InvalidValueError(
            "logits must be floating (B, C), or (B, N, C) of tokens, of one image, token and class or more; "
            f"got {tuple(logits.shape)} of {logits.dtype}"
        )
    if isinstance(labels, Tensor):
        if labels.ndim not in (2, 4) or not labels.is_floating_point():
            raise InvalidValueError(
                "labels must be floating soft labels (B, C), or (B, C, h, w) of tokens; "
                f"got {tuple(labels.shape)} of {labels.dtype}. From class ids: F.one_hot(ids, C).float()"
            )
        batch, classes, *size = labels.shape
    elif isinstance(labels, SparseLabels | MixedLabels):
        batch, classes, size = len(labels), labels.num_classes, list(labels.size_hw or ())
        _check_parts(labels)
    else:
        raise InvalidValueError(f"labels must be a Tensor, SparseLabels or MixedLabels; got {type(labels).__name__}")
    if (logits.ndim == 3) != (len(size) == 2):
        raise InvalidValueError(
            "logits (B, C) go with image labels (B, C), and token logits (B, N, C) with token labels (B, C, h, w); "
            f"got logits {tuple(logits.shape)} and labels {(batch, classes, *size)}"
        )
    if logits.shape[0] != batch or logits.shape[-1] != classes:
        raise InvalidValueError(
            f"logits {tuple(logits.shape)} are of {logits.shape[0]} images and {logits.shape[-1]} classes, "
            f"labels {(batch, classes, *size)} of {batch} and {classes}"
        )
    if size and logits.shape[1] != size[0] * size[1]:
        raise InvalidValueError(
            f"logits of {logits.shape[1]} tokens an image need as many token labels; got {size[0]} x {size[1]} = "
            f"{size[0] * size[1]}. Pool the labels at the student's grid"
        )


def _check_parts(labels: SparseLabels | MixedLabels) -> None:
    """Refuse probabilities of another shape than their classes and `other`: a one would be repeated, silently."""
    for part in (labels,) if isinstance(labels, SparseLabels) else (labels.first, labels.second):
        expected = (*part.classes.shape, *part.other.shape[1:])
        if part.probabilities.shape != expected:
            raise InvalidValueError(
                f"probabilities of classes {tuple(part.classes.shape)} and other {tuple(part.other.shape)} must be "
                f"{expected}; got {tuple(part.probabilities.shape)}"
            )
