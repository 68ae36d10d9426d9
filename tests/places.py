"""Images whose colours say where they are, and reading from an output which part of one it shows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from relabel.geometry.views import View

SIZES_HW = ((150, 200), (200, 150), (96, 180), (64, 64))
_CORNERS = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=float)


def place_image(height: int, width: int) -> Image.Image:
    """Red rises with x, green with y; blue marks the image, so that padding (black) can be told from it."""
    y, x = np.mgrid[:height, :width]
    red, green = (x + 0.5) / width * 255, (y + 0.5) / height * 255
    return Image.fromarray(np.stack([red, green, np.full_like(red, 255)], 2).round().astype(np.uint8))


def place_tensor(height: int, width: int) -> torch.Tensor:
    """A `place_image`, (3, height, width) float64 in [0, 1], not rounded."""
    y, x = torch.meshgrid(
        (torch.arange(height, dtype=torch.float64) + 0.5) / height,
        (torch.arange(width, dtype=torch.float64) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)])


def seen_matrix(output: Any) -> NDArray[np.float64]:
    """The 2 x 3 map from fractions of an output, (3, h, w) in [0, 1] or Pillow's, to fractions of its `place_image`."""
    if isinstance(output, Image.Image):
        output = torch.from_numpy(np.array(output)).permute(2, 0, 1) / 255
    red, green, blue = output.double().numpy()
    height, width = blue.shape
    v, u = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    # Not what is mixed with padding, nor the blurred ends of the ramps.
    sure = (blue > 0.99) & (np.minimum(red, green) > 0.03) & (np.maximum(red, green) < 0.97)
    design = np.stack([u[sure], v[sure], np.ones(sure.sum())], 1)
    return np.linalg.lstsq(design, np.stack([red[sure], green[sure]], 1), rcond=None)[0].T


def farthest(seen: NDArray[np.float64], view: View) -> float:
    """How far a view is from what is seen, at the corner of the output where it is farthest, in sides of the image."""
    return float(np.abs(_CORNERS @ (seen - np.array(view.as_matrix())).T).max())


def draws(count: int = 2) -> Iterator[tuple[int, int]]:
    """The sizes of images to draw a pipeline on, each with a seed of its own set."""
    for seed, size_hw in enumerate(SIZES_HW * count):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what transforms draw from
        yield size_hw
