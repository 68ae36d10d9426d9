"""Whether an output of a pipeline shows the place of a position image that is told.

Whatever a pipeline does to colours is, on grey levels, a function of the level. So what is told is right if the levels
of the told place explain the output through *some* function: a line through eleven knots, fitted to the output, with
what is erased left out. What the levels' slopes explain beyond that is a place beside the told one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.geometry.views import Matrix, View
from relabel.tracking.places import TILES, Array, Place

_KNOTS = np.array([0, 0.02, 0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 0.94, 0.98, 1])
"""Of the function of colours, as shares of the levels; more at the ends, where a stretched contrast may cut."""
_FEWEST = 64
_ERASED = 2.0
"""Tiles that are so much worse than the median one have something else in them."""
_ROUNDS = 3
_FOREIGN = 0.3
"""Of the variance: a tile of which more is unexplained shows something else."""

_EXPLAINED = 0.2
"""Below, the output does not show the place; another image's explains as much in one of 50 outputs of 32 px."""
_WELL, _BY = 0.5, 0.25
"""A mirrored place that explains so much, and so much more than the told one, is what is shown."""
_TEXTURE = 3.0
"""Differences of tiles over their noise: below, an output is a plain colour and noise, and says nothing."""
_DISPLACED, _GAIN, _DISPLACED_PX = 0.006, 0.12, 0.3
"""A displacement counts from so much of a side, so much explained of what was not, and so many pixels of the image.

True outputs: 0.003 and 0.1. Crops of a few pixels, whose edges a resize repeats, more, but 0.2 pixels of the image.
"""
_DISPLACED_TURNED = 0.012
"""Of turned views, whose pixels are mostly the nearest ones: 0.01 at 32 pixels."""
_NEAREST_PX = 0.55
"""Of the output, along both sides: torch's "nearest" takes the pixel at a corner, and no view is wrong for it."""
_FAR = 0.7
"""Where less is explained, places further away are looked at, too."""
_FAR_BY = 0.1


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a told place explains an output.

    Attributes:
        explained: the share of the output's variance, erased parts left out; 0 to 1.
        fault: what the output shows instead; None if it shows what is told.
        is_sure: whether that one output alone proves the fault.
    """

    explained: float
    fault: str | None = None
    is_sure: bool = False


def agreement(output: Any, view: View, seed: int, size_hw: tuple[int, int], margin: float = 0.0) -> Agreement | None:
    """Whether an output of a pipeline shows what is told of a position image.

    Args:
        output: a tensor (h, w) or (c, h, w), an array (h, w), (h, w, c) or (c, h, w), or an image of Pillow's.
        view: what is told.
        seed: of the position image.
        size_hw: of the position image.
        margin: of a side, at its edges, has something else.

    Returns:
        None if nothing can be told: the output is plain, shows nothing of the image, or is not finite.
    """
    found = grid_of(output, view, seed, size_hw, margin)
    if found is None:
        return None
    place, values = found
    fit = _Fit.of(place.levels, place, values)
    if fit is None:
        return None
    explained = fit.explained
    if explained < _WELL:
        explained = max(explained, _explained(place.smooth, place, values))
        mirrored = {name: _explained(place.levels, place, values[axes]) for name, axes in _MIRRORED.items()}
        likeliest = max(mirrored, key=mirrored.__getitem__)
        if mirrored[likeliest] > max(explained + _BY, _WELL):
            return Agreement(explained, f"is mirrored {likeliest} beside what is told", is_sure=True)
    if explained < _EXPLAINED:
        return Agreement(explained, _ELSEWHERE) if fit.is_texture() else None
    if (
        not margin
        and fit.explained < _FAR
        and _further(view, values, _pixels(output).shape[:2], seed, size_hw) > fit.explained + _FAR_BY
    ):
        return Agreement(explained, _ELSEWHERE)
    displaced = fit.displaced()
    return Agreement(explained, f"shows a place {displaced:.1%} of a side beside it" if displaced else None)


def grid_of(
    output: Any, view: View, seed: int, size_hw: tuple[int, int], margin: float = 0.0
) -> tuple[Place, Array] | None:
    """The told place, and the liveliest channel (rows, columns) of its pixels in an output, of deviation 1."""
    pixels = _pixels(output)
    place = Place.of((pixels.shape[0], pixels.shape[1]), view, seed, size_hw, margin)
    if place is None:
        return None
    grid = pixels[np.ix_(place.rows, place.columns)].astype(np.float32)
    spread = grid.std((0, 1))
    channel = int(spread.argmax())
    if not np.isfinite(spread).all() or spread[channel] <= 1e-6 * np.abs(grid).max():
        return None
    return place, grid[..., channel] / spread[channel]


def _further(view: View, values: Array, pixels_hw: tuple[int, int], seed: int, size_hw: tuple[int, int]) -> float:
    """The most that one of some places further from the told one explains."""
    moves = (*_FURTHER, *_fitted(view, pixels_hw, size_hw))
    every = (Place.of(pixels_hw, view.then(View.affine(moved)), seed, size_hw) for moved in moves)
    return max((_explained(place.levels, place, values) for place in every if place is not None), default=0.0)


def _fitted(view: View, pixels_hw: tuple[int, int], size_hw: tuple[int, int]) -> tuple[Matrix, Matrix]:
    """The parts that an untold padding, or an untold crop, to the output's shape would show."""
    (height, width), (shown_height, shown_width) = pixels_hw, view.box.size_hw
    wider = width / height * (shown_height * size_hw[0]) / (shown_width * size_hw[1])
    return (
        ((wider, 0.0, (1 - wider) / 2), (0.0, 1.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.0, 1 / wider, (1 - 1 / wider) / 2)),
    )


