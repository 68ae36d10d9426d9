"""Photographs whose colours say where they are, and what an output of a pipeline shows by them.

Red rises with x and green with y, and blue says which photograph it is. A plane fitted to either colour of an output is
the view, whatever relabel tells. It shares nothing with relabel's own proof, which it is to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import relabel
from relabel.geometry.views import Matrix
from relabel.tickets import Tickets

SIZES_HW = ((300, 400), (400, 300), (333, 500), (500, 333), (224, 448), (448, 224), (256, 256), (360, 360))
_BLUE, _BLUE_STEP = 150, 13
"""Of photograph 0, and from one to the next: padding has less."""
_FLAT = 1e-6
"""An output shows more of a photograph than this share."""
_MARGIN = 0.03
"""Of the photograph: colours at its edge are cut off by sharp resizes."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Photographs in class folders and a store of their labels.

    Attributes:
        photos: the folder.
        keys: of photograph 0, 1, ...
        maps: the store.
        sizes_hw: of each photograph, in pixels.
    """

    photos: Path
    keys: tuple[str, ...]
    maps: relabel.LabelMaps
    sizes_hw: tuple[tuple[int, int], ...] = SIZES_HW

    @classmethod
    def made(cls, folder: Path, sizes_hw: tuple[tuple[int, int], ...] = SIZES_HW) -> Scene:
        """Eight photographs of different shapes."""
        keys = tuple(f"{'ab'[number % 2]}/{number}.png" for number in range(len(sizes_hw)))
        for number, key in enumerate(keys):
            path = folder / "photos" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_photograph(number, sizes_hw[number])).save(path)
        logits = torch.randn(len(keys), 12, 7, 7, generator=torch.Generator().manual_seed(0)) * 3
        maps = relabel.ScoreMap.from_logits(logits, planes=8, profile=3)
        relabel.write(folder / "store", keys, maps, images=str(folder / "photos"))
        return cls(folder / "photos", keys, relabel.open(folder / "store"), sizes_hw)

    def nearest(self, shown: Seen) -> relabel.View:
        """The view that is shown; of a small photograph's crop the one of whole pixels that is nearest."""
        view = relabel.View.affine(shown.matrix)
        height, width = self.sizes_hw[shown.number]
        if max(height, width) > _SMALL:
            return view
        (u, _, x), (_, v, y) = shown.matrix
        (left, right), (top, bottom) = sorted((x, x + u)), sorted((y, y + v))
        edges = round(left * width) / width, round(top * height) / height
        far = round(right * width) / width, round(bottom * height) / height
        return relabel.View(relabel.Box(*edges, *far), flip=u < 0, flip_vertical=v < 0)

    def number_of(self, row: int) -> int:
        """Which photograph a row is of."""
        return self.maps.rows(self.keys).tolist().index(row)


_SMALL = 64
"""The longest side of a photograph whose pixels are told apart by what colours say of places."""


