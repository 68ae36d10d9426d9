"""Images that are different at every place, and what a view of one must look like.

A position image is grey, a sum of plane waves of all directions and lengths, so that each crop, however small, has
detail of its own, and another image, a mirrored one or a place beside it has other detail. A plane wave seen through
any affine map is a plane wave: what a view shows is computed, not cut and resized.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.geometry.views import View

Array = NDArray[np.float32]

TILES = 8
"""Of an output, each way."""
_SAMPLES = 40
"""Pixels of an output that are looked at, each way: enough, and 1 ms."""
_FEWEST = 64
_WAVES_AN_OCTAVE = 6
_SHORTEST_PX = 4.0
"""Wave length: shorter ones would be gone after the first resize."""
_LOGISTIC = 1.702
"""The logistic curve of so much is the normal distribution's to 0.01: levels are spread evenly over 0 to 255."""
_SMOOTHED = 0.015
"""Of a side: a blur after a step that folds the levels (solarize) leaves only what is as smooth."""


def position_image(seed: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The position image (h, w, 3) of a seed, grey."""
    frequencies, phases = _waves(seed, size_hw)
    x, y = (((np.arange(size) + 0.5) / size) for size in (size_hw[1], size_hw[0]))
    sums = _summed(_ripples(frequencies[:, 1], None, y), _ripples(frequencies[:, 0], phases, x))
    levels = 255 / (1 + np.exp(sums * np.float32(-_LOGISTIC / math.sqrt(len(phases) / 2))))
    return np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, axis=2)


@functools.lru_cache(64)
def _waves(seed: int, size_hw: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies (n, 2), of x and y in waves an image, and phases (n,), in waves."""
    height, width = size_hw
    rng = np.random.default_rng(seed)
    longest = max(height, width)
    octaves = max(1, math.ceil(math.log2(longest / _SHORTEST_PX)))
    number = np.arange(_WAVES_AN_OCTAVE * octaves)
    octave, direction = np.divmod(number, _WAVES_AN_OCTAVE)
    length = np.maximum(longest * 2.0 ** -(octave + rng.random(len(number))), _SHORTEST_PX)
    angle = np.pi * (direction + rng.random(len(number))) / _WAVES_AN_OCTAVE
    frequencies = np.stack([np.cos(angle) / length * width, np.sin(angle) / length * height], axis=1)
    return frequencies, rng.random(len(number))


def _ripples(frequencies: NDArray[Any], phases: NDArray[Any] | None, places: NDArray[Any]) -> NDArray[np.complex64]:
    """Of n waves at m places of one axis, (n, m)."""
    turns = np.outer(frequencies, places) + (0 if phases is None else phases[:, None])
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def _scaled(ripples: NDArray[np.complex64], by: NDArray[Any]) -> NDArray[np.complex64]:
    return ripples * by[:, None].astype(np.complex64)


def _sampled(size: int) -> NDArray[np.int64]:
    """Which pixels of a side are looked at."""
    count = min(size, _SAMPLES)
    return ((np.arange(count) + 0.5) * size / count).astype(int)


def _summed(down: NDArray[np.complex64], across: NDArray[np.complex64]) -> Array:
    """The sum of the waves at all places (h, w)."""
    return down.real.T @ across.real - down.imag.T @ across.imag


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The told place, sampled at some pixels of an output.

    Attributes:
        rows, columns: which pixels of the output.
        inside: (rows, columns) whether one shows the image, and not what a pipeline put beside it.
        u, v: (n,) of those inside, where in the output they are, from its middle, of its width and height.
        tiles: (n,) which tile each is in.
        levels, smooth: (n,) the sums of waves there, at the output's resolution, and smoothed.
        slopes: (n, 2) how the levels grow with u and v.
        pixel_uv: a pixel of the output, of its width and height.
        image_px: a side of the output, in pixels of the image.
        is_box: whether the view neither turns nor shears.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    inside: NDArray[np.bool_]
    u: Array
    v: Array
    tiles: NDArray[np.int64]
    levels: Array
    smooth: Array
    slopes: Array
    pixel_uv: tuple[float, float]
    image_px: float
    is_box: bool

    @classmethod
    def of(
        cls, shown_hw: tuple[int, int], view: View, seed: int, size_hw: tuple[int, int], margin: float = 0.0
    ) -> Place | None:
        """None if too few pixels show the image, so much of a side at its edges left out."""
        (height, width), (image_height, image_width) = shown_hw, size_hw
        rows, columns = _sampled(height), _sampled(width)
        u, v = (columns + 0.5) / width, (rows + 0.5) / height
        (a, b, c), (d, e, f) = view.as_matrix()
        x, y = a * u + b * v[:, None] + c, d * u + e * v[:, None] + f
        # A pixel of either image at the edge shows what is outside, too.
        edge_x = abs(a) / width + abs(b) / height + 1 / image_width + margin
        edge_y = abs(d) / width + abs(e) / height + 1 / image_height + margin
        inside = (x > edge_x) & (x < 1 - edge_x) & (y > edge_y) & (y < 1 - edge_y)
        if inside.sum() < _FEWEST:
            return None
        frequencies, phases = _waves(seed, size_hw)
        # The same waves, in u and v.
        along_u, along_v = frequencies @ (a, d), frequencies @ (b, e)
        across = _ripples(along_u, phases + frequencies @ (c, f), u)
        down = _ripples(along_v, None, v)
        # What a pixel's area leaves of a wave: that of a triangle, as resizing averages.
        seen = np.sinc(np.clip(along_u / width, -1, 1)) ** 2 * np.sinc(np.clip(along_v / height, -1, 1)) ** 2
        blurred = np.exp(-2 * (np.pi * _SMOOTHED) ** 2 * (along_u**2 + along_v**2))
        sharp, smooth = (_scaled(across, by) for by in (seen, blurred))
        slopes = (
            _summed(down, _scaled(sharp, 2j * np.pi * along_u))[inside],
            _summed(_scaled(down, 2j * np.pi * along_v), sharp)[inside],
        )
        tile_y, tile_x = (np.arange(len(each)) * TILES // len(each) for each in (v, u))
        return cls(
            rows=rows,
            columns=columns,
            inside=inside,
            u=np.broadcast_to(u - 0.5, inside.shape)[inside].astype(np.float32),
            v=np.broadcast_to(v[:, None] - 0.5, inside.shape)[inside].astype(np.float32),
            tiles=(tile_y[:, None] * TILES + tile_x)[inside],
            levels=_summed(down, sharp)[inside],
            smooth=_summed(down, smooth)[inside],
            slopes=np.stack(slopes, axis=1),
            pixel_uv=(1 / width, 1 / height),
            image_px=min(math.hypot(a * image_width, d * image_height), math.hypot(b * image_width, e * image_height)),
            is_box=view.matrix is None,
        )