def _zoomed(by: float, u: float, v: float, degrees: float = 0.0) -> Matrix:
    """A part of so much of a side, its middle at (u, v), turned."""
    cos, sin = by * math.cos(math.radians(degrees)), by * math.sin(math.radians(degrees))
    return (cos, -sin, u - (cos - sin) / 2), (sin, cos, v - (sin + cos) / 2)


_FURTHER: tuple[Matrix, ...] = (
    *(_zoomed(by, 0.5, 0.5) for by in (0.6, 0.75, 0.88, 1.2)),
    *(_zoomed(by, 0.5 + u, 0.5 + v) for by, u, v in itertools.product((0.75,), (-0.12, 0.12), (-0.12, 0.12))),
    *(_zoomed(1, 0.5 + u, 0.5 + v) for u, v in ((-0.1, 0), (0.1, 0), (0, -0.1), (0, 0.1))),
    *(_zoomed(1, 0.5, 0.5, degrees) for degrees in (-20, -10, -5, 5, 10, 20)),
    ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
)
"""Parts of an output, as matrices: what an untold crop, shift, turn, or change of x and y would show."""

_ELSEWHERE = "shows another place or another image"
_BACK, _ALL = slice(None, None, -1), slice(None)
_MIRRORED = {"left to right": (_ALL, _BACK), "top to bottom": (_BACK, _ALL), "both ways": (_BACK, _BACK)}


