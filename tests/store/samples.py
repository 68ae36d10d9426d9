"""Small stores whose every value is known from the inputs alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.geometry import WHOLE, Footprint
from relabel.manifest import PER_ROW, DataRecord, Manifest, PerRow, Preprocessing, ScoreRecord, TeacherRecord
from relabel.store import RowBatch, RowTable, StoreWriter, create_or_open
from relabel.store.layout import class_dtype

MAPS = ("classes", "scores", "profile", "footprint")
KINDS = {
    "uint8, zstd": {},
    "uint8, none": {"compression": "none"},
    "float16, zstd": {"dtype": "float16"},
    "float16, none, a footprint a row": {"dtype": "float16", "compression": "none", "footprint": PER_ROW},
    "uint8, zstd, a footprint a row": {"footprint": PER_ROW},
    "uint8, zstd, another step": {"step": 1 / 8},
}
"""Arguments of `sample`."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A store to be: its manifest and the whole of each array, (S, R, ...), fill values included."""

    manifest: Manifest
    arrays: dict[str, NDArray[Any]]

    def __repr__(self) -> str:
        return f"Sample({self.manifest})"

    @property
    def labeled(self) -> NDArray[np.int64]:
        """The numbers of the rows that have a map, over all shards."""
        return np.flatnonzero(self.arrays["status"].reshape(-1) == 1)

    def maps(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What a reader must answer for some rows, by array."""
        return {n: a.reshape(-1, *a.shape[2:])[rows] for n, a in self.arrays.items() if n in MAPS}

    def batch(self, shard: int, rows: NDArray[np.int64]) -> RowBatch:
        """Some rows of a shard, as a writer takes them."""
        maps = {name: array[shard, rows] for name, array in self.arrays.items() if name in MAPS}
        return RowBatch(**{"footprint": self.manifest.footprint} | maps)

    def rows(self, shard: int) -> NDArray[np.int64]:
        """The labelled rows of a shard, numbered in it."""
        return np.flatnonzero(self.arrays["status"][shard] == 1)

    def table(self, shard: int, *, whole: bool = False) -> RowTable:
        """What a shard knows of its rows: of those with an image, or with `whole` of all R."""
        last = None if whole else int((self.arrays["status"][shard] != 0).sum())
        columns = {name: array[shard, :last] for name, array in self.arrays.items()}
        return RowTable(
            keys=columns["key"].tolist(),
            image_hashes=columns["image_hash"],
            labels=columns["label"],
            sizes_hw=columns["size_hw"],
            orientations=columns["orientation"],
            statuses=columns["status"],
            errors=columns["error"].tolist(),
        )


def sample(
    shards: int = 2,
    rows: int = 6,
    *,
    footprint: Footprint | PerRow = WHOLE,
    seed: int = 0,
    **score_record: Any,
) -> Sample:
    """Shards of random maps; row 1 of each failed, and the last shard holds two images fewer than it has rows."""
    random = np.random.default_rng(seed)
    record = ScoreRecord(
        **{"num_classes": 50, "planes": 3, "profile": 4, "grid_hw": (4, 5), "dtype": "uint8"} | score_record
    )
    height, width = record.grid_hw
    ids, dtype = record.num_classes, np.dtype(class_dtype(record.num_classes))
    size, count = (shards, rows), record.planes + record.profile
    planes = np.linspace(3, 90, (record.planes + 1) * height * width).reshape(-1, height, width)
    codes = (planes + random.integers(0, 60, (*size, 1, 1, 1)) + random.integers(0, 3, (*size, *planes.shape))).round()
    arrays: dict[str, NDArray[Any]] = {
        "classes": random.permuted(np.broadcast_to(np.arange(ids), (*size, ids)), axis=-1)[..., :count].astype(dtype),
        "scores": codes.astype(np.uint8) if record.dtype == "uint8" else (codes / -9).astype(np.float16),
        "profile": random.integers(-128, 128, (*size, record.profile + 1)).astype(np.int8),
        "key": np.array([[f"class/é{s:02d}_{r}.jpg" for r in range(rows)] for s in range(shards)], object),
        "image_hash": random.integers(1, 2**64, size, np.uint64),
        "label": random.integers(0, ids, size).astype(np.int32),
        "size_hw": random.integers(1, 5000, (*size, 2)).astype(np.uint32),
        "orientation": random.integers(1, 9, size).astype(np.uint8),
        "error": np.full(size, "", object),
        "status": np.ones(size, np.uint8),
    }
    if footprint == PER_ROW:
        corner = random.random((*size, 2)) / 4
        arrays["footprint"] = np.concatenate([corner, corner + 0.5], -1).astype(np.float32)
    fill = {
        "classes": np.iinfo(dtype).max,
        "scores": 255 if record.dtype == "uint8" else np.nan,
        "profile": 0,
        "footprint": np.nan,
    }
    failed, empty = (slice(None), 1), (-1, slice(rows - 2, None))
    arrays["status"][failed], arrays["error"][failed] = 2, "cannot be decoded: cut"
    arrays["size_hw"][failed], arrays["orientation"][failed] = 0, 0
    for where in (failed, empty):
        for name in set(MAPS) & arrays.keys():
            arrays[name][where] = fill[name]
    for name, value in {"key": "", "image_hash": 0, "label": -1, "size_hw": 0, "orientation": 0, "status": 0}.items():
        arrays[name][empty] = value
    counts = (arrays["status"] != 0).sum(1).tolist()
    manifest = Manifest(
        teacher=TeacherRecord(source="other", name="by hand", weights="unknown", weights_digest="0" * 64, head="given"),
        preprocessing=Preprocessing(image_size_hw=(32, 40), mean=(0.5,) * 3, std=(0.25,) * 3),
        scores=record,
        data=DataRecord(
            kind="webdataset",
            shards=tuple(f"train-{s}.tar" for s in range(shards)),
            counts=tuple(counts),
            rows_per_shard=rows,
            fingerprint="0" * 32,
        ),
        footprint=footprint,
    )
    return Sample(manifest, arrays)


def write(path: Path, data: Sample, shards: range | None = None) -> StoreWriter:
    """Write a sample, or some of its shards, into a store that is made if it is not there."""
    writer = create_or_open(path, data.manifest)
    for shard in shards if shards is not None else range(len(data.manifest.data.shards)):
        with writer.claim(shard) as claimed:
            claimed.add(data.rows(shard), data.batch(shard, data.rows(shard)))
            claimed.publish(data.table(shard))
    return writer


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store, by its path in it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def leftovers(path: Path) -> Iterator[str]:
    """The temporary files in a store."""
    return (name for name in contents(path) if name.rpartition("/")[2].startswith("."))


def assert_maps(found: RowBatch, expected: dict[str, NDArray[Any]]) -> None:
    """Every array of a batch is what was expected, bit for bit and in its dtype; a footprint only where one is kept."""
    assert isinstance(found.footprint, Footprint) == ("footprint" not in expected)
    for name, array in expected.items():
        assert getattr(found, name).dtype == array.dtype
        np.testing.assert_array_equal(getattr(found, name), array)


def assert_tables(found: RowTable, expected: RowTable) -> None:
    """Two tables say the same."""
    assert (found.keys, found.errors) == (expected.keys, expected.errors)
    for name in ("image_hashes", "labels", "sizes_hw", "orientations", "statuses"):
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
