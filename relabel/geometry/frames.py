"""The frame of a photograph that its camera held otherwise: pixels, maps and boxes, as decoded and turned upright.

EXIF's orientation says how decoded pixels become upright: rows and columns change places, then columns are read from
below, then rows from the right, each or not.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOVES = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""(transposed, then mirrored top to bottom, then left to right) by orientation."""
_UNDONE = np.array([0, 1, 2, 3, 4, 5, 8, 7, 6])


_FIRST_TRANSPOSING = 5


@overload
def is_transposing(orientation: int) -> bool: ...


@overload
def is_transposing(orientation: NDArray[np.uint8]) -> NDArray[np.bool_]: ...


def is_transposing(orientation: int | NDArray[np.uint8]) -> bool | NDArray[np.bool_]:
    """Whether height and width change places: by orientations of 5 to 8."""
    return orientation >= _FIRST_TRANSPOSING


def undoing(orientations: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The orientations whose turns undo those of others, 0 to 8."""
    undone: NDArray[np.int64] = _UNDONE[orientations]
    return undone


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Decoded pixels, or a map, (..., y, x) as they are upright, by an EXIF orientation, 1 to 8.

    >>> turned(torch.tensor([[1, 2, 3], [4, 5, 6]]), 6)
    tensor([[4, 1],
            [5, 2],
            [6, 3]])
    """
    is_transposed, is_mirrored_y, is_mirrored_x = MOVES[orientation]
    if is_transposed:
        pixels = pixels.transpose(-1, -2)
    mirrored = [-2] * is_mirrored_y + [-1] * is_mirrored_x
    return pixels.flip(mirrored) if mirrored else pixels


def turned_boxes(boxes_xyxy: Tensor, orientation: int) -> Tensor:
    """Boxes (n, 4) of the decoded image, in fractions of it, as the same places of the upright one."""
    is_transposed, is_mirrored_y, is_mirrored_x = MOVES[orientation]
    x0, y0, x1, y1 = boxes_xyxy.unbind(1)
    if is_transposed:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if is_mirrored_y:
        y0, y1 = 1 - y1, 1 - y0
    if is_mirrored_x:
        x0, x1 = 1 - x1, 1 - x0
    return torch.stack([x0, y0, x1, y1], dim=1)


def image_size_hw(image: Any) -> tuple[int, int]:
    """(height, width) of an image: a tensor (..., height, width), an array (height, width, ...), or as Pillow's.

    Raises:
        AttributeError: it is none of these.
    """
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    return image.height, image.width


def shows_whole(size_hw: tuple[int, int], whole_hw: tuple[int, int]) -> bool:
    """Whether an image of a size may be the whole of one of another, resized or not: their aspect ratios are the same.

    As far as whole pixels let them be: each side may have been rounded up or down.
    """
    (height, width), (whole_height, whole_width) = size_hw, whole_hw
    return abs(height * whole_width - width * whole_height) < whole_height + whole_width
