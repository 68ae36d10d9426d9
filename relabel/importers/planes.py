"""From the lists of each cell to the planes of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relabel.importers.files import Files, load
from relabel.manifest import Orientation
from relabel.store import RowBatch


class Layout(NamedTuple):
    """What a store's maps are: files of this shape, K planes, and how the files have them stored."""

    shape: tuple[int, int, int, int]
    planes: int
    orientation: Orientation
    id_dtype: str

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Of the store's maps, [y, x]."""
        rows, columns = self.shape[2:]
        return (rows, columns) if self.orientation == "yx" else (columns, rows)


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """Maps of some files, small enough to travel between processes.

    Attributes:
        reasons: for each name, why there is no map, "" where there is one or no name.
        places: (n,) which of the names have a map, in any order.
        classes: (n, K) ids, heaviest first; those behind an image's own are listed nowhere in it.
        slots: (n, k, H, W) which plane each score belongs to; K for one that is dropped.
        scores: (n, k, H, W) float16.
        digest: see `LoadedFiles`.
    """

    reasons: list[str]
    places: NDArray[np.intp]
    classes: NDArray[Any]
    slots: NDArray[np.int32]
    scores: NDArray[np.float16]
    digest: int

    def batch(self, index: NDArray[np.intp]) -> tuple[RowBatch, int]:
        """The maps of some of `places` as a store takes them, and how many scores found no plane."""
        planes = self.classes.shape[1]
        slots, values = self.slots[index], self.scores[index]
        count, _, height, width = slots.shape
        # One more for the dropped; it becomes the rest, which is 0: a class that a cell does not list has logit 0.
        scores = np.full((count, planes + 1, height, width), np.nan, np.float16)
        np.put_along_axis(scores, slots, values, axis=1)
        scores[:, planes] = 0
        batch = RowBatch(classes=self.classes[index], scores=scores, profile=np.zeros((count, 1), np.int8))
        return batch, int((slots == planes).sum())


def convert(files: Files, layout: Layout) -> Converted:
    """Read files again, as planes; those of another shape than the store's have no map."""
    loaded = load(files)
    parts, places = [], []
    for kind in list(loaded.maps):
        if kind.shape == layout.shape:
            parts.append(loaded.maps[kind])
            places += loaded.places[kind]
            continue
        for place in loaded.places[kind]:
            loaded.reasons[place] = f"{files.names[place]}: a tensor {kind.shape}, and most have {layout.shape}"
    maps = np.concatenate([np.empty((0, *layout.shape), np.float32), *parts])
    if layout.orientation == "xy":
        maps = np.ascontiguousarray(maps.swapaxes(3, 4))
    scores, ids = maps[:, 0], maps[:, 1].astype(np.int64)
    ranked = np.argsort(-class_weights(scores, ids, files.num_classes), axis=1, kind="stable")
    slots = np.empty(ranked.shape, np.int32)
    np.put_along_axis(slots, ranked, np.arange(files.num_classes, dtype=np.int32)[None], axis=1)
    own = np.take_along_axis(slots[:, :, None, None], ids, axis=1)
    return Converted(
        reasons=loaded.reasons,
        places=np.array(places, np.intp),
        classes=ranked[:, : layout.planes].astype(layout.id_dtype),
        slots=np.minimum(own, layout.planes),
        scores=scores.astype(np.float16),
        digest=loaded.digest,
    )


def class_weights(scores: NDArray[np.float32], ids: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """(n, C): a class's probabilities among those that its cells list, summed over the cells of (n, k, H, W).

    No constant added to a cell matters. Below 0, by falling id, for classes that no cell lists.
    """
    powers = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    shares = powers / powers.sum(axis=1, keepdims=True)
    count = len(scores)
    flat = (np.arange(count)[:, None, None, None] * num_classes + ids).reshape(-1)
    size = count * num_classes
    weights = np.bincount(flat, shares.reshape(-1), size).reshape(count, num_classes)
    listed = np.bincount(flat, minlength=size).reshape(count, num_classes) > 0
    absent: NDArray[np.float64] = np.where(listed, weights, -1.0 - np.arange(num_classes))
    return absent
