"""Score maps to coded rows and back: the only place that knows what a row of a store is made of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import WHOLE, Footprint
from relabel.manifest import ScoreRecord
from relabel.reading import Reading
from relabel.score_map import ScoreMap, encode_offsets
from relabel.store.layout import class_dtype

_LEAST_HALF = torch.finfo(torch.float16).min


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowBatch:
    """n coded score maps.

    Attributes:
        classes: (n, K + M) uint16 or uint32.
        scores: (n, K + 1, H, W) uint8 codes or float16, the planes, then the rest.
        profile: (n, M + 1) int8 codes.
        footprint: the one of all maps, or (n, 4) float32 xyxy.
    """

    classes: NDArray[Any]
    scores: NDArray[Any]
    profile: NDArray[np.int8]
    footprint: Footprint | NDArray[np.float32] = WHOLE

    def __post_init__(self) -> None:
        arrays = [a for a in (self.classes, self.scores, self.profile, self.footprint) if isinstance(a, np.ndarray)]
        if len({len(array) for array in arrays}) != 1 or self.scores.ndim != 4:
            raise InvalidValueError(f"a batch of rows needs arrays of one length; got {[a.shape for a in arrays]}")

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def of(cls, maps: ScoreMap, record: ScoreRecord) -> RowBatch:
        """Score maps as a store with this record keeps them; on the CPU.

        Raises:
            InvalidValueError: maps of other classes, planes, profile or grid than the record's, or of scores that its
                coding cannot say.
        """
        return cls.fetched(coded_tensors(maps, record), record, maps.footprint)

    @classmethod
    def fetched(cls, tensors: dict[str, Tensor], record: ScoreRecord, footprint: Footprint | Tensor) -> RowBatch:
        """`coded_tensors` that have come to the CPU, as rows."""
        # torch neither sorts nor gathers by unsigned ids, so they become unsigned only here.
        return cls(
            classes=tensors["classes"].numpy().astype(class_dtype(record.num_classes), copy=False),
            scores=tensors["scores"].numpy(),
            profile=tensors["profile"].numpy(),
            footprint=footprint if isinstance(footprint, Footprint) else footprint.numpy().astype(np.float32),
        )

    def maps(self, record: ScoreRecord, reading: Reading | None = None) -> ScoreMap:
        """The rows as score maps, codes as codes, sharing their memory, whose labels are read as `reading` says."""
        scores = torch.from_numpy(self.scores)
        return ScoreMap(
            torch.from_numpy(self.classes),
            scores[:, :-1],
            scores[:, -1],
            torch.from_numpy(self.profile),
            num_classes=record.num_classes,
            footprint=self.footprint if isinstance(self.footprint, Footprint) else torch.from_numpy(self.footprint),
            holes=record.has_holes,
            reading=reading,
            **({} if record.step is None else {"step": record.step}),
        )

    def take(self, index: NDArray[np.intp]) -> RowBatch:
        """Some of the rows."""
        return RowBatch(
            classes=self.classes[index],
            scores=self.scores[index],
            profile=self.profile[index],
            footprint=self.footprint if isinstance(self.footprint, Footprint) else self.footprint[index],
        )


def coded_tensors(maps: ScoreMap, record: ScoreRecord) -> dict[str, Tensor]:
    """`classes`, `scores` and `profile` of `RowBatch`, on the maps' device, which nothing waits for; ids stay signed.

    Raises:
        InvalidValueError: as `RowBatch.of`.
    """
    count = maps.planes.shape[1]
    found = (maps.num_classes, count, maps.classes.shape[1] - count, maps.grid.size_hw)
    wanted = (record.num_classes, record.planes, record.profile, record.grid_hw)
    if found != wanted or maps.holes != record.has_holes:
        raise InvalidValueError(
            "(classes, planes, profile, grid) of the maps must be those of the store, and holes only where it has "
            f"them; got {found}{' with holes' * maps.holes} for {wanted}{' with holes' * record.has_holes}"
        )
    kept = maps.coded(record.step) if record.dtype == "uint8" else maps.decoded()
    scores = torch.cat([kept.planes, kept.rest.unsqueeze(1)], dim=1)
    if record.dtype == "float16":
        # Beyond its range a half is infinite, and an infinite score is none.
        scores = scores.clamp(min=_LEAST_HALF).half()
    if kept.profile is None:
        profile = torch.zeros(len(maps), 1, dtype=torch.int8, device=scores.device)
    else:
        profile = kept.profile if kept.profile.dtype == torch.int8 else encode_offsets(kept.profile)
    return {"classes": kept.classes, "scores": scores, "profile": profile}


class Group(NamedTuple):
    """Rows of one shard, and where they stand in a batch."""

    shard: int
    places: NDArray[np.intp]
    rows: NDArray[np.int64]


def groups_of(shards: NDArray[np.int64], inside: NDArray[np.int64], order: NDArray[np.intp]) -> list[Group]:
    """A batch's rows by shard; `order` is that of their shards."""
    ordered = shards[order]
    changes = (np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist()
    bounds = itertools.pairwise([0, *changes, len(order)]) if len(order) else ()
    return [Group(int(ordered[start]), order[start:end], inside[order[start:end]]) for start, end in bounds]
