"""Small stores for tests, written through the store's own door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.geometry import WHOLE, Footprint
from relabel.manifest import PER_ROW, DataRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord, fingerprint
from relabel.score_map import ScoreMap
from relabel.store import Row, RowBatch, RowTable, create_or_open
from relabel.store.codecs import CRC32C
from relabel.store.digest import shard_digest


def random_logits(count: int, classes: int, grid_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """(count, classes, H, W) logits of a few nats, smooth enough to look like a teacher's."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, classes, 2, 2, generator=generator) * 3
    fine = torch.randn(count, classes, *grid_hw, generator=generator)
    return torch.nn.functional.interpolate(coarse, grid_hw, mode="bilinear") + fine


RAW_LOGITS: dict[str, Any] = {"scores": "logit", "dtype": "float16", "select": "cell", "profile": 0}
"""Arguments of `make_store` for a store of the kind that published archives become."""


def make_store(
    path: Path,
    shards: Sequence[Sequence[str]],
    logits: Tensor,
    *,
    failed: frozenset[str] = frozenset(),
    footprint: Tensor | None = None,
    image_hashes: Sequence[int] | None = None,
    **score_record: Any,
) -> ScoreMap:
    """Write a store whose shards hold these keys, with a map of each in turn; answers the maps before coding.

    `footprint` is None, one box (4,) for the manifest, or (images, 4), one a row.
    """
    keys = [key for shard in shards for key in shard]
    each = footprint is not None and footprint.ndim == 2
    planes, profile = score_record.pop("planes", 3), score_record.pop("profile", 4)
    one = WHOLE if footprint is None or each else Footprint(*footprint.tolist())
    maps = ScoreMap.from_logits(logits, planes, profile, footprint=footprint if each else one)
    manifest = Manifest(
        teacher=TeacherRecord(source="other", name="by hand", weights="unknown", weights_digest="0" * 64, head="given"),
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
        footprint=PER_ROW if each else one,
    )
    writer = create_or_open(path, manifest)
    batch = RowBatch.of(replace(maps, holes=manifest.scores.has_holes), manifest.scores)
    first = 0
    for number, shard in enumerate(shards):
        good = np.array([i for i, key in enumerate(shard) if key not in failed], np.int64)
        with writer.claim(number) as claimed:
            claimed.add(good, batch.take(first + good))
            table = [
                Row(
                    key=key,
                    image_hash=image_hashes[first + i] if image_hashes else 0,
                    label=(first + i) % logits.shape[1],
                    size_hw=(60, 90),
                    orientation=1,
                    error="not a readable image: cut" if key in failed else "",
                )
                for i, key in enumerate(shard)
            ]
            claimed.publish(RowTable.of(table))
        first += len(shard)
    return maps


def change_manifest(store: Path, **changes: Any) -> None:
    """Change values of the manifest, given as record__field, and seal the store."""
    group = json.loads((store / "zarr.json").read_text())
    for name, value in changes.items():
        *records, field = name.split("__")
        record = group["attributes"]["relabel"]
        for each in records:
            record = record[each]
        record[field] = value
    (store / "zarr.json").write_text(json.dumps(group))
    seal(store)


def seal(store: Path) -> None:
    """Make the manifest's identity, checksums and digests those of what lies there: a fault is found by itself."""
    group = json.loads((store / "zarr.json").read_text())
    body = group["attributes"]["relabel"]
    del body["identity"]
    told = {name: value for name, value in body.items() if name != "versions"}
    identity = hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())
    body["identity"] = identity.hexdigest()
    (store / "zarr.json").write_text(json.dumps(group))
    names = ["classes", "scores", "profile", "checksum", "footprint", "key", "image_hash", "label"]
    for file in store.glob("digest/c.*"):
        shard = int(file.name.split(".")[1])
        (store / f"checksum/c.{shard}.0").write_bytes(CRC32C.encode(_checksums(store, shard).tobytes()))
        files = [
            (name, found.read_bytes())
            for name in [*names, "size_hw", "orientation", "error", "status"]
            for found in (store / name).glob(f"c.{shard}.*")
        ]
        file.write_bytes(CRC32C.encode(shard_digest(identity.digest(), shard, files).tobytes()))


def _checksums(store: Path, shard: int) -> NDArray[np.uint32]:
    """The last four bytes of each row's map, 0 where it has none."""
    whole = (store / f"scores/c.{shard}.0.0.0.0").read_bytes()
    rows = json.loads((store / "scores/zarr.json").read_text())["shape"][1]
    index = np.frombuffer(whole[-16 * rows - 4 : -4], "<u8").reshape(rows, 2)
    ends = [b"" if length == 2**64 - 1 else whole[start : start + length][-4:] for start, length in index.tolist()]
    return np.array([int.from_bytes(end, "little") for end in ends], np.uint32)
