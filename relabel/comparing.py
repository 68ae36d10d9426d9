"""Two stores held against each other: do they label the same images, and alike?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.findings import class_text
from relabel.geometry import WHOLE
from relabel.geometry.frames import undoing
from relabel.progress import Progress
from relabel.score_map import ScoreMap
from relabel.store import LABELED, NO_IMAGE, RowBatch, RowTable, StoreReader
from relabel.store.keys import KeyIndex

_TOGETHER = 256
"""Rows whose labels are compared at a time: dense labels of both are a few megabytes."""
_SHOWN = 8
_ROUNDING_NATS = 1e-2
"""KL between two labels that differ by rounding: of a map where every code is off by one it is a few thousandths."""
_LEAST = 1e-38
_FOOTPRINT = 1e-5
"""Fractions of an image: footprints are kept as float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlike:
    """Images of which something differs: how many, and the keys of the first of them."""

    count: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDiff:
    """What `diff` found of two stores, called the first and the second.

    Attributes:
        differences: of the manifests, a line each, but for which images there are and how they are cut.
        images: of the first and of the second, as far as their shards are published.
        unpublished: shards of each that are not; stores that are not finished are not alike.
        only_first, only_second: keys that the other lacks.
        other_bytes: images of the same key whose encoded bytes are others; where both stores know them.
        other_status: images that one store could label and the other could not.
        other_truth: images of another ground truth class.
        other_footprint: images whose maps cover another part.
        compared: images that both have labelled.
        equal: of them, how many have the same maps, byte for byte.
        apart_mean, apart_largest: nats between scores that both store at a cell; NaN where none can be compared.
        kl_mean, kl_largest: nats, KL of the second's label of the whole image from the first's; NaN likewise.
        agreement: how often both labels name the same class.
        step: nats of the coarser coding; scores that are no further apart differ by rounding.
        seconds: all that it took.
    """

    differences: tuple[str, ...]
    images: tuple[int, int]
    unpublished: tuple[int, int]
    only_first: Unlike
    only_second: Unlike
    other_bytes: Unlike
    other_status: Unlike
    other_truth: Unlike
    other_footprint: Unlike
    compared: int
    equal: int
    apart_mean: float
    apart_largest: float
    kl_mean: float
    kl_largest: float
    agreement: float
    step: float
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether they label the same images with the same bytes."""
        return self._are_of_one and self.equal == self.compared

    @property
    def is_alike(self) -> bool:
        """Whether they label the same images, and differ by no more than rounding."""
        close = self.apart_largest <= self.step and self.kl_largest <= _ROUNDING_NATS
        return self._are_of_one and (self.equal == self.compared or close)

    @property
    def _are_of_one(self) -> bool:
        others = (self.only_first, self.only_second, self.other_bytes, self.other_status, self.other_truth)
        is_other = self.differences or any(found.count for found in (*others, self.other_footprint))
        return not is_other and self.unpublished == (0, 0)


def diff(first: str | Path, second: str | Path, *, show_progress: bool = True) -> StoreDiff:
    """Hold two stores against each other, image by image: keys, bytes, truths, maps, and the labels that they give.

    How images are cut into shards, and in which order they stand, makes no difference. Stores of other grids, K, M or
    coding are compared by the labels of whole images; of other numbers of classes, by their images alone. Shards that
    are not published are left out.

    Args:
        first, second: folders or URLs.
        show_progress: a bar on stderr.

    Raises:
        StoreError: one of them is no store.
        DamagedStoreError: files are missing, or do not belong there.
    """
    started = time.perf_counter()
    mine, theirs = (StoreReader(store, partial=True) for store in (first, second))
    compared = _Compared(mine, theirs)
    size = theirs.rows_per_shard
    index = KeyIndex((shard * size, theirs.keys(shard)) for shard in sorted(theirs.published))
    with Progress("comparing", mine.num_shards * mine.rows_per_shard, unit="rows", shown=show_progress) as bar:
        seen = np.zeros(theirs.num_shards * size, bool)
        for shard in sorted(mine.published):
            table = mine.table(shard)
            here = table.first(int((table.statuses != NO_IMAGE).sum()))
            there = index.rows(here.keys)
            compared.only_first.add([here.keys[i] for i in np.flatnonzero(there < 0)])
            compared.images += len(here)
            seen[there[there >= 0]] = True
            compared.rows(shard, here, there)
            bar.advance(mine.rows_per_shard)
    for shard in sorted(theirs.published):
        unseen = np.flatnonzero(~seen[shard * size : (shard + 1) * size])
        keys = theirs.keys(shard)
        compared.only_second.add([keys[i] for i in unseen if keys[i]])
    return compared.report(len(index), time.perf_counter() - started)


@dataclass(slots=True)
class _Few:
    """Keys: all are counted, few are kept."""

    count: int = 0
    keys: list[str] = field(default_factory=list)

    def add(self, keys: list[str]) -> None:
        self.count += len(keys)
        self.keys += keys[: _SHOWN - len(self.keys)]

    def told(self) -> Unlike:
        return Unlike(count=self.count, keys=tuple(self.keys))


class _Compared:
    """What is gathered shard by shard of the first store."""

    def __init__(self, first: StoreReader, second: StoreReader) -> None:
        self._readers = first, second
        self._records = first.manifest.scores, second.manifest.scores
        self._same_classes = self._records[0].num_classes == self._records[1].num_classes
        self._same_grid = self._records[0].grid_hw == self._records[1].grid_hw
        self.only_first, self.only_second, self._bytes = _Few(), _Few(), _Few()
        self._status, self._truth, self._footprint = _Few(), _Few(), _Few()
        self.images = self._count = self._equal = 0
        self._apart, self._largest, self._scores = 0.0, -np.inf, 0
        self._kl: list[Tensor] = []
        self._agree = 0
        # Rows of the second store come in any order, so that a shard is likely to be asked for again soon.
        self._tables: dict[int, RowTable] = {}

    def rows(self, shard: int, here: RowTable, there: NDArray[np.int64]) -> None:
        """Compare the images of a shard of the first store with rows (n,) of the second, -1 where it has none."""
        places = np.flatnonzero(there >= 0)
        order = places[np.argsort(there[places], kind="stable")]
        labeled: list[tuple[int, int]] = []
        for place, row in zip(order.tolist(), there[order].tolist(), strict=True):
            table, at = self._table(row // self._readers[1].rows_per_shard), row % self._readers[1].rows_per_shard
            key = [here.keys[place]]
            mine, theirs = here.image_hashes[place], table.image_hashes[at]
            if mine and theirs and mine != theirs:
                self._bytes.add(key)
            if here.statuses[place] != table.statuses[at]:
                self._status.add(key)
            elif here.statuses[place] == LABELED:
                labeled.append((shard * self._readers[0].rows_per_shard + place, row))
            if self._truths(here, place, 0) != self._truths(table, at, 1):
                self._truth.add(key)
        for start in range(0, len(labeled), _TOGETHER):
            pairs = np.array(labeled[start : start + _TOGETHER], np.int64)
            places = pairs[:, 0] % self._readers[0].rows_per_shard
            batches = self._readers[0].read(pairs[:, 0]), self._readers[1].read(pairs[:, 1])
            self._maps(batches, [here.keys[i] for i in places], here.orientations[places])

    def report(self, images_second: int, seconds: float) -> StoreDiff:
        """All of it."""
        first, second = self._readers
        kl = torch.cat(self._kl) if self._kl else torch.tensor([torch.nan])
        return StoreDiff(
            differences=tuple(first.manifest.difference(second.manifest, besides=("data",))),
            unpublished=(first.num_shards - len(first.published), second.num_shards - len(second.published)),
            images=(self.images, images_second),
            only_first=self.only_first.told(),
            only_second=self.only_second.told(),
            other_bytes=self._bytes.told(),
            other_status=self._status.told(),
            other_truth=self._truth.told(),
            other_footprint=self._footprint.told(),
            compared=self._count,
            equal=self._equal,
            apart_mean=self._apart / self._scores if self._scores else float("nan"),
            apart_largest=self._largest if self._scores else float("nan"),
            kl_mean=float(kl.mean()),
            kl_largest=float(kl.max()),
            agreement=self._agree / self._count if self._kl else float("nan"),
            # Half precision of a score of 16 nats, where there is no code.
            step=max(record.step or 2.0**-7 for record in self._records),
            seconds=seconds,
        )

    def _table(self, shard: int) -> RowTable:
        if shard not in self._tables:
            if len(self._tables) >= 4:
                self._tables.pop(next(iter(self._tables)))
            self._tables[shard] = self._readers[1].table(shard)
        return self._tables[shard]

    def _truths(self, table: RowTable, place: int, which: int) -> str:
        """By name where there are names: two stores may number them otherwise."""
        names, number = self._readers[which].manifest.data.class_names, int(table.labels[place])
        return names[number] if names is not None and 0 <= number < len(names) else class_text(number, None)

    def _maps(self, batches: tuple[RowBatch, RowBatch], keys: list[str], orientations: NDArray[np.uint8]) -> None:
        first, second = batches
        self._count += len(first)
        if self._records[0] == self._records[1]:
            same = [
                (getattr(first, name) == getattr(second, name)).reshape(len(first), -1).all(1)
                for name in ("classes", "profile")
            ]
            raw = [batch.scores.view(np.uint8).reshape(len(first), -1) for batch in (first, second)]
            self._equal += int((same[0] & same[1] & (raw[0] == raw[1]).all(1)).sum())
        mine, theirs = (b.maps(record).decoded() for b, record in zip((first, second), self._records, strict=True))
        theirs = self._in_frame_of_first(theirs, orientations)
        apart = (mine.footprints_xyxy() - theirs.footprints_xyxy()).abs().amax(1) > _FOOTPRINT
        self._footprint.add([key for key, is_apart in zip(keys, apart.tolist(), strict=True) if is_apart])
        if not self._same_classes:
            return
        if self._same_grid:
            self._scores_apart(mine, theirs)
        whole = torch.tensor([WHOLE.xyxy]).expand(len(first), 4)
        p, q = (maps.pool(whole, uncovered="nearest").double() for maps in (mine, theirs))
        self._kl.append((p * (p.clamp(min=_LEAST).log() - q.clamp(min=_LEAST).log())).sum(1).clamp(min=0))
        self._agree += int((p.argmax(1) == q.argmax(1)).sum())

    def _in_frame_of_first(self, maps: ScoreMap, orientations: NDArray[np.uint8]) -> ScoreMap:
        """The second store's maps of images, turned by their EXIF orientations where its frame is the other one."""
        frames = [reader.manifest.frame for reader in self._readers]
        # Without a square grid a quarter turn is a map of another grid: it is compared as it is, and is far apart.
        if frames[0] == frames[1] or maps.grid.height != maps.grid.width:
            return maps
        turns = orientations.clip(min=1)
        return maps.turned(torch.from_numpy(turns.astype(np.int64) if frames[0] == "upright" else undoing(turns)))

    def _scores_apart(self, mine: ScoreMap, theirs: ScoreMap) -> None:
        """Of the classes that are planes in both."""
        counts = mine.planes.shape[1], theirs.planes.shape[1]
        classes = [maps.classes[:, :count].long() for maps, count in zip((mine, theirs), counts, strict=True)]
        match = classes[0][:, :, None] == classes[1][:, None, :]
        found = match.any(2)
        picked = match.int().argmax(2)[:, :, None, None].expand(-1, -1, *mine.planes.shape[2:])
        apart = (mine.planes.float() - theirs.planes.float().gather(1, picked)).abs()[found]
        apart = apart[~apart.isnan()].double()
        if len(apart):
            self._apart += float(apart.sum())
            self._largest = max(self._largest, float(apart.max()))
            self._scores += len(apart)
