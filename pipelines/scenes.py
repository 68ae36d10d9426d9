"""Scenes whose content is known: real handwritten digits, placed by us on canvases of many shapes.

The digits are scikit-learn's 1,797 scans of 8 x 8 grey levels, which come with the package. A scene holds several of
them; its one label is the class of the largest, as an ImageNet picture has one label whatever else it shows. Because
every digit was placed here, what any crop of a scene really contains is known: see `content`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUM_CLASSES = 10
SIZES_HW = ((192, 256), (256, 192), (144, 256), (256, 144), (160, 240), (240, 160))
"""4:3, 3:4, 16:9, 9:16, 3:2 and 2:3, in pixels, height first; none is square."""

_OVERLAP = 0.05  # of the smaller box: corners may touch, strokes hardly do
_CONTRAST = 90.0  # of 255, between ink and background, so that every digit can be read
_TRIES = 40  # to place a digit; then the scene does with fewer


@dataclass(frozen=True, slots=True)
class Scans:
    """Handwritten digits: `ink` float32 (N, 8, 8) in [0, 1], their classes and their numbers among all, int64 (N,)."""

    ink: NDArray[np.float32]
    classes: NDArray[np.int64]
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    def split(self, count: int, *, seed: int) -> tuple[Scans, Scans]:
        """Two parts without a common scan, `count` in the first, drawn at random."""
        order = np.random.default_rng(seed).permutation(len(self))
        first, second = np.sort(order[:count]), np.sort(order[count:])
        return self._some(first), self._some(second)

    def _some(self, indices: NDArray[np.int64]) -> Scans:
        return Scans(self.ink[indices], self.classes[indices], self.numbers[indices])


@dataclass(frozen=True, slots=True)
class Digit:
    """A placed digit: its class, its scan's number, and the box of its ink, xyxy in fractions of the scene."""

    label: int
    scan: int
    box_xyxy: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """The box's area, a fraction of the scene."""
        x0, y0, x1, y1 = self.box_xyxy
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, uint8 (height, width, 3), and the digits on it; `key` names it."""

    key: str
    pixels: NDArray[np.uint8]
    digits: tuple[Digit, ...]

    @property
    def label(self) -> int:
        """The class of the largest digit: all that the teacher's training is told of this scene."""
        return max(self.digits, key=lambda digit: digit.area).label

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class Layout:
    """How scenes are filled: how many digits, and their heights in fractions of the scene's shorter side; (low, high).

    One digit has its height from `largest`, the others from `others`.
    """

    count: tuple[int, int]
    largest: tuple[float, float]
    others: tuple[float, float]


TAUGHT = Layout(count=(1, 2), largest=(0.5, 0.85), others=(0.25, 0.5))
"""What a teacher learns from: mostly one thing, photographed from near."""
LABELED = Layout(count=(2, 5), largest=(0.4, 0.6), others=(0.25, 0.45))
"""What is labeled: several things of different size."""


