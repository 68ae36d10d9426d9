"""Soft labels without a dense target: a few classes with their probabilities, and one probability for all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relabel.errors import InvalidValueError


@dataclass(frozen=True, slots=True, eq=False)
class SparseLabels:
    """Soft labels without the dense target: the stored classes, and one probability for each of all the others.

    `classes` is (B, n) integer, distinct in an image; `probabilities` is (B, n) for image labels or (B, n, h, w) for
    token labels; `other` is (B) or (B, h, w), the probability of *each* class that is not among `classes`; `covered`
    has the shape of `other`, the fraction of the crop that the map covers.
    """

    classes: Tensor
    probabilities: Tensor
    other: Tensor
    covered: Tensor
    num_classes: int

    def __len__(self) -> int:
        return self.other.shape[0]

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """(h, w) of token labels, None of image labels."""
        return None if self.other.ndim == 1 else (self.other.shape[1], self.other.shape[2])

    def dense(self) -> Tensor:
        """(B, C) or (B, C, h, w): sums to 1 over the classes."""
        shape = (self.other.shape[0], self.num_classes, *self.other.shape[1:])
        index = self.classes.long().reshape(*self.classes.shape, *(1 for _ in shape[2:]))
        labels = self.other.unsqueeze(1).expand(shape).clone()
        return labels.scatter_(1, index.expand_as(self.probabilities), self.probabilities)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SparseLabels:
        """The same labels on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def __getitem__(self, index: slice | Tensor) -> SparseLabels:
        """The labels of some of the images, in the order of `index`: a slice, ids (n,) or a mask (B,)."""
        if isinstance(index, int):
            raise InvalidValueError(f"SparseLabels are of a batch: for image {index} give [{index}:{index + 1}]")
        return self._each(lambda tensor: tensor[index])

    def __repr__(self) -> str:
        return (
            f"SparseLabels({tuple(self.probabilities.shape)} of {self.num_classes} classes, {self.probabilities.dtype})"
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> SparseLabels:
        return replace(
            self,
            classes=change(self.classes),
            probabilities=change(self.probabilities),
            other=change(self.other),
            covered=change(self.covered),
        )


@dataclass(frozen=True, slots=True, eq=False)
class MixedLabels:
    """Two labels of each image and how much the first counts: what mixing makes of sparse labels.

    A cross-entropy is linear in its target, so that a loss needs no more; the classes of the two may overlap.

    Attributes:
        first, second: B labels each, of one size and as many classes; they may list different numbers of classes.
        share: (B,) or, for token labels, (B,) or (B, h, w), in [0, 1]: what the first counts, the second counts
            the remainder.

    Raises:
        InvalidValueError: labels of two kinds, or a share of another shape.
    """

    first: SparseLabels
    second: SparseLabels
    share: Tensor

    def __post_init__(self) -> None:
        one, two = self.first, self.second
        if one.other.shape != two.other.shape or one.num_classes != two.num_classes:
            raise InvalidValueError(f"labels to mix must be of one size and as many classes; got {one!r} and {two!r}")
        if self.share.shape not in (one.other.shape, one.other.shape[:1]):
            raise InvalidValueError(
                f"share must be {tuple(one.other.shape[:1])}, one an image, or {tuple(one.other.shape)}; "
                f"got {tuple(self.share.shape)}"
            )

    def __len__(self) -> int:
        return len(self.first)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.first.num_classes

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """(h, w) of token labels, None of image labels."""
        return self.first.size_hw

    def dense(self) -> Tensor:
        """(B, C) or (B, C, h, w): sums to 1 over the classes."""
        share = self.share.reshape(self.share.shape + (1,) * (self.first.other.ndim - self.share.ndim)).unsqueeze(1)
        mixed: Tensor = share * self.first.dense() + (1 - share) * self.second.dense()
        return mixed

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> MixedLabels:
        """The same labels on another device."""
        first, second = (part.to(device, non_blocking=non_blocking) for part in (self.first, self.second))
        return MixedLabels(first, second, self.share.to(device, non_blocking=non_blocking))

    def __repr__(self) -> str:
        return f"MixedLabels({self.first!r}, {self.second!r})"


Labels = Tensor | SparseLabels | MixedLabels
"""Targets of B images: dense (B, C) or (B, C, h, w), or without the dense target."""