def _photograph(number: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size_hw
    pixels = np.empty((height, width, 3))
    pixels[..., 0] = (np.arange(width) + 0.5) / width * 255
    pixels[..., 1] = (np.arange(height)[:, None] + 0.5) / height * 255
    pixels[..., 2] = _BLUE + _BLUE_STEP * number
    return pixels.round().astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the colours of an output say: of which photograph it is, and where; and the corners of the part that told.

    `corners` is (4, 3): u, v, 1.
    """

    number: int
    matrix: Matrix
    corners: NDArray[np.float64]


def seen(output: Any, mean: float = 0.0, std: float = 1.0) -> Seen | None:
    """What an output shows; None if too little of it shows a photograph.

    Args:
        output: a tensor (3, h, w), an array (h, w, 3), or an image of Pillow's.
        mean, std: that its colours, of 0 to 1, were normalised with.
    """
    colours = _colours(output, mean, std)
    height, width = colours.shape[:2]
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    red, green, blue = np.moveaxis(colours, 2, 0)
    of_photographs = blue[blue > (_BLUE - _BLUE_STEP / 2) / 255]
    if len(of_photographs) < 30:
        return None
    level = float(np.median(of_photographs))
    inside = np.abs(blue - level) < 2.5 / 255
    for colour in (red, green):
        inside &= (colour > _MARGIN) & (colour < 1 - _MARGIN)
    if inside.sum() < 30:
        return None
    places = np.stack([u[inside], v[inside], np.ones(inside.sum())], axis=1)
    x, y = (_plane(places, colour[inside]) for colour in (red, green))
    if abs(x[0] * y[1] - x[1] * y[0]) < _FLAT:
        # Grey: red and green say the same.
        return None
    (left, top), (right, bottom) = places.min(0)[:2], places.max(0)[:2]
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    return Seen(round((level * 255 - _BLUE) / _BLUE_STEP), (x, y), corners)


def _colours(output: Any, mean: float, std: float) -> NDArray[np.float64]:
    pixels = output.detach().cpu().numpy() if isinstance(output, Tensor) else np.asarray(output)
    if pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    return pixels.astype(np.float64) / scale * std + mean


def _plane(places: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Least squares, twice: the second time without what is far from the first."""
    kept = np.ones(len(values), bool)
    for _ in range(2):
        found = np.linalg.lstsq(places[kept], values[kept], rcond=None)[0]
        error = np.abs(values - places @ found)
        kept = error <= max(3 * float(np.median(error[kept])), 1.5 / 255)
    along_u, along_v, at_zero = found.tolist()
    return along_u, along_v, at_zero


@dataclass(frozen=True, slots=True)
class Judged:
    """One output beside its ticket.

    Attributes:
        error: how far the corners of what is shown are told from where they are seen, the most, in fractions of the
            photograph. Of what is shown: far out in the padding a thousandth of a few pixels is many.
        is_mirrored: whether it is mirrored otherwise than told, or of another photograph.
        is_turned: whether the told view turns or shears.
        label: the most by which a pooled ticket differs from the label at the told view.
        seen_label: the most by which it differs from the label at the seen view.
    """

    error: float
    is_mirrored: bool
    is_turned: bool
    label: float
    seen_label: float


def judged(scene: Scene, images: Any, tickets: Any, mean: float = 0.0, std: float = 1.0) -> Iterator[Judged]:
    """Each output of a batch that shows enough to tell."""
    read = Tickets.read(torch.as_tensor(tickets).reshape(-1, 11))
    labels = scene.maps.pool(torch.as_tensor(tickets).reshape(-1, 11))
    for number, image in enumerate(images):
        shown = seen(image, mean, std)
        if shown is None:
            continue
        told = read.views[number : number + 1]
        row = read.rows[number : number + 1]
        matrix = next(iter(told)).as_matrix()
        apart = np.abs((np.array(shown.matrix) - np.array(matrix)) @ shown.corners.T)
        at_seen = relabel.Views.of([scene.nearest(shown)])
        at_told = scene.maps[row].pool(told)
        is_turned = told.matrices is not None and not bool(told.matrices.isnan().any())
        is_other = scene.number_of(int(row)) != shown.number
        signs = [(a[i] > 0) == (b[i] > 0) for a, b, i in zip(matrix, shown.matrix, (0, 1), strict=True)]
        yield Judged(
            error=float(apart.max()),
            is_mirrored=is_other or (not is_turned and not all(signs)),
            is_turned=is_turned,
            label=float((labels[number] - at_told[0]).abs().max()),
            seen_label=float((labels[number] - scene.maps[row].pool(at_seen, uncovered="nearest")[0]).abs().max()),
        )


def pairs(batch: Any) -> tuple[Any, Any]:
    """Images and tickets of a batch or item, with as many of either."""
    images, tickets = (batch["image"], batch["label"]) if isinstance(batch, Mapping) else batch[:2]
    tickets = torch.as_tensor(tickets)
    if tickets.ndim == 1:
        return [images], tickets[None]
    if tickets.ndim == 3:
        # Views before items, as a loader stacks them.
        return [image for view in images for image in view], tickets.transpose(0, 1).reshape(-1, 11)
    return (images, tickets) if isinstance(tickets, Tensor) and len(images) == len(tickets) else ([*images], tickets)
