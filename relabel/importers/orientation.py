"""Whether an archive's maps are stored [y, x] or [x, y]: told by boxes around the objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.errors import ImageError, InvalidValueError, SourceError
from relabel.geometry import Box, Footprint, Grid, cell_boxes
from relabel.images import EncodedImage, ImageSource, size_hw
from relabel.importers.archive import Names, Rows
from relabel.importers.boxes import Boxed, read_boxes
from relabel.importers.files import Files, load
from relabel.importers.options import Evidence, ImportOptions
from relabel.importers.planes import shares
from relabel.manifest import Orientation

SAMPLE = 500
"""Images that are looked at."""
_CLEAR = 4.0
"""Standard deviations that the votes must lie from a draw: chance alone reaches it once in 16,000 archives."""
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class _Object:
    """The boxes of an image's ground truth class, and the part of the image that its map covers."""

    name: str
    label: int
    boxes: Sequence[Box]
    footprint: Footprint


def found_orientation(
    rows: Rows, source: ImageSource | None, options: ImportOptions
) -> tuple[Orientation, Evidence | None]:
    """The orientation that was given, or else the one that the boxes tell, and what they say.

    In up to 500 images the share of the ground truth class (its probability among the classes that a cell lists) is
    compared inside and outside its boxes, for the map as it is and transposed. Each image votes for the way that sets
    the inside further apart from the outside.

    Raises:
        InvalidValueError: the votes are too few or too even to tell, or the boxes fit neither way; says what was found.
    """
    if options.orientation != "auto" or options.boxes is None:
        return ("xy" if options.orientation == "xy" else "yx"), None
    objects = list(itertools.islice(_objects(rows, source, read_boxes(options.boxes), options), SAMPLE))
    found = evidence(objects, rows.archive.folder, options.num_classes)
    yx, xy = found.better
    winner = 0 if yx > xy else 1
    margin = abs(yx - xy) / math.sqrt(max(yx + xy, 1))
    if margin < _CLEAR or found.inside[winner] <= found.outside[winner]:
        raise InvalidValueError(
            f"the boxes do not tell how the maps are stored: of {len(objects)} images with a box, a class and a map, "
            f"{yx} speak for [y, x] and {xy} for [x, y] (share of the ground truth inside and outside its boxes: "
            f"{_pair(found, 0)} and {_pair(found, 1)}). Give boxes of more images, of objects away from the diagonal, "
            "check that class is the teacher's number, or say --orientation yx or xy"
        )
    return ("yx", "xy")[winner], found


def _pair(found: Evidence, way: int) -> str:
    return f"{found.inside[way]:.3f}/{found.outside[way]:.3f}"


def evidence(objects: Sequence[_Object], folder: str, num_classes: int) -> Evidence:
    """The votes of the objects' images; those whose map says the same both ways have none."""
    loaded = load(Files(folder, [item.name for item in objects], num_classes))
    measured = []
    for kind, maps in loaded.maps.items():
        for place, one in zip(loaded.places[kind], maps, strict=True):
            item = objects[place]
            share = (shares(one[None, 0])[0] * (one[1] == item.label)).sum(axis=0)
            ways = [_inside_outside(share, item), _inside_outside(share.T, item)]
            if None not in ways:
                measured.append(ways)
    values = np.array(measured, np.float64).reshape(-1, 2, 2)
    contrast = values[:, :, 0] - values[:, :, 1]
    difference = contrast[:, 0] - contrast[:, 1]
    votes = int((difference > _EQUAL).sum()), int((difference < -_EQUAL).sum())
    means = values[np.abs(difference) > _EQUAL].mean(axis=0) if any(votes) else np.zeros((2, 2))
    inside, outside = means.T.tolist()
    return Evidence(images=len(values), inside=tuple(inside), outside=tuple(outside), better=votes)


def _inside_outside(share: NDArray[np.float64], item: _Object) -> tuple[float, float] | None:
    """The mean of a map inside and outside the boxes; None where one of them is empty."""
    grid = Grid(*share.shape)
    inside = np.zeros(share.shape)
    footprint = torch.tensor(item.footprint.xyxy, dtype=torch.float64)
    boxes = torch.tensor([box.xyxy for box in item.boxes], dtype=torch.float64)
    for x0, y0, x1, y1 in cell_boxes(boxes, footprint, grid).tolist():
        inside = np.maximum(inside, np.outer(_overlap(y0, y1, grid.height), _overlap(x0, x1, grid.width)))
    outside = 1 - inside
    if inside.sum() < _EQUAL or outside.sum() < _EQUAL:
        return None
    return float((share * inside).sum() / inside.sum()), float((share * outside).sum() / outside.sum())


def _overlap(start: float, end: float, cells: int) -> NDArray[np.float64]:
    """How much of each cell lies between two places on an axis."""
    edges = np.arange(cells)
    covered: NDArray[np.float64] = np.clip(np.minimum(end, edges + 1) - np.maximum(start, edges), 0, 1)
    return covered


def _objects(
    rows: Rows, source: ImageSource | None, boxes: dict[str, Boxed], options: ImportOptions
) -> Iterator[_Object]:
    """Images with a box, a class and a map, spread over the rows; an image is read where the table says too little."""
    names = Names(rows.archive)
    by_map = {number: item for stem, item in boxes.items() if (number := names.find(stem)) >= 0}
    boxed = {row: by_map[int(rows.maps[row])] for row in range(len(rows.keys)) if int(rows.maps[row]) in by_map}
    boxed = {row: item for row, item in boxed.items() if rows.name(row)}
    needs_size = options.whose_footprint == "center"
    if all(item.label >= 0 and (item.size_hw or not needs_size) for item in boxed.values()):
        images: Iterator[tuple[int, EncodedImage | None]] = ((row, None) for row in _spread(list(boxed)))
    elif source is not None:
        images = _images(rows, source, list(boxed))
    else:
        raise InvalidValueError(
            "the boxes do not say every object's class: add a column class, or give --images, whose folders say it"
        )
    for row, image in images:
        item, size = boxed[row], boxed[row].size_hw
        label = item.label if item.label >= 0 or image is None else image.label
        if needs_size and size is None and image is not None:
            try:
                size = size_hw(image.data)
            except ImageError:
                continue
        if 0 <= label < options.num_classes:
            footprint = Footprint.center_square(size) if needs_size and size else Footprint()
            yield _Object(rows.name(row), label, item.boxes, footprint)


def _spread(candidates: list[int]) -> list[int]:
    places = np.linspace(0, len(candidates) - 1, min(SAMPLE, len(candidates))).astype(np.int64)
    return [candidates[place] for place in places.tolist()]


def _images(rows: Rows, source: ImageSource, candidates: list[int]) -> Iterator[tuple[int, EncodedImage]]:
    """Some of the images: spread over a folder, or the first of tars, which are read from their start."""
    if source.kind == "folder":
        for row in _spread(candidates):
            for image in source.read(".", row, 1):
                yield row, image
        return
    wanted = frozenset(candidates)
    for task in rows.tasks:
        first = rows.first(task)
        if any(row in wanted for row in range(first, first + task.count)):
            for row, image in enumerate(source.read(task.source, 0, task.count), first):
                if row < first + task.count and image.key != rows.keys[row]:
                    raise SourceError(f"{task.source} changed during the run: {image.key!r} is not what was listed")
                if row in wanted:
                    yield row, image
