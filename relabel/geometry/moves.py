"""What a batch of views shows after a step on the device that moved their pixels, as a map of pixels tells it.

Such a map (B, 3, 3), as kornia's ``transform_matrix``, goes from pixels (x, y, 1) of what came in to pixels of what
goes out. A pixel's number is that of its centre, so that an image of w pixels reaches from -0.5 to w - 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.views import Views

_SLACK = 0.05
"""Pixels: what float32 leaves of a crop's corners, as some maps are solved for. Less is no turn and no perspective."""


def moved_views(views: Views, matrix: Tensor, size_hw: tuple[int, int], output_hw: tuple[int, int]) -> Views:
    """What B views show once their pixels were moved by maps (B, 3, 3), from images of one size to those of another.

    A perspective counts as what it is around the centre of what goes out, and its view is not exact.

    Raises:
        InvalidValueError: another shape or number of maps; one that has no inverse.
    """
    if not isinstance(matrix, Tensor) or matrix.shape != (len(views), 3, 3) or not matrix.is_floating_point():
        what = f"{tuple(matrix.shape)} of {matrix.dtype}" if isinstance(matrix, Tensor) else type(matrix).__name__
        raise InvalidValueError(
            f"maps of pixels are floating ({len(views)}, 3, 3), one a ticket, as kornia's transform_matrix; got {what}"
        )
    parts, is_bent = _in_fractions(matrix.detach().cpu().double(), size_hw, output_hw)
    inside = torch.tensor([size_hw[1], size_hw[0]], dtype=torch.float64)
    # Off the diagonal: how many pixels a side of what goes out leans in what came in.
    is_straight = ((parts[:, [0, 1], [1, 0]] * inside).abs() < _SLACK).all(1)
    parts[is_straight, 0, 1] = parts[is_straight, 1, 0] = 0
    outer = matrices_of(views)
    whole = outer[:, :, :2] @ parts
    whole[:, :, 2] += outer[:, :, 2]
    is_affine = views.is_affine | ~is_straight
    flips = (whole[:, [0, 1], [0, 1]] < 0) & ~is_affine[:, None]
    matrices = torch.where(is_affine[:, None, None], whole, torch.nan) if bool(is_affine.any()) else None
    boxes = bounding_boxes(whole).to(views.boxes)
    is_exact = views.is_exact & ~is_bent
    return Views(boxes, flips[:, 0], flips[:, 1], matrices, is_exact)


def matrix_of(step: Any) -> Any:
    """The map of pixels of the batch that a step of kornia was given last; what is no module is one itself.

    Raises:
        InvalidValueError: the step has members whose moves are in no matrix; or it has seen no batch.
    """
    if not isinstance(step, torch.nn.Module):
        return step
    if without := list(dict.fromkeys(_without_matrix(step))):
        raise InvalidValueError(
            f"{', '.join(without)} may move pixels, and the transform_matrix of {type(step).__name__} leaves that out: "
            "labels would be of other places. Put what moves pixels into one AugmentationSequential of kornia's own "
            "steps that keep a matrix (flips, crops, affine ones); where none of the others moves any, keep it "
            "outside, and call it by itself"
        )
    matrix = getattr(step, "transform_matrix", None)
    if matrix is None:
        raise InvalidValueError(f"{type(step).__name__} has no transform_matrix yet: call it on the batch first")
    return matrix


def _without_matrix(step: torch.nn.Module) -> Iterator[str]:
    """Members of a step, by the names of their classes, whose moves are in no matrix of it."""
    kinds = {kind.__name__ for kind in type(step).__mro__ if kind.__module__.startswith("kornia.")}
    if type(step).__name__ == "AugmentationSequential" and "AugmentationSequential" in kinds:
        for child in step.children():
            yield from _without_matrix(child)
    elif "RigidAffineAugmentationBase2D" not in kinds:
        yield type(step).__name__


def matrices_of(views: Views) -> Tensor:
    """(B, 2, 3) float64 from fractions of what is shown to fractions of the image, of boxes too."""
    x0, y0, x1, y1 = views.boxes.double().unbind(1)
    x0, x1 = torch.where(views.flips, x1, x0), torch.where(views.flips, x0, x1)
    y0, y1 = torch.where(views.flips_vertical, y1, y0), torch.where(views.flips_vertical, y0, y1)
    zero = torch.zeros_like(x0)
    boxes = torch.stack([x1 - x0, zero, x0, zero, y1 - y0, y0], dim=1).reshape(-1, 2, 3)
    return boxes if views.matrices is None else torch.where(views.is_affine[:, None, None], views.matrices, boxes)


def bounding_boxes(matrices: Tensor) -> Tensor:
    """(B, 4) xyxy of the parallelograms that maps (B, 2, 3) show."""
    sides, start = matrices[:, :, :2], matrices[:, :, 2]
    corners = start + sides.clamp(max=0).sum(2), start + sides.clamp(min=0).sum(2)
    return torch.cat(corners, dim=1)


def _in_fractions(pixels: Tensor, size_hw: tuple[int, int], output_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, 2, 3) from fractions of what goes out to fractions of what came in, of maps of pixels the other way.

    And (B,) bool, which are of a perspective: around the centre they are as told.
    """
    inverse, info = torch.linalg.inv_ex(pixels)
    (height, width), (to_height, to_width) = size_hw, output_hw
    out = pixels.new_tensor([[to_width, 0, -0.5], [0, to_height, -0.5], [0, 0, 1]])
    into = pixels.new_tensor([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
    whole: Tensor = into @ inverse @ out
    centre = whole @ pixels.new_tensor([0.5, 0.5, 1])
    depth = centre[:, 2, None, None]
    centre, bend = centre[:, :2, None] / depth, whole[:, 2:, :2] / depth
    sides = whole[:, :2, :2] / depth - centre * bend
    parts = torch.cat([sides, centre - sides.mean(2, keepdim=True)], dim=2)
    if bool(info.any()) or not bool(parts.isfinite().all()):
        raise InvalidValueError("a map of pixels shows a line or a point, or is not finite: it has no inverse")
    return parts, (bend.abs() * max(size_hw) > _SLACK).flatten(1).any(1)