def load_scans() -> Scans:
    """All 1,797 scans of scikit-learn's ``load_digits``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    classes = digits.target.astype(np.int64)
    return Scans((digits.images / 16).astype(np.float32), classes, np.arange(len(classes)))


def compose(scans: Scans, count: int, layout: Layout, *, seed: int, prefix: str) -> list[Scene]:
    """`count` scenes, keyed by `prefix` and a number; the same arguments give the same scenes."""
    streams = np.random.default_rng(seed).spawn(count)
    return [_scene(scans, layout, f"{prefix}{i:05d}", stream) for i, stream in enumerate(streams)]


def write_tars(scenes: Sequence[Scene], folder: Path, tars: int) -> str:
    """Write scenes as webdataset tars of ``.jpg``, ``.cls`` (the one label) and ``.json`` (the digits).

    Returns:
        The tars' brace pattern.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("train-*.tar"):
        stale.unlink()
    for number, part in enumerate(np.array_split(np.arange(len(scenes)), tars)):
        with tarfile.open(folder / f"train-{number:03d}.tar", "w") as tar:
            for index in part:
                for suffix, data in _members(scenes[index]).items():
                    info = tarfile.TarInfo(f"{scenes[index].key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / f"train-{{000..{tars - 1:03d}}}.tar")


def content(scenes: Sequence[Scene], crops_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """What crops truly contain: (N, 10), each class's share of the digits' box area inside the crop.

    Args:
        scenes: the N scenes that are cropped, one a crop.
        crops_xyxy: (N, 4) xyxy, fractions of the scene.

    Returns:
        Rows that sum to 1, or to 0 where no digit lies inside the crop.
    """
    owner = np.repeat(np.arange(len(scenes)), [len(scene.digits) for scene in scenes])
    boxes = np.array([digit.box_xyxy for scene in scenes for digit in scene.digits]).reshape(-1, 4)
    labels = np.array([digit.label for scene in scenes for digit in scene.digits], np.int64)
    crops = np.asarray(crops_xyxy, np.float64)[owner]
    extent = np.minimum(boxes[:, 2:], crops[:, 2:]) - np.maximum(boxes[:, :2], crops[:, :2])
    areas = np.zeros((len(scenes), NUM_CLASSES))
    np.add.at(areas, (owner, labels), extent.clip(min=0).prod(axis=1))
    total = areas.sum(axis=1, keepdims=True)
    np.divide(areas, total, out=areas, where=total > 0)
    return areas


def _members(scene: Scene) -> dict[str, bytes]:
    picture = io.BytesIO()
    Image.fromarray(scene.pixels).save(picture, "JPEG", quality=90)
    digits = [{"class": d.label, "scan": d.scan, "box_xyxy": d.box_xyxy} for d in scene.digits]
    return {"jpg": picture.getvalue(), "cls": str(scene.label).encode(), "json": json.dumps(digits).encode()}


def _scene(scans: Scans, layout: Layout, key: str, random: np.random.Generator) -> Scene:
    size_hw = SIZES_HW[random.integers(len(SIZES_HW))]
    canvas = _background(size_hw, random)
    digits: list[Digit] = []
    wanted = int(random.integers(layout.count[0], layout.count[1] + 1))
    others = np.sort(random.uniform(*layout.others, wanted - 1))[::-1]
    # Large ones first, since they find no room later; the rest go where they overlap little.
    for fraction in (random.uniform(*layout.largest), *others):
        side = round(float(fraction) * min(size_hw))
        index = int(random.integers(len(scans)))
        ink = _stroke(scans.ink[index], side, random)
        place = _place(ink, size_hw, digits, random)
        if place is None:
            continue
        top, left, box = place
        _blend(canvas[top : top + ink.shape[0], left : left + ink.shape[1]], ink, random)
        digits.append(Digit(int(scans.classes[index]), int(scans.numbers[index]), box))
    if len(digits) < layout.count[0]:
        # A crowded start; the stream goes on, so the next try is another scene.
        return _scene(scans, layout, key, random)
    return Scene(key, canvas.clip(0, 255).astype(np.uint8), tuple(digits))


def _background(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32]:
    """Soft colour fields at two scales, crossed by faint strokes, in grain; darker than the ink."""
    # Everything but the grain is smooth, so a quarter of the resolution is enough for it.
    small_hw = (size_hw[0] // 4, size_hw[1] // 4)
    small = np.zeros((*small_hw, 3), np.float32)
    for cells, low, high in ((3, 10, 110), (12, -20, 20)):
        for channel in range(3):
            small[..., channel] += _resized(random.uniform(low, high, (cells, cells)), small_hw)
    rows, columns = np.mgrid[: small_hw[0], : small_hw[1]].astype(np.float32)
    for _ in range(int(random.integers(2, 6))):
        angle, y, x = random.uniform(0, np.pi), random.uniform(0, small_hw[0]), random.uniform(0, small_hw[1])
        distance = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        near = np.exp(-((distance / random.uniform(0.7, 3)) ** 2))
        small += near[..., None] * random.uniform(-35, 35, 3)
    grain = 6 * random.standard_normal(size_hw, np.float32)
    return np.stack([_resized(small[..., channel], size_hw) + grain for channel in range(3)], axis=2)


def _stroke(scan: NDArray[np.float32], side: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A scan's ink, (height, width) in [0, 1], about `side` pixels high, slightly turned and stretched."""
    width = max(12, round(side * random.uniform(0.8, 1.2)))
    # A margin, so that a turned digit keeps its corners.
    image = Image.fromarray(np.pad(scan, 2)).resize((width * 12 // 8, side * 12 // 8), Image.Resampling.BICUBIC)
    turned = np.asarray(image.rotate(float(random.uniform(-12, 12)), Image.Resampling.BILINEAR))
    ink = ((turned - 0.35) / 0.3).clip(0, 1)
    visible = ink > 0.5
    inside = np.ix_(*(_span(np.asarray(visible.any(axis))) for axis in (1, 0)))
    trimmed: NDArray[np.float32] = ink[inside].astype(np.float32)
    return trimmed


def _span(used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Every index from the first used one to the last."""
    indices = np.flatnonzero(used)
    return np.arange(indices[0], indices[-1] + 1)


def _place(
    ink: NDArray[np.float32], size_hw: tuple[int, int], digits: Sequence[Digit], random: np.random.Generator
) -> tuple[int, int, tuple[float, float, float, float]] | None:
    """A place where the ink overlaps no other digit by more than a little: (top, left, box), or None."""
    (height, width), (ink_height, ink_width) = size_hw, ink.shape
    if ink_height > height or ink_width > width:
        return None
    for _ in range(_TRIES):
        top, left = int(random.integers(height - ink_height + 1)), int(random.integers(width - ink_width + 1))
        box = (left / width, top / height, (left + ink_width) / width, (top + ink_height) / height)
        if all(_overlap(box, digit.box_xyxy) <= _OVERLAP for digit in digits):
            return top, left, box
    return None


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The shared area of two boxes, as a fraction of the smaller."""
    a, b = np.array(one), np.array(other)
    shared = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(min=0).prod()
    return float(shared / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))


def _blend(patch: NDArray[np.float32], ink: NDArray[np.float32], random: np.random.Generator) -> None:
    """Write the ink onto a patch of the canvas, in a colour that is brighter than it."""
    brightness = float(patch.mean())
    colour = random.uniform(120, 255, 3)
    while float(colour.mean()) - brightness < _CONTRAST:
        colour = random.uniform(120, 255, 3)
    patch += ink[..., None] * (colour.astype(np.float32) - patch)


def _resized(field: NDArray[np.floating], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(field.astype(np.float32)).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)