def _pixels(output: Any) -> NDArray[Any]:
    """(h, w, c) of an output."""
    is_tensor = isinstance(output, torch.Tensor)
    pixels = output.detach().float().cpu().numpy() if is_tensor else np.asarray(output)
    if pixels.ndim == 2:
        return pixels[..., None]
    is_channels_first = is_tensor or pixels.shape[0] < pixels.shape[2]
    return pixels.transpose(1, 2, 0) if is_channels_first else pixels


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The function of levels that is nearest to what was seen.

    Attributes:
        place: that is told.
        values: (n,) that were seen there.
        kept: (n,) which of them are not erased.
        hats: (n, knots) how near a level is to each knot.
        slopes: (n,) of the function.
        explained: the share of the kept values' variance.
    """

    place: Place
    values: Array
    kept: NDArray[np.bool_]
    hats: Array
    slopes: Array
    explained: float

    @classmethod
    def of(cls, levels: Array, place: Place, grid: Array) -> _Fit | None:
        """None where all is plain."""
        values = grid[place.inside]
        values = values - np.median(values)
        hats, piece, widths = _hats(levels)
        # A tile of one colour is erased, or says nothing.
        kept = _of_tiles(np.square(values - _of_tiles(values, place)), place) > 1e-10
        for _ in range(_ROUNDS):
            if kept.sum() < _FEWEST:
                return None
            heights = solved(hats[kept], values[kept])
            errors = _of_tiles(np.square(values - hats @ heights), place)
            # At least as the median is half of all tiles, so that a picture cannot be erased bit by bit.
            kept = kept & (errors <= _ERASED * np.median(errors[kept]))
        heights = solved(hats[kept], values[kept])
        variance = float(values[kept].var())
        left = float(np.square(values[kept] - hats[kept] @ heights).mean())
        explained = 1 - left / variance if variance > 0 else 0.0
        return cls(place, values, kept, hats, (np.diff(heights) / widths)[piece], explained)

    def is_texture(self) -> bool:
        """Whether what is seen has a structure that is to be explained, more than a plain colour with noise."""
        values, tiles = self.values[self.kept], self.place.tiles[self.kept]
        counts = np.bincount(tiles)
        used = counts > counts.max() / 2
        means = np.bincount(tiles, values)[used] / counts[used]
        squares = np.bincount(tiles, np.square(values))[used] / counts[used]
        noise = np.median(np.sqrt(np.maximum(squares - np.square(means), 0) / counts[used]))
        low, high = np.quantile(means, [0.25, 0.75])
        return bool(high - low > _TEXTURE * max(noise, values.std() / TILES))

    def displaced(self) -> float:
        """How far what is shown is from what is told, root mean square, of a side; 0 where that is not plain."""
        place, kept = self.place, self.kept
        slopes = self.slopes[:, None] * place.slopes
        columns = np.concatenate([self.hats, slopes, slopes * place.u[:, None], slopes * place.v[:, None]], axis=1)
        found = solved(columns[kept], self.values[kept])
        left = float(np.square(self.values[kept] - columns[kept] @ found).mean())
        before = (1 - self.explained) * float(self.values[kept].var())
        shift, by_u, by_v = found[len(_KNOTS) :].reshape(3, 2)
        pixel = np.asarray(place.pixel_uv)
        by_both = min(float(np.abs(shift / pixel).min()), _NEAREST_PX)
        shift = shift - np.sign(shift) * by_both * pixel
        by = shift + place.u[:, None] * by_u + place.v[:, None] * by_v
        distance = float(np.sqrt(np.square(by).sum(1).mean()))
        least = _DISPLACED if place.is_box else _DISPLACED_TURNED
        is_plain = distance > least and distance * place.image_px > _DISPLACED_PX and before - left > _GAIN * left
        return distance if is_plain else 0.0


def foreign_to(place: Place, grid: Array) -> NDArray[np.bool_]:
    """(n,) which of the pixels that show the image its place does not explain, in tiles of such: erased, or pasted."""
    fit = _Fit.of(place.levels, place, grid)
    if fit is None:
        return np.zeros(len(place.levels), np.bool_)
    left = np.square(fit.values - fit.hats @ solved(fit.hats[fit.kept], fit.values[fit.kept]))
    most = _FOREIGN * float(fit.values[fit.kept].var())
    # Also by itself: a tile at the edge of what is pasted has pixels of both.
    return (left > _FOREIGN * most) & (_of_tiles(left, place) > most)


def knotted(levels: Array) -> Array:
    """(n, knots) of n levels: what functions of colours are sums of."""
    return _hats(levels)[0]


def _explained(levels: Array, place: Place, grid: Array) -> float:
    fit = _Fit.of(levels, place, grid)
    return 0.0 if fit is None else fit.explained


def _hats(levels: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Of n levels: how near each is to each knot (n, knots), the piece between two knots, and all pieces' widths."""
    knots = np.quantile(levels, _KNOTS)
    piece = np.clip(np.searchsorted(knots, levels, side="right") - 1, 0, len(knots) - 2)
    widths = np.maximum(np.diff(knots), 1e-6).astype(np.float32)
    part = ((levels - knots[piece]) / widths[piece]).astype(np.float32)
    hats = np.zeros((len(levels), len(knots)), np.float32)
    rows = np.arange(len(levels))
    hats[rows, piece], hats[rows, piece + 1] = 1 - part, part
    return hats, piece, widths


def _of_tiles(values: Array, place: Place) -> Array:
    """(n,) the mean of each one's tile."""
    means = np.bincount(place.tiles, values) / np.maximum(np.bincount(place.tiles), 1)
    return means[place.tiles].astype(np.float32)


def solved(columns: Array, values: Array) -> Array:
    """Least squares, with as little of a ridge as single precision needs."""
    products = (columns.T @ columns).astype(np.float64)
    diagonal = np.diag_indices(len(products))
    products[diagonal] += 1e-4 * products[diagonal] + 1e-9
    return np.linalg.solve(products, (columns.T @ values).astype(np.float64)).astype(np.float32)
