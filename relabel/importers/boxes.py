"""Boxes around objects, from a table of a user's."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.importers.archive import published_stem

_CORNERS = ("x0", "y0", "x1", "y1")
_SLACK = 0.01
"""Of a fraction: annotations may reach a pixel over the border."""


@dataclass(slots=True)
class Boxed:
    """An image's boxes, fractions of the whole image; its class, -1 where the table does not say; its size."""

    label: int = -1
    size_hw: tuple[int, int] | None = None
    boxes: list[Box] = field(default_factory=list)


def read_boxes(path: Path) -> dict[str, Boxed]:
    """Boxes by the published name of their image's map (`published_stem`).

    A CSV or tab-separated file with a header: ``key`` (the image's path, with or without extension), ``x0``, ``y0``,
    ``x1``, ``y1``, and if wanted ``class`` (the number of the object's class) and ``width`` and ``height``. The corners
    are fractions of the whole image; with width and height, the image's size in pixels, they are pixels. An image may
    have several lines; of several classes, the first counts.

    Raises:
        InvalidValueError: a column is missing, or a line means nothing; says which.
        OSError: it cannot be read.
    """
    found: dict[str, Boxed] = {}
    for number, line in _lines(path):
        try:
            _take(line, found)
        except (ValueError, TypeError, AttributeError) as error:
            # Cells that a short line lacks are None.
            raise InvalidValueError(f"line {number} of {path}: {error}") from error
    if not found:
        raise InvalidValueError(f"{path} holds no boxes")
    return found


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            separator = "\t" if "\t" in header else ","
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
            missing = [name for name in ("key", *_CORNERS) if name not in names]
            if missing or ("width" in names) != ("height" in names):
                raise InvalidValueError(
                    f"{path} needs a header with key, x0, y0, x1, y1 (fractions of the image; pixels where width and "
                    f"height stand there too) and perhaps class; it has {', '.join(map(repr, names)) or 'none'}"
                )
            for line in (reader := csv.DictReader(file, names, delimiter=separator)):
                yield reader.line_num + 1, line
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidValueError(f"{path} is no CSV or tab-separated text: {error}") from error


def _take(line: Mapping[str, str], found: dict[str, Boxed]) -> None:
    corners = [float(line[name]) for name in _CORNERS]
    size_hw = None
    if "width" in line:
        size_hw = int(line["height"]), int(line["width"])
        if min(size_hw) < 1:
            raise ValueError(f"width and height must be above 0; got {size_hw[1]} and {size_hw[0]}")
        corners = [corner / side for corner, side in zip(corners, (size_hw[1], size_hw[0]) * 2, strict=True)]
    if not all(math.isfinite(corner) and -_SLACK <= corner <= 1 + _SLACK for corner in corners):
        raise ValueError(
            f"the box lies outside its image, (0, 0, 1, 1): {corners}. Give pixels with columns width and height"
        )
    boxed = found.setdefault(published_stem(line["key"].strip()), Boxed())
    boxed.boxes.append(Box(*corners))
    boxed.size_hw = boxed.size_hw or size_hw
    if line.get("class") and boxed.label < 0:
        boxed.label = int(line["class"])
