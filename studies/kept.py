"""What may be kept of a teacher's logits, what it says of a crop, and the bytes it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from bench import published
from bench import store_making as stores
from relabel import ScoreMap
from relabel.score_map import STEP
from relabel.store import RowBatch, codecs, create_or_open

Pooler = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""From boxes (B, 4) to labels (B, C), and the same labels of the scores before they were coded, if they were."""
_INDEX_BYTES = 16
_ROW_ARRAYS = ("key", "image_hash", "label", "error", "status")


class Kept(Protocol):
    """One way to keep a map."""

    name: str

    def take(self, logits: Tensor) -> Pooler:
        """Keep the maps of logits (B, C, H, W), and pool from what was kept."""

    def bytes_an_image(self, folder: Path) -> float:
        """The bytes that an image taken so far takes on the disk, its share of every row array included."""


class Planes:
    """K planes, the rest and a profile of M in codes of a step: a store of one shard, whose files are measured."""

    def __init__(self, planes: int, profile: int, step: float = STEP) -> None:
        self.name = f"{planes} planes + rest" + (f" + profile of {profile}" if profile else "")
        self._planes, self._profile, self._step = planes, profile, step
        self._taken: list[RowBatch] = []
        self._like: ScoreMap | None = None

    def take(self, logits: Tensor) -> Pooler:
        """See `Kept`."""
        exact = ScoreMap.from_logits(logits, self._planes, self._profile)
        coded = exact.coded(self._step)
        self._taken.append(stores.rows_of(coded))
        self._like = coded
        return lambda boxes: (coded.pool(boxes), exact.pool(boxes))

    def bytes_an_image(self, folder: Path) -> float:
        """All shard files of the store over its rows; the metadata, once a store, is left out."""
        if self._like is None:
            raise ValueError("nothing was kept yet")
        count = sum(len(rows) for rows in self._taken)
        path = folder / f"{self._planes}-{self._profile}.zarr"
        manifest = stores.manifest_of(self._like, 1, count)
        writer = create_or_open(path, replace(manifest, scores=replace(manifest.scores, step=self._step)))
        with writer.claim(0) as shard:
            first = 0
            for rows in self._taken:
                shard.add(torch.arange(first, first + len(rows)).numpy(), rows)
                first += len(rows)
            shard.publish(stores.table_of(stores.keys_of(0, count)))
        sizes = stores.size_by_array(path)
        return sum(size for name, size in sizes.items() if name != "zarr.json") / count


class PublishedCells:
    """The top k of each cell in a file an image, float16, every other logit 0: as TokenLabeling publishes them."""

    def __init__(self, folder: Path, top: int = published.TOP) -> None:
        self.name = f"cell top-{top}, others logit 0, published"
        self._file, self._top = folder / "published.pt", top
        self._bytes = self._count = 0

    def take(self, logits: Tensor) -> Pooler:
        """See `Kept`."""
        values, classes = published.cell_top(logits, self._top)
        for one, ids in zip(values, classes, strict=True):
            published.save_token_labeling(self._file, one, ids)
            self._bytes += self._file.stat().st_size
            self._count += 1
        maps = published.dense(values.half().float(), classes, logits.shape[1])
        return lambda boxes: (published.labels(maps, boxes)[:, :, 0, 0], None)

    def bytes_an_image(self, folder: Path) -> float:
        """The mean size of the files."""
        return self._bytes / self._count


class FilledCells:
    """The same classes as log-probabilities and, for all others, the best one fill: their mean log-probability.

    Coded and compressed as the store's planes are: uint16 ids; uint8 codes of the k scores and the fill.
    """

    def __init__(self, top: int = published.TOP, step: float = STEP) -> None:
        self.name = f"cell top-{top}, others their mean"
        self._top, self._step = top, step
        self._bytes = self._count = 0

    def take(self, logits: Tensor) -> Pooler:
        """See `Kept`."""
        scores = logits.log_softmax(dim=1)
        values, classes = published.cell_top(scores, self._top)
        others = logits.shape[1] - values.shape[1]
        fill = (scores.sum(1) - values.sum(1)) / max(others, 1)
        codes = (torch.cat([values, fill[:, None]], dim=1) / -self._step).round().clamp(0, 254).to(torch.uint8)
        for one, ids in zip(codes.numpy(), classes.numpy().astype("<u2"), strict=True):
            self._bytes += sum(len(codecs.zstd_compress()(array.tobytes())) for array in (one, ids))
            self._count += 1
        stored = codes.float() * -self._step
        coded = published.dense(stored[:, :-1], classes, logits.shape[1], stored[:, -1])
        exact = published.dense(values, classes, logits.shape[1], fill)
        return lambda boxes: tuple(published.labels(maps, boxes)[:, :, 0, 0] for maps in (coded, exact))  # type: ignore[return-value]

    def bytes_an_image(self, folder: Path) -> float:
        """Both chunks and their index entries, and the row arrays of the stores beside it."""
        beside = next(folder.glob("*.zarr"), None)
        sizes = stores.size_by_array(beside) if beside is not None else {}
        arrays = sum(sizes.get(name, 0) for name in _ROW_ARRAYS)
        return (self._bytes + arrays) / self._count + 2 * _INDEX_BYTES
