"""Pictures: score maps over their images, and the labels of crops beside what the crops contain. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError, RelabelError
from relabel.geometry import Box
from relabel.paths import expanded
from relabel.score_map import ScoreMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CROP_COLOURS = ("#ff7f0e", "#00b8d4", "#d81b60", "#7cb342")
_LABEL_COLOUR, _TRUTH_COLOUR = "#2b6cb0", "#b9bec6"
_BARS = 10


@dataclass(frozen=True, slots=True, eq=False)
class LabeledCrop:
    """A crop of an image and its soft label, (C,); `truth`, (C,), is what the crop contains, where that is known."""

    box: Box
    label: NDArray[np.floating]
    truth: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImage:
    """A row of a picture: an image uint8 (height, width, 3), its score map (a `ScoreMap` of one image) and crops."""

    title: str
    pixels: NDArray[np.uint8]
    score_map: ScoreMap
    crops: tuple[LabeledCrop, ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise InvalidValueError(
                f"pixels must be uint8 (height, width, 3); got {self.pixels.dtype} {self.pixels.shape}"
            )
        if len(self.score_map) != 1:
            raise InvalidValueError(f"score_map must hold one image's map; got {self.score_map!r}")
        for crop in self.crops:
            shapes = {np.shape(values) for values in (crop.label, crop.truth) if values is not None}
            if shapes != {(self.score_map.num_classes,)}:
                raise InvalidValueError(
                    f"a crop's label and truth must each be ({self.score_map.num_classes},), as the score map has "
                    f"classes; got {', '.join(map(str, sorted(shapes)))}"
                )


def draw_labels(
    images: Sequence[LabeledImage], path: str | Path, class_names: Sequence[str] | None = None, *, planes: int = 3
) -> Path:
    """Draw a row for each image and write a PNG: the image, its heaviest planes, each crop and the crop's label.

    Args:
        images: the rows, from top to bottom.
        path: the PNG to write; its folder is made.
        class_names: C names; None prints the class numbers.
        planes: how many planes to draw, from 1 to K.

    Raises:
        InvalidValueError: no images, no planes, or not a name for every class.
        RelabelError: matplotlib is not installed.
    """
    if not images:
        raise InvalidValueError("a picture needs at least one image; got none")
    classes = max(image.score_map.num_classes for image in images)
    names = class_names or [str(i) for i in range(classes)]
    if planes < 1 or len(names) < classes:
        raise InvalidValueError(
            f"a picture needs planes of at least 1 and a name for each of {classes} classes; "
            f"got planes {planes} and {len(names)} names"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RelabelError("pictures need matplotlib: pip install '.[report]' in the clone") from error
    crops = max(len(image.crops) for image in images)
    planes = min(planes, max(image.score_map.planes.shape[1] for image in images))
    ratios = [1.35, *[1.0] * planes, *[0.8, 1.25] * crops]
    figure = Figure(figsize=(2.45 * sum(ratios), 2.55 * len(images) + 0.8), layout="constrained")
    grid = figure.subplots(len(images), len(ratios), squeeze=False, width_ratios=ratios)
    for row, image in zip(grid, images, strict=True):
        for axes in row:
            axes.set_axis_off()
        _draw_image(row[0], image)
        heat = _draw_planes(row[1 : 1 + planes], image, names)
        for number, crop in enumerate(image.crops):
            first = 1 + planes + 2 * number
            _draw_crop(row[first], image.pixels, crop, _CROP_COLOURS[number % len(_CROP_COLOURS)], number)
            _draw_bars(row[first + 1], crop, names)
    figure.colorbar(
        heat, ax=list(grid[:, 1 : 1 + planes].flat), location="bottom", shrink=0.5, aspect=40, pad=0.01
    ).set_label("the teacher's probability of the class at a cell", fontsize=11)
    _legend(figure, any(crop.truth is not None for image in images for crop in image.crops))
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="png")
    return path


def _draw_image(axes: Axes, image: LabeledImage) -> None:
    from matplotlib.patches import Rectangle

    height, width = image.pixels.shape[:2]
    axes.imshow(image.pixels)
    axes.set_title(image.title, fontsize=12, parse_math=False)
    for number, crop in enumerate(image.crops):
        x0, y0, x1, y1 = crop.box.xyxy
        colour = _CROP_COLOURS[number % len(_CROP_COLOURS)]
        corner, size = (x0 * width - 0.5, y0 * height - 0.5), ((x1 - x0) * width, (y1 - y0) * height)
        # A dark line beneath keeps the coloured one visible on any image.
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=4.5))
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2.5))


def _draw_planes(row: Sequence[Axes], image: LabeledImage, names: Sequence[str]) -> Any:
    height, width = image.pixels.shape[:2]
    maps = image.score_map.decoded()
    x0, y0, x1, y1 = maps.footprints_xyxy()[0].tolist()
    extent = (x0 * width - 0.5, x1 * width - 0.5, y1 * height - 0.5, y0 * height - 0.5)
    shade = image.pixels.mean(axis=2)
    for number, axes in enumerate(row[: maps.planes.shape[1]]):
        axes.imshow(shade, cmap="gray", vmin=0, vmax=255)
        probability = maps.planes[0, number].exp().nan_to_num(0.0).numpy()
        heat = axes.imshow(probability, cmap="inferno", vmin=0, vmax=1, alpha=0.65, extent=extent)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        name = names[int(maps.classes[0, number])]
        axes.set_title(f"plane {number + 1}: “{name}”", fontsize=12, parse_math=False)
    return heat


def _draw_crop(axes: Axes, pixels: NDArray[np.uint8], crop: LabeledCrop, colour: str, number: int) -> None:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = np.array(crop.box.xyxy) * [width, height, width, height]
    axes.set_axis_on()
    axes.imshow(pixels[_pixels(y0, y1, height), _pixels(x0, x1, width)])
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"crop {number + 1}", fontsize=12)
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=3)


def _pixels(start: float, end: float, size: int) -> slice:
    """The pixels of a side of `size` that a crop shows, at least one."""
    first = min(max(0, round(start)), size - 1)
    return slice(first, max(first + 1, round(end)))


def _draw_bars(axes: Axes, crop: LabeledCrop, names: Sequence[str]) -> None:
    """The classes that matter in the label or the truth, in the order of their numbers."""
    truth = np.zeros_like(crop.label) if crop.truth is None else crop.truth
    shown = np.sort(np.argsort(-np.maximum(crop.label, truth), kind="stable")[:_BARS])
    places = np.arange(len(shown))
    axes.set_axis_on()
    if crop.truth is not None:
        axes.bar(places, truth[shown], width=0.9, color=_TRUTH_COLOUR)
    axes.bar(places, crop.label[shown], width=0.45, color=_LABEL_COLOUR)
    axes.set(ylim=(0, 1.05), xlim=(-0.7, len(shown) - 0.3), yticks=[0, 0.5, 1], box_aspect=0.72)
    crowded = max(len(names[i]) for i in shown) > 3
    axes.set_xticks(
        places,
        [names[i] for i in shown],
        rotation=60 if crowded else 0,
        ha="right" if crowded else "center",
        parse_math=False,
    )
    axes.tick_params(labelsize=10, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, has_truth: bool) -> None:
    from matplotlib.patches import Patch

    entries = [Patch(color=_LABEL_COLOUR, label="the crop's label, pooled from the stored map")]
    if has_truth:
        entries.append(Patch(color=_TRUTH_COLOUR, label="what the crop contains"))
    figure.legend(handles=entries, loc="outside lower right", ncols=2, frameon=False, fontsize=12)
