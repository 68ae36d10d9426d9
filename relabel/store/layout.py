"""Format 1 on one page: the arrays of a store, their codecs and their files. `docs/format.md` says it in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from relabel.manifest import Manifest

NO_IMAGE, LABELED, FAILED = 0, 1, 2
"""The values of `status`."""
ABSENT = 2**64 - 1
"""Both halves of the index entry of an inner chunk that is not stored."""
ZSTD_LEVEL = 3

Packing = Literal["sharded", "raw", "zstd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of a store, (S, R, *tail).

    `packing` is "sharded" (one inner chunk a row, with an index), "raw" (one chunk a shard, with a crc32c) or "zstd"
    (one compressed chunk a shard). `dtype` is a numpy dtype name, or "string". `fill` is a value that no row has.
    """

    name: str
    tail: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    dtype: str
    fill: float | str
    packing: Packing
    attributes: dict[str, Any] = field(default_factory=dict)

    def file_name(self, shard: int) -> str:
        """The file of a shard, below the array's folder."""
        return ".".join(["c", str(shard), "0", *("0" for _ in self.tail)])

    def temporary_name(self, shard: int) -> str:
        """Where a shard's file is written before it is renamed to `file_name`."""
        return f".{self.file_name(shard)}.tmp"

    @property
    def little(self) -> np.dtype[Any]:
        """The dtype as it is stored, little endian; numeric arrays only."""
        return np.dtype(self.dtype).newbyteorder("<")

    def row_bytes(self) -> int:
        """The bytes of one row, uncompressed; numeric arrays only."""
        return math.prod(self.tail) * self.little.itemsize


def class_dtype(num_classes: int) -> str:
    """The dtype of class ids: uint16 as far as it goes, with 65,535 kept free as the fill value."""
    return "uint16" if num_classes <= 65_535 else "uint32"


def arrays_of(manifest: Manifest) -> dict[str, ArraySpec]:
    """The arrays of a store by name, in the order in which a shard's files are published: `status` last."""
    scores = manifest.scores
    height, width = scores.grid_hw
    ids = class_dtype(scores.num_classes)
    coded = scores.dtype == "uint8"
    specs = [
        ArraySpec(
            name="classes",
            tail=(scores.planes + scores.profile,),
            dims=("class",),
            dtype=ids,
            fill=np.iinfo(ids).max,
            packing="raw",
        ),
        ArraySpec(
            name="scores",
            tail=(scores.planes + 1, height, width),
            dims=("plane", "y", "x"),
            dtype=scores.dtype,
            fill=255 if coded else float("nan"),
            packing="sharded",
            attributes={"scale_factor": -scores.step, "add_offset": 0.0, "_FillValue": 255} if coded else {},
        ),
        ArraySpec(
            name="profile",
            tail=(scores.profile + 1,),
            dims=("offset",),
            dtype="int8",
            fill=0,
            packing="raw",
            attributes={"scale_factor": 0.125, "add_offset": 0.0},
        ),
        ArraySpec(name="key", dtype="string", fill="", packing="zstd"),
        ArraySpec(name="image_hash", dtype="uint64", fill=0, packing="zstd"),
        ArraySpec(name="label", dtype="int32", fill=-1, packing="zstd"),
        ArraySpec(name="error", dtype="string", fill="", packing="zstd"),
        ArraySpec(name="status", dtype="uint8", fill=NO_IMAGE, packing="zstd"),
    ]
    if manifest.footprint is None:
        box = ArraySpec(name="footprint", tail=(4,), dims=("xyxy",), dtype="float32", fill=float("nan"), packing="zstd")
        specs.insert(3, box)
    return {spec.name: spec for spec in specs}


def published_shards(manifest: Manifest, status_files: Iterable[str]) -> frozenset[int]:
    """The shards that are finished, from the names of the files of `status`; other names say nothing."""
    status, names = arrays_of(manifest)["status"], frozenset(status_files)
    return frozenset(shard for shard in range(len(manifest.data.shards)) if status.file_name(shard) in names)


def array_metadata(spec: ArraySpec, manifest: Manifest) -> dict[str, Any]:
    """The zarr.json of an array, in every field that a reader depends on."""
    shape = [len(manifest.data.shards), manifest.data.rows_per_shard, *spec.tail]
    chunk = [1, *shape[1:]]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if spec.fill != spec.fill else spec.fill,
        "codecs": _codecs(spec, manifest, chunk),
        "dimension_names": ["shard", "row", *spec.dims],
        "attributes": spec.attributes,
    }


def _codecs(spec: ArraySpec, manifest: Manifest, chunk: list[int]) -> list[dict[str, Any]]:
    crc32c = {"name": "crc32c"}
    zstd = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}
    if spec.dtype == "string":
        return [{"name": "vlen-utf8", "configuration": {}}, zstd]
    # One byte has no order, and zarr says none.
    wide = np.dtype(spec.dtype).itemsize > 1
    plain = {"name": "bytes", "configuration": {"endian": "little"}} if wide else {"name": "bytes"}
    if spec.packing == "raw":
        return [plain, crc32c]
    if spec.packing == "zstd":
        return [plain, zstd]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, crc32c]
    return [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1, 1, *chunk[2:]],
                "codecs": [plain, crc32c if manifest.scores.compression == "none" else zstd],
                "index_codecs": index,
                "index_location": "end",
            },
        }
    ]


def create_arrays(path: str, manifest: Manifest) -> None:
    """Create a store's group and arrays with zarr-python, the reference; no shard is written."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group = zarr.create_group(path, zarr_format=3, attributes=manifest.to_json())
    zstd = ZstdCodec(level=ZSTD_LEVEL, checksum=True)
    for spec in arrays_of(manifest).values():
        rows = (manifest.data.rows_per_shard, *spec.tail)
        raw = spec.packing == "raw" or (spec.packing == "sharded" and manifest.scores.compression == "none")
        group.create_array(
            spec.name,
            shape=(len(manifest.data.shards), *rows),
            shards=(1, *rows) if spec.packing == "sharded" else None,
            chunks=(1, 1, *spec.tail) if spec.packing == "sharded" else (1, *rows),
            dtype=str if spec.dtype == "string" else spec.dtype,
            fill_value=spec.fill,
            compressors=[Crc32cCodec() if raw else zstd],
            dimension_names=("shard", "row", *spec.dims),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=spec.attributes,
        )
