"""What a pipeline shows of an image: a box with mirrorings, or an affine map where it turns or shears.

A map goes from fractions ``(u, v)`` of what is shown, u to the right and v down, to fractions ``(x, y)`` of the whole
image: ``x = a u + b v + c``, ``y = d u + e v + f``, written ``((a, b, c), (d, e, f))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.boxes import Box

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""2 x 3, from fractions of what is shown to fractions of the image."""

_STRAIGHT = 1e-9
"""What a map may shear and still be a box's: a millionth of a pixel, far more than sines and products are off."""

_WHOLE = Box.whole()
_NO_MATRIX = ((math.nan,) * 3,) * 2


@dataclass(frozen=True, slots=True)
class View:
    """What the output of a pipeline shows of the whole image.

    Attributes:
        box: the crop box, in fractions of the whole image; with a `matrix` the bounding box of what is shown.
        flip: whether the crop was mirrored left to right afterwards.
        flip_vertical: whether it was mirrored top to bottom.
        matrix: from fractions of the output to fractions of the image; None where box and mirrorings say all. Use
            `View.affine` to make one.
        is_exact: False if a step that moves pixels was ignored: good enough for image labels, not for token labels.
    """

    box: Box
    flip: bool = False
    flip_vertical: bool = False
    matrix: Matrix | None = None
    is_exact: bool = True

    @classmethod
    def whole(cls) -> View:
        """The view of the whole image, as it is."""
        return cls(Box.whole())

    @classmethod
    def affine(cls, matrix: Matrix, *, is_exact: bool = True) -> View:
        """The view of a 2 x 3 map; one that neither turns nor shears becomes a box and mirrorings.

        Not by more than a sine is rounded: half a turn is a box mirrored both ways.

        Raises:
            InvalidValueError: it shows a line or a point, or its numbers are not finite.

        >>> View.affine(((-0.5, 0.0, 1.0), (0.0, 1.0, 0.0)))
        View(box=Box(x0=0.5, y0=0.0, x1=1.0, y1=1.0), flip=True, flip_vertical=False, matrix=None, is_exact=True)
        """
        (a, b, c), (d, e, f) = matrix
        if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e - b * d == 0:
            raise InvalidValueError(f"a map of a view is 2 x 3, finite, and shows an area; got {matrix}")
        if abs(b) <= _STRAIGHT * abs(a) and abs(d) <= _STRAIGHT * abs(e):
            b = d = 0.0
        x0, x1 = c + min(a, 0.0) + min(b, 0.0), c + max(a, 0.0) + max(b, 0.0)
        y0, y1 = f + min(d, 0.0) + min(e, 0.0), f + max(d, 0.0) + max(e, 0.0)
        box = Box(x0, y0, x1, y1)
        if b == d == 0:
            return cls(box, a < 0, e < 0, is_exact=is_exact)
        return cls(box, matrix=((a, b, c), (d, e, f)), is_exact=is_exact)

    def as_matrix(self) -> Matrix:
        """The 2 x 3 map, of a box too."""
        if self.matrix is not None:
            return self.matrix
        x0, y0, x1, y1 = self.box.xyxy
        if self.flip:
            x0, x1 = x1, x0
        if self.flip_vertical:
            y0, y1 = y1, y0
        return (x1 - x0, 0.0, x0), (0.0, y1 - y0, y0)

    def then(self, part: View) -> View:
        """The view of a part of this one: `part` is in fractions of what this view shows, as it shows it.

        >>> View(Box(0.0, 0.0, 0.5, 1.0), flip=True).then(View(Box(0.0, 0.0, 0.5, 1.0))).box
        Box(x0=0.25, y0=0.0, x1=0.5, y1=1.0)
        """
        is_exact = self.is_exact and part.is_exact
        if self.matrix is not None or part.matrix is not None:
            return View.affine(_product(self.as_matrix(), part.as_matrix()), is_exact=is_exact)
        flips = self.flip != part.flip, self.flip_vertical != part.flip_vertical
        return View(self._of_part(part.box), *flips, is_exact=is_exact)

    def _of_part(self, part: Box) -> Box:
        """Where a part of what a box shows lies in the image."""
        if part == _WHOLE:
            # Not computed anew: a sum of sides may be off in its last bit.
            return self.box
        x0, y0, x1, y1 = part.xyxy
        if self.flip:
            x0, x1 = 1 - x1, 1 - x0
        if self.flip_vertical:
            y0, y1 = 1 - y1, 1 - y0
        height, width = self.box.size_hw
        left, top = self.box.x0, self.box.y0
        return Box(left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height)

    def ignoring(self) -> View:
        """The same view, no longer exact: a step that moves pixels was not followed."""
        return replace(self, is_exact=False)


