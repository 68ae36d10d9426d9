"""What a step of torchvision v2 shows, by key points that are sent along with the image.

For classes of one's own: a ``v2.Transform`` that calls v2's functionals moves key points with the image. They tell a
map to about a pixel only (a mirrored point is moved as a pixel's number, a resized one as a place), so that steps which
are known have handlers of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from relabel.errors import InvalidValueError
from relabel.geometry.frames import image_size_hw
from relabel.geometry.views import View
from relabel.tracking.handling import Shown, name_of
from relabel.tracking.turning import view_of_pixels

_Points = NDArray[np.float64]

_POINTS = 17
"""A side of the grid of points: of the least crop, 8 % of an image, some 20 remain inside."""
_FEWEST = 6
_BENT_PX = 1.0
"""Farther than that from the nearest affine map, points were not moved by one; whole pixels are rounded to half."""


def by_keypoints(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of a step that moves key points as it moves the image.

    Raises:
        InvalidValueError: it does not move them by an affine map, or shows too few of them.
    """
    height, width = image_size_hw(image)
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    grid = np.stack(np.meshgrid(middles * width, middles * height), axis=-1).reshape(-1, 2)
    sent = tv_tensors.KeyPoints(torch.from_numpy(grid), canvas_size=(height, width))
    output, points = step(image, sent)
    moved = np.asarray(points, dtype=np.float64)
    if output is image and np.array_equal(moved, grid):
        return output, None
    output_hw = image_size_hw(output)
    if tuple(points.canvas_size) != output_hw:
        raise InvalidValueError(f"{name_of(step)} does not move key points as it moves the image")
    # Points outside may have been clamped to the edge.
    inside = ((moved > 0) & (moved < np.array(output_hw[::-1]) - 1)).all(axis=1)
    return output, _view(name_of(step), (grid[inside], moved[inside]), output_hw, (height, width))


def _view(name: str, points: tuple[_Points, _Points], output_hw: tuple[int, int], image_hw: tuple[int, int]) -> View:
    places, moved = points
    design = np.column_stack([moved, np.ones(len(moved))])
    if len(moved) < _FEWEST or np.linalg.matrix_rank(design) < 3:
        raise InvalidValueError(
            f"{name} shows {len(moved)} of {_POINTS**2} points of an image, too few to tell its map"
        )
    matrix, *_ = np.linalg.lstsq(design, places, rcond=None)
    bent = np.abs(design @ matrix - places).max()
    if bent > _BENT_PX:
        raise InvalidValueError(f"{name} moves pixels by no affine map: {bent:.1f} px beside the nearest one")
    (a, d), (b, e), (c, f) = matrix
    # A mirrored point lands on the number of its pixel, one less than its place.
    if a * e < 0 and abs(a * e) > abs(b * d):
        c, f = (c - a, f) if a < 0 else (c, f - e)
    return view_of_pixels((a, b, c, d, e, f), output_hw, image_hw)
