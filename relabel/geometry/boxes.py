"""The one home of coordinates.

Image coordinates are fractions of the whole image, in one frame (see `frames`), x to the right and y down, boxes are
``(x0, y0, x1, y1)`` and half open. Sizes are ``(height, width)``. Maps are indexed ``[..., y, x]``; cell
``(r, c)`` of an ``H x W`` map covers x in ``[c / W, (c + 1) / W)`` and y in ``[r / H, (r + 1) / H)`` of the footprint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from relabel.errors import InvalidValueError

LEAST_SIDE, FARTHEST = 1e-9, 1e9
"""Sides of the image: a pixel of the longest image is larger, and a padded crop of one pixel ends before.

Beyond, a box in cells would overflow float32.
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the image, xyxy, in fractions of the whole image, half open, y down.

    It may reach outside the image (a padded crop does), but it is never empty.

    >>> Box(0.25, 0.0, 0.75, 0.5).size_hw
    (0.5, 0.5)
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        # Of every crop of a training, in one comparison; numbers that are not finite fail it too.
        if 0 < self.x1 - self.x0 < math.inf and 0 < self.y1 - self.y0 < math.inf:
            return
        if not all(math.isfinite(v) for v in self.xyxy):
            raise InvalidValueError(f"a box needs four finite numbers (x0, y0, x1, y1); got {self.xyxy}")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise InvalidValueError(
                f"a box needs x0 < x1 and y0 < y1, as fractions of the whole image; got (x0, y0, x1, y1) = {self.xyxy}"
            )

    @classmethod
    def whole(cls) -> Box:
        """The box of the whole image."""
        return cls(0.0, 0.0, 1.0, 1.0)

    @classmethod
    def from_crop(cls, top: float, left: float, height: float, width: float, image_size: tuple[int, int]) -> Box:
        """The box of a crop given as torchvision gives it, in pixels; `image_size` is ``(height, width)``.

        This is the only door from torchvision's ``(i, j, h, w)``: rows come first there, and second in a box.

        Raises:
            InvalidValueError: the crop is empty, or has nothing of the image.

        >>> Box.from_crop(top=10, left=40, height=50, width=80, image_size=(100, 200))
        Box(x0=0.2, y0=0.1, x1=0.6, y1=0.6)
        """
        image_height, image_width = image_size
        if image_height <= 0 or image_width <= 0:
            raise InvalidValueError(f"image_size must be (height, width), both positive; got {image_size}")
        if left >= image_width or top >= image_height or left + width <= 0 or top + height <= 0:
            raise InvalidValueError(
                f"the crop (top {top}, left {left}, height {height}, width {width}) has nothing of an image of height "
                f"{image_height} and width {image_width}. image_size is (height, width), the reverse of PIL's size"
            )
        return cls(
            left / image_width,
            top / image_height,
            (left + width) / image_width,
            (top + height) / image_height,
        )

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x0, y0, x1, y1)``."""
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def size_hw(self) -> tuple[float, float]:
        """``(height, width)``, fractions of the whole image."""
        return (self.y1 - self.y0, self.x1 - self.x0)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The part of the image that a score map covers, xyxy fractions of the whole image.

    It overlaps the image; it is larger than the image where the teacher saw padding (a letterbox).

    >>> Footprint.center_square((300, 400))
    Footprint(x0=0.125, y0=0.0, x1=0.875, y1=1.0)
    """

    x0: float = 0.0
    y0: float = 0.0
    x1: float = 1.0
    y1: float = 1.0

    def __post_init__(self) -> None:
        box = Box(self.x0, self.y0, self.x1, self.y1)
        if box.x0 >= 1 or box.y0 >= 1 or box.x1 <= 0 or box.y1 <= 0:
            raise InvalidValueError(f"a footprint overlaps the image, the box (0, 0, 1, 1); got {box.xyxy}")
        if min(box.size_hw) < LEAST_SIDE or max(map(abs, box.xyxy)) > FARTHEST:
            raise InvalidValueError(
                f"a footprint's sides are at least {LEAST_SIDE:g} of the image's, and none lies further away than "
                f"{FARTHEST:g} of them; got {box.xyxy}"
            )

    @classmethod
    def center_square(cls, image_size: tuple[int, int]) -> Footprint:
        """The largest centred square of an image of size ``(height, width)``."""
        height, width = image_size
        if height <= 0 or width <= 0:
            raise InvalidValueError(f"image_size must be (height, width), both positive; got {image_size}")
        side = min(height, width)
        x0 = (1 - side / width) / 2
        y0 = (1 - side / height) / 2
        return cls(x0, y0, 1 - x0, 1 - y0)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x0, y0, x1, y1)``."""
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def is_whole(self) -> bool:
        """Whether the map covers the whole image."""
        return self.xyxy == (0.0, 0.0, 1.0, 1.0)


WHOLE = Footprint()
"""The footprint of the whole image."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The size of a map in cells, height first.

    >>> Grid(15, 20).size_hw
    (15, 20)
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InvalidValueError(f"a grid needs at least one cell each way; got {self.height} x {self.width}")

    @property
    def size_hw(self) -> tuple[int, int]:
        """``(height, width)`` in cells."""
        return (self.height, self.width)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"