def inverted(matrix: Matrix) -> Matrix:
    """The map the other way, of one that has an inverse, fractions or pixels.

    >>> inverted(((2.0, 0.0, 1.0), (0.0, 4.0, 2.0)))
    ((0.5, -0.0, -0.5), (-0.0, 0.25, -0.5))
    """
    (a, b, c), (d, e, f) = matrix
    determinant = a * e - b * d
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    return (a, b, -a * c - b * f), (d, e, -d * c - e * f)


def _product(outer: Matrix, inner: Matrix) -> Matrix:
    """First the inner map, then the outer one."""
    (p, q, r), (s, t, u) = inner

    def row(a: float, b: float, c: float) -> tuple[float, float, float]:
        return a * p + b * s, a * q + b * t, a * r + b * u + c

    return row(*outer[0]), row(*outer[1])


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The views of a batch, on the CPU, where the weights of the cells are made.

    Attributes:
        boxes: (B, 4) float32 xyxy, fractions of the whole image; of an affine view the bounding box.
        flips, flips_vertical: (B,) bool.
        matrices: (B, 2, 3) float64, NaN for views that are boxes; None where all are.
        is_exact: (B,) bool.
    """

    boxes: Tensor
    flips: Tensor
    flips_vertical: Tensor
    matrices: Tensor | None
    is_exact: Tensor

    @classmethod
    def of(cls, views: Sequence[View]) -> Views:
        """A batch of views."""
        matrices = None
        if any(view.matrix is not None for view in views):
            matrices = torch.tensor([view.matrix or _NO_MATRIX for view in views], dtype=torch.float64)
        return cls(
            boxes=torch.tensor([view.box.xyxy for view in views], dtype=torch.float32).reshape(-1, 4),
            flips=torch.tensor([view.flip for view in views], dtype=torch.bool),
            flips_vertical=torch.tensor([view.flip_vertical for view in views], dtype=torch.bool),
            matrices=matrices,
            is_exact=torch.tensor([view.is_exact for view in views], dtype=torch.bool),
        )

    @classmethod
    def of_boxes(cls, boxes_xyxy: Tensor, flips: Tensor | None = None) -> Views:
        """The views of crop boxes (B, 4), of which some were mirrored left to right, (B,) bool."""
        none = torch.zeros(len(boxes_xyxy), dtype=torch.bool)
        return cls(boxes_xyxy, none if flips is None else flips, none, None, ~none)

    def __len__(self) -> int:
        return len(self.flips)

    def __iter__(self) -> Iterator[View]:
        """Each view by itself."""
        matrices = [_NO_MATRIX] * len(self) if self.matrices is None else self.matrices.tolist()
        flags = torch.stack([self.flips, self.flips_vertical, self.is_exact], dim=1).tolist()
        for box, (flip, vertical, is_exact), matrix in zip(self.boxes.tolist(), flags, matrices, strict=True):
            if math.isnan(matrix[0][0]):
                yield View(Box(*box), flip, vertical, is_exact=is_exact)
            else:
                yield View.affine(matrix, is_exact=is_exact)

    @property
    def is_affine(self) -> Tensor:
        """(B,) bool, which views are no boxes."""
        return torch.zeros_like(self.flips) if self.matrices is None else ~self.matrices[:, 0, 0].isnan()

    def affine_matrices(self) -> Tensor:
        """(n, 2, 3) float64, of the n views that are no boxes."""
        return torch.empty(0, 2, 3, dtype=torch.float64) if self.matrices is None else self.matrices[self.is_affine]

    def areas(self) -> Tensor:
        """(B,) of what each view shows, as fractions of its image's; floating."""
        x0, y0, x1, y1 = self.boxes.unbind(1)
        boxes = (x1 - x0) * (y1 - y0)
        if self.matrices is None:
            return boxes
        (a, b, _), (d, e, _) = (row.unbind(1) for row in self.matrices.unbind(1))
        return torch.where(self.is_affine, (a * e - b * d).abs().to(boxes), boxes)

    def __getitem__(self, index: slice | Tensor) -> Views:
        """The views of some of the images: a slice, ids (n,) or a mask (B,)."""
        return Views(
            boxes=self.boxes[index],
            flips=self.flips[index],
            flips_vertical=self.flips_vertical[index],
            matrices=None if self.matrices is None else self.matrices[index],
            is_exact=self.is_exact[index],
        )
