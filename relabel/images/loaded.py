"""Images as a trainer has loaded them (Pillow's, arrays or tensors), and in which frame their pixels are."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from relabel.geometry.frames import turned
from relabel.images.decode import decode, orientation_told

_BLOCKS = ("exif", "xmp", "Raw profile type exif")
"""Where Pillow keeps what may tell of the orientation."""
_SIDE = 16
"""Cells of each side by which two images are compared: what decoders and resizing round is gone at this size."""
_LIKE = 0.9
"""Correlation above which an image looks the same in both frames. Of photographs turned by 180 degrees few do."""
_NEARER = 4
"""How many times nearer to one frame than to the other an image must be. Grey or toned copies are."""


def pil_image(file: IO[bytes], mode: str | None) -> Image.Image:
    """An image of Pillow's, as decoded, whose file may be closed then; in another mode ("RGB") where one is given.

    Raises:
        OSError: no image, or a damaged one.
        SyntaxError: likewise.
    """
    image = Image.open(file)
    if mode:
        return image.convert(mode)
    image.load()
    return image


def pil_upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image of Pillow's as decoded, turned by its EXIF orientation."""
    pixels = turned(torch.from_numpy(np.array(image)).permute(2, 0, 1), orientation)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def own_orientation(image: Any) -> int | None:
    """The EXIF orientation that a loaded image still carries, 1 to 8; None where it carries nothing that could tell.

    Pillow hands the file's blocks on, and whatever turns an image upright takes the orientation out of them.
    """
    info = getattr(image, "info", None)
    if not isinstance(image, Image.Image) or not isinstance(info, dict) or not any(name in info for name in _BLOCKS):
        return None
    return orientation_told(image)


def likeness(image: Any, data: bytes, orientation: int) -> tuple[bool, bool] | None:
    """Whether a loaded image looks like its file as decoded, and like it turned upright.

    Args:
        image: Pillow's, an array (height, width, ...) or a tensor (..., height, width).
        data: the file.
        orientation: which the file is expected to have.

    Returns:
        None where it cannot be told: the file has another orientation, or looks alike in both frames.

    Raises:
        ImageError: the file cannot be decoded.
    """
    own = decode(data)
    if own.orientation != orientation:
        return None
    frames = [_small(pixels) for pixels in (own.pixels, turned(own.pixels, orientation))]
    found = _small(pixels_of(image))
    # NaN, of an image of one colour, is above nothing.
    if not _correlation(*frames) < _LIKE:
        return None
    as_decoded, as_upright = (1 - _correlation(found, frame) for frame in frames)
    return as_decoded * _NEARER < as_upright, as_upright * _NEARER < as_decoded


def pixels_of(image: Any) -> Tensor:
    """Of any kind of image, (..., height, width); of bytes themselves."""
    if isinstance(image, bytes):
        return torch.frombuffer(bytearray(image), dtype=torch.uint8)
    if isinstance(image, Tensor):
        return image
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    return torch.from_numpy(np.array(array)).movedim((0, 1), (-2, -1))


def copied_pixels(image: Any) -> Tensor | None:
    """As `pixels_of`, what is done in place to the image afterwards not seen in them; None of what is no image."""
    return pixels_of(image).clone() if isinstance(image, (Image.Image, np.ndarray, Tensor)) else None


def _small(pixels: Tensor) -> Tensor:
    """Its brightness in 16 x 16 cells, (256,), around its mean."""
    grey = pixels.float().reshape(-1, *pixels.shape[-2:]).mean(0, keepdim=True)
    cells = torch.nn.functional.adaptive_avg_pool2d(grey, _SIDE).flatten()
    return cells - cells.mean()


def _correlation(one: Tensor, other: Tensor) -> float:
    return float((one @ other) / (one.norm() * other.norm()))
