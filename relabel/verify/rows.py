"""The promises that the rows of a shard make besides their score maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.manifest import Fit
from relabel.store import FAILED, LABELED, NO_IMAGE
from relabel.store.layout import ArraySpec
from relabel.verify.content import any_cell, rows_of

Columns = Mapping[str, NDArray[Any]]
"""The row arrays of a shard by name, (R, *tail), strings as objects; a damaged one is left out."""

_ROUNDING = 1e-5
_ORIENTATIONS = 8
_OF_A_MAP = ("classes", "profile", "checksum", "footprint")
_OF_AN_IMAGE = ("image_hash", "label", "size_hw", "orientation")


def row_findings(columns: Columns, specs: Mapping[str, ArraySpec], fit: Fit | None) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) for every broken promise; arrays that are not there are not looked at."""
    status = columns.get("status")
    if status is None:
        return
    for row in rows_of(status > FAILED):
        yield row, f"status {status[row]} is none of 0, 1, 2"
    used = status != NO_IMAGE
    for row in rows_of(used != (np.arange(len(used)) < used.sum())):
        yield row, "rows with an image must come first, and this one breaks the order"
    if "key" in columns:
        for row in rows_of((columns["key"] != "") != used):
            yield row, "a row has a key if and only if it holds an image"
    if "error" in columns:
        for row in rows_of((columns["error"] != "") != (status == FAILED)):
            yield row, "a row has an error if and only if its status is 2 (failed)"
    if "label" in columns:
        # A ground truth may be of other classes than the teacher's, so it has no upper end.
        for row in rows_of(columns["label"] < -1):
            yield row, f"label {columns['label'][row]} is neither a class nor -1 (unknown)"
    if "size_hw" in columns and "orientation" in columns:
        yield from _frame_findings(columns["size_hw"], columns["orientation"])
    if "footprint" in columns:
        yield from _footprint_findings(columns["footprint"], status == LABELED, fit)
    for names, empty, why in (
        (_OF_A_MAP, status != LABELED, "no score map"),
        (_OF_AN_IMAGE, status == NO_IMAGE, "no image"),
    ):
        for name in names:
            if name in columns:
                for row in rows_of(empty & ~_is_fill(columns[name], specs[name].fill)):
                    yield row, f"a row with {why} must have the fill value {specs[name].fill} in {name}"


def _frame_findings(sizes_hw: NDArray[Any], orientations: NDArray[Any]) -> Iterator[tuple[int, str]]:
    """Both of an image are known, or neither, which is 0: a box of either frame finds its place by both together."""
    for row in rows_of(orientations > _ORIENTATIONS):
        yield row, f"orientation {orientations[row]} is none of EXIF's 1 to {_ORIENTATIONS}, nor 0 (not known)"
    is_known = sizes_hw > 0
    for row in rows_of(is_known[:, 0] != is_known[:, 1]):
        yield row, f"size {tuple(sizes_hw[row].tolist())} is neither (height, width) in pixels nor (0, 0), not known"
    for row in rows_of(is_known.any(axis=1) != (orientations > 0)):
        yield row, "a row has its image's size if and only if it has its orientation"


def contradicts(boxes: NDArray[Any], fit: Fit) -> NDArray[np.bool_]:
    """(n,) whether footprints (n, 4) cannot be those of a fit: a crop lies in its image, a letterbox holds it whole."""
    start, end = boxes[:, :2], boxes[:, 2:]
    if fit == "center":
        wrong = (start < -_ROUNDING) | (end > 1 + _ROUNDING)
    elif fit == "letterbox":
        wrong = (start > _ROUNDING) | (end < 1 - _ROUNDING)
    else:
        wrong = (start != 0) | (end != 1)
    return any_cell(wrong)


def _footprint_findings(boxes: NDArray[Any], labeled: NDArray[np.bool_], fit: Fit | None) -> Iterator[tuple[int, str]]:
    x0, y0, x1, y1 = boxes.T
    # Comparisons with NaN are false, so this is the sound case and its opposite the findings.
    sound = (x0 < x1) & (y0 < y1) & (x0 < 1) & (y0 < 1) & (x1 > 0) & (y1 > 0) & np.isfinite(boxes).all(axis=1)
    for row in rows_of(labeled & ~sound):
        yield row, f"its footprint {boxes[row].tolist()} is no box (x0, y0, x1, y1) that overlaps the image"
    # A whole footprint in each row would do no harm, and the manifest's record is looked at as such.
    if fit not in (None, "squash"):
        for row in rows_of(labeled & sound & contradicts(boxes, fit)):
            yield row, f"its footprint {boxes[row].tolist()} is none of an image that was fitted by {fit!r}"


def _is_fill(column: NDArray[Any], fill: float | str) -> NDArray[np.bool_]:
    same = np.isnan(column) if fill != fill else column == fill
    filled: NDArray[np.bool_] = same.reshape(len(column), -1).all(axis=1)
    return filled
