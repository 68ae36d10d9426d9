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
from relabel.tickets import softening

Reduction = Literal["mean", "sum", "none"]
NumItems = int | float | Tensor | None
"""How many images a mean is over, where the batch is a part of what makes one step; None is the batch."""


def soft_cross_entropy(
    logits: Tensor, labels: Labels, *, reduction: Reduction = "mean", num_items: NumItems = None
) -> Tensor:
    """The cross-entropy of soft labels, by default the mean: of B images, or of all their B * N tokens.

    Args:
        logits: of images (B, C), with image labels; or of tokens (B, N, C), row by row, with token labels of N = h * w.
            Any floating dtype; bfloat16 and float16 are widened, which is exact.
        labels: dense (B, C) or (B, C, h, w), `SparseLabels` or `MixedLabels`. No gradient goes to sparse ones. Where
            they do not sum to 1, as those of the published Token Labeling code, they are taken as they are.
        reduction: "mean", "sum", or "none" for each image or token.
        num_items: for a mean, the number of images that it is over, where this batch is one of several that make a
            step, by gradient accumulation or processes: the losses of the parts then add up to that of the whole.

    Returns:
        A scalar, or (B,) or (B, N); float32 (float64 for float64 logits); NaN or infinite where the logits are.

    Raises:
        InvalidValueError: class ids or tickets in place of soft labels, image labels for token logits or the other way
            round, another number of images, classes or tokens, or none of them; no such reduction.

    >>> import torch
    >>> round(float(soft_cross_entropy(torch.zeros(2, 10), torch.full((2, 10), 0.1))), 4)  # the log of 10
    2.3026
    """
    losses = cross_entropies(logits, labels)
    return reduced(losses[:, 0] if logits.ndim == 2 else losses, reduction, num_items)


class SoftCrossEntropy(nn.Module):
    """`soft_cross_entropy` as a module, called as timm's ``SoftTargetCrossEntropy`` is: with logits and labels.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        InvalidValueError: no such reduction.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = checked_reduction(reduction)

    def forward(self, logits: Tensor, labels: Labels, *, num_items: NumItems = None) -> Tensor:
        """See `soft_cross_entropy`."""
        return soft_cross_entropy(logits, labels, reduction=self.reduction, num_items=num_items)

    def extra_repr(self) -> str:
        """The settings, as `nn.Module` prints them."""
        return f"reduction={self.reduction!r}"


def cross_entropies(logits: Tensor, labels: Labels) -> Tensor:
    """(B, N) of tokens, (B, 1) of images; see `soft_cross_entropy`."""
    check(logits, labels)
    if logits.ndim == 2:
        logits = logits.unsqueeze(1)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if isinstance(labels, Tensor):
        target = labels.reshape(*labels.shape[:2], -1).transpose(1, 2)
        return -(logits.log_softmax(dim=2, dtype=dtype) * target.to(dtype)).sum(2)
    losses: Tensor = _SparseCrossEntropy.apply(logits, *_target(labels, dtype))  # type: ignore[no-untyped-call]
    return losses


def reduced(losses: Tensor, reduction: Reduction, num_items: NumItems = None) -> Tensor:
    """Losses of images (B,) or tokens (B, N), as they are, their sum or mean; see `soft_cross_entropy`."""
    checked_reduction(reduction)
    if num_items is not None and reduction != "mean":
        raise InvalidValueError(f"num_items is what a mean is over; got it with reduction={reduction!r}. Leave one out")
    if isinstance(num_items, int | float) and not num_items > 0:
        raise InvalidValueError(f"num_items is a count of images, at least 1; got {num_items}")
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if num_items is None:
        return losses.mean()
    # Of tokens: each image counts as one.
    return losses.reshape(len(losses), -1).mean(1).sum() / num_items


def checked_reduction(reduction: Reduction) -> Reduction:
    """The reduction, if it is one."""
    if reduction not in ("mean", "sum", "none"):
        raise InvalidValueError(f"reduction must be 'mean', 'sum' or 'none'; got {reduction!r}")
    return reduction


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


def check(logits: Tensor, labels: Labels) -> None:
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
                f"got {tuple(labels.shape)} of {labels.dtype}. {softening(labels)}"
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
    if logits.shape[0] != batch:
        raise InvalidValueError(f"logits {tuple(logits.shape)} are of {logits.shape[0]} images, labels of {batch}")
    if logits.shape[-1] != classes:
        raise InvalidValueError(
            f"the student has {logits.shape[-1]} outputs, the labels {classes} classes of the teacher: build the model "
            "with num_classes=maps.num_classes, however many class folders the images lie in"
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
