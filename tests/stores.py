"""Small stores for tests, written through the store's own door."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.manifest import DataRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord, fingerprint
from relabel.score_map import ScoreMap
from relabel.store import FAILED, LABELED, RowBatch, RowTable, create_or_open


def random_logits(count: int, classes: int, grid_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """(count, classes, H, W) logits of a few nats, smooth enough to look like a teacher's."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, classes, 2, 2, generator=generator) * 3
    fine = torch.randn(count, classes, *grid_hw, generator=generator)
    return torch.nn.functional.interpolate(coarse, grid_hw, mode="bilinear") + fine


def coded_batch(maps: ScoreMap) -> RowBatch:
    """Score maps as a store takes them."""
    coded = maps.coded()
    return RowBatch(
        classes=coded.classes.numpy().astype(np.uint16),
        scores=torch.cat([coded.planes, coded.rest[:, None]], 1).numpy(),
        profile=coded.profile.numpy(),
        footprint=None if maps.footprint is None else maps.footprint.numpy().astype(np.float32),
    )


def make_store(
    path: Path,
    shards: Sequence[Sequence[str]],
    logits: Tensor,
    *,
    failed: frozenset[str] = frozenset(),
    footprint: Tensor | None = None,
    **score_record: Any,
) -> ScoreMap:
    """Write a store whose shards hold these keys, with a map of each in turn; answers the maps before coding.

    `footprint` is None, one box (4,) for the manifest, or (images, 4), one a row.
    """
    keys = [key for shard in shards for key in shard]
    each = footprint is not None and footprint.ndim == 2
    planes, profile = score_record.pop("planes", 3), score_record.pop("profile", 4)
    maps = ScoreMap.from_logits(logits, planes, profile, footprint=footprint if each else None)
    whole = (0.0, 0.0, 1.0, 1.0) if footprint is None else tuple(footprint.tolist())
    manifest = Manifest(
        teacher=TeacherRecord(name="by hand", weights="none", weights_digest="0" * 64, head="given"),
        preprocessing=Preprocessing(
            image_size_hw=(32, 32),
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            fit="squash" if footprint is None else "letterbox",
        ),
        scores=ScoreRecord(
            num_classes=logits.shape[1],
            planes=planes,
            profile=profile,
            grid_hw=(logits.shape[2], logits.shape[3]),
            **score_record,
        ),
        data=DataRecord(
            kind="folder",
            shards=tuple(f"part {i}" for i in range(len(shards))),
            counts=tuple(map(len, shards)),
            rows_per_shard=max(map(len, shards)),
            fingerprint=fingerprint(keys),
        ),
        footprint=None if each else whole,
    )
    writer = create_or_open(path, manifest)
    batch = coded_batch(maps)
    first = 0
    for number, shard in enumerate(shards):
        good = np.array([i for i, key in enumerate(shard) if key not in failed], np.int64)
        with writer.claim(number) as claimed:
            claimed.add(good, batch.take(first + good))
            claimed.publish(
                RowTable(
                    keys=list(shard),
                    image_hashes=np.arange(first, first + len(shard), dtype=np.uint64),
                    labels=np.arange(first, first + len(shard), dtype=np.int32) % logits.shape[1],
                    statuses=np.array([FAILED if key in failed else LABELED for key in shard], np.uint8),
                    errors=["not a readable image: cut" if key in failed else "" for key in shard],
                )
            )
        first += len(shard)
    return maps
