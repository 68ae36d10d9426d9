"""Handlers of the steps that turn, shear, shift or scale: what they show is an affine map of known arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from relabel.geometry.frames import MOVES, image_size_hw
from relabel.geometry.views import View, inverted
from relabel.tracking.handling import FLIPPED, FLIPPED_VERTICALLY, TRANSPOSED, Shown, watched_once

_ORIENTATION = 0x0112
"""Of Exif."""
_NOISE = 1e-12
"""Below, a number of a map is what rounding left of 0: half a turn of 180 degrees has a sine of 1e-16."""


def view_of_pixels(matrix: Sequence[float], output_hw: tuple[int, int], image_hw: tuple[int, int]) -> View:
    """The view of a map between pixels.

    Args:
        matrix: (a, b, c, d, e, f), from pixels of the output to pixels of the image, ``x = a u + b v + c`` and
            ``y = d u + e v + f``, counted from the corner of the image, so that the first pixel's centre is (0.5, 0.5):
            what Pillow's ``Image.transform(size, AFFINE, matrix)`` takes.
        output_hw: height and width of the output, pixels.
        image_hw: of the image.
    """
    (height, width), (image_height, image_width) = output_hw, image_hw
    a, b, c, d, e, f = matrix
    row = a * width / image_width, b * height / image_width, c / image_width
    column = d * width / image_height, e * height / image_height, f / image_height
    b, d = (0.0 if abs(value) < _NOISE else value for value in (row[1], column[0]))
    a, e = (0.0 if abs(value) < _NOISE else value for value in (row[0], column[1]))
    return View.affine(((a, b, row[2]), (d, e, column[2])))


def turned_upright(step: Any, image: Any) -> tuple[Any, Shown]:
    """Pillow's ``ImageOps.exif_transpose``, a function."""
    shown = upright_view(image)
    return step(image), shown


def upright_view(image: Any) -> View | None:
    """What an image of Pillow's shows once it is turned by its Exif orientation; None where it is not turned."""
    orientation = image.getexif().get(_ORIENTATION, 1) if isinstance(image, Image.Image) else 1
    if orientation not in range(2, 9):
        return None
    shown = View.whole()
    for is_done, part in zip(MOVES[orientation], (TRANSPOSED, FLIPPED_VERTICALLY, FLIPPED), strict=True):
        shown = shown.then(part) if is_done else shown
    return shown


def rotated_v1(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomRotation of torchvision v1: ``get_params`` answers the angle, in degrees counter-clockwise."""
    output, angle = watched_once(step, "get_params", image)
    return output, rotation(angle, step.center, output, image)


def rotated_v2(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomRotation of torchvision v2."""
    output, params = watched_once(step, "make_params", image)
    return output, rotation(params["angle"], step.center, output, image)


def moved_v1(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomAffine of torchvision v1: ``get_params`` answers the angle, the shift, the scale and the shears."""
    output, (angle, translate, scale, shear) = watched_once(step, "get_params", image)
    return output, _affine(angle, (*translate, scale, *shear), step.center, image)


def moved_v2(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomAffine of torchvision v2."""
    output, params = watched_once(step, "make_params", image)
    rest = (*params["translate"], params["scale"], *params["shear"])
    return output, _affine(params["angle"], rest, step.center, image)


def rotation(angle: float, center: Sequence[float] | None, output: Any, image: Any) -> View:
    """The view of torchvision's and Pillow's rotation, `angle` degrees counter-clockwise about the centre (x, y)."""
    output_hw, image_hw = image_size_hw(output), image_size_hw(image)
    a, b, c, d, e, f = _inverse(-angle, (0.0, 0.0, 1.0, 0.0, 0.0), center, image_hw)
    # A canvas that was made larger grew by as much on both sides.
    left, top = (output_hw[1] - image_hw[1]) / 2, (output_hw[0] - image_hw[0]) / 2
    return view_of_pixels((a, b, c - a * left - b * top, d, e, f - d * left - e * top), output_hw, image_hw)


def _affine(angle: float, rest: tuple[float, ...], center: Sequence[float] | None, image: Any) -> View:
    image_hw = image_size_hw(image)
    return view_of_pixels(_inverse(angle, rest, center, image_hw), image_hw, image_hw)


def _inverse(
    angle: float, rest: tuple[float, ...], center: Sequence[float] | None, image_hw: tuple[int, int]
) -> tuple[float, ...]:
    """From pixels of the output to those of the image.

    torchvision's ``affine`` is a scale, a shear along y and one along x, a turn (clockwise on the screen) about the
    centre (x, y), and a shift, in this order; `rest` is (shift x, shift y, scale, shear x, shear y), in pixels and
    degrees.
    """
    shift_x, shift_y, scale, shear_x, shear_y = rest
    center_x, center_y = center or (image_hw[1] / 2, image_hw[0] / 2)
    turn, shear_x, shear_y = math.radians(angle), math.radians(shear_x), math.radians(shear_y)
    # The columns of turn . shear x . shear y, where a shear along y is by the angle and along x by what remains.
    a = math.cos(turn - shear_y) / math.cos(shear_y)
    b = -a * math.tan(shear_x) - math.sin(turn)
    d = math.sin(turn - shear_y) / math.cos(shear_y)
    e = -d * math.tan(shear_x) + math.cos(turn)
    (a, b, _), (d, e, _) = inverted(((a * scale, b * scale, 0.0), (d * scale, e * scale, 0.0)))
    x, y = -center_x - shift_x, -center_y - shift_y
    return a, b, a * x + b * y + center_x, d, e, d * x + e * y + center_y
