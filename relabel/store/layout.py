"""Format 1 on one page: the arrays of a store, their codecs and their files. `docs/format.md` says it in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relabel.manifest import PER_ROW, Manifest
from relabel.store.codecs import CODECS, CRC32C, ZSTD, Codec, index_bytes, text_bytes

NO_IMAGE, LABELED, FAILED = 0, 1, 2
"""The values of `status`."""
ABSENT = 2**64 - 1
"""Both halves of the index entry of an inner chunk that is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of a store: (S, R, *tail), or (S, *tail) where it is not `per_row`.

    A shard is one chunk, or where `is_sharded` a zarr shard of an inner chunk per row, with an index. `codec` is that
    of a chunk. `dtype` is a numpy dtype name, or "string". `fill` is a value that no row has.
    """

    name: str
    tail: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    dtype: str
    fill: float | str
    codec: Codec = ZSTD
    is_sharded: bool = False
    per_row: bool = True
    attributes: dict[str, Any] = field(default_factory=dict)

    def file_name(self, shard: int) -> str:
        """The file of a shard, below the array's folder."""
        return ".".join(["c", str(shard), *["0"] * (self.per_row + len(self.tail))])

    def temporary_name(self, shard: int) -> str:
        """Where a shard's file is written before it is renamed to `file_name`."""
        return f".{self.file_name(shard)}.tmp"

    @property
    def little(self) -> np.dtype[Any]:
        """The dtype as it is stored, little endian; numeric arrays only."""
        return np.dtype(self.dtype).newbyteorder("<")

    def shape(self, manifest: Manifest) -> tuple[int, ...]:
        """Of the whole array."""
        rows = (manifest.data.rows_per_shard,) if self.per_row else ()
        return (len(manifest.data.shards), *rows, *self.tail)

    def row_bytes(self) -> int:
        """The bytes of one row (of the shard, if not `per_row`), uncompressed; numeric arrays only."""
        return math.prod(self.tail) * self.little.itemsize

    def content(self, data: Any, rows: int) -> Any:
        """A shard's file, of an array that is one chunk a shard, as the bytes of its R rows, or as encoded strings.

        No more memory is taken than they need, whatever the file says; raises one of `codecs.DECODING_ERRORS`.
        """
        if self.dtype == "string":
            return self.codec.content(data, most=text_bytes(rows))
        return self.codec.content(data, (rows if self.per_row else 1) * self.row_bytes())

    def most_chunk_bytes(self) -> int:
        """The most bytes that the inner chunk of a row may have; no more of one is read."""
        return self.codec.most_bytes(self.row_bytes())

    def most_bytes(self, rows: int) -> int:
        """The most bytes that a shard's file may have; what is longer is no such file, and is not read."""
        if self.is_sharded:
            # Its rows are read one by one, so that twice as long only means that something else is wrong.
            return 2 * rows * self.most_chunk_bytes() + index_bytes(rows)
        if self.dtype == "string":
            return self.codec.most_bytes(text_bytes(rows))
        return self.codec.most_bytes((rows if self.per_row else 1) * self.row_bytes())


def class_dtype(num_classes: int) -> str:
    """The dtype of class ids: uint16 as far as it goes, with 65,535 kept free as the fill value."""
    return "uint16" if num_classes <= 65_535 else "uint32"


def arrays_of(manifest: Manifest) -> dict[str, ArraySpec]:
    """The arrays of a store by name, in the order in which a shard's files are published: `status` last."""
    scores = manifest.scores
    height, width = scores.grid_hw
    ids = class_dtype(scores.num_classes)
    specs = [
        ArraySpec(
            name="classes",
            tail=(scores.planes + scores.profile,),
            dims=("class",),
            dtype=ids,
            fill=np.iinfo(ids).max,
            codec=CRC32C,
        ),
        ArraySpec(
            name="scores",
            tail=(scores.planes + 1, height, width),
            dims=("plane", "y", "x"),
            dtype=scores.dtype,
            fill=float("nan") if scores.step is None else 255,
            codec=CODECS[scores.compression],
            is_sharded=True,
            attributes={}
            if scores.step is None
            else {"scale_factor": -scores.step, "add_offset": 0.0, "_FillValue": 255},
        ),
        ArraySpec(
            name="profile",
            tail=(scores.profile + 1,),
            dims=("offset",),
            dtype="int8",
            fill=0,
            codec=CRC32C,
            attributes={"scale_factor": 0.125, "add_offset": 0.0},
        ),
        ArraySpec(name="checksum", dtype="uint32", fill=0, codec=CRC32C),
        ArraySpec(name="footprint", tail=(4,), dims=("xyxy",), dtype="float32", fill=float("nan")),
        ArraySpec(name="key", dtype="string", fill=""),
        ArraySpec(name="image_hash", dtype="uint64", fill=0),
        ArraySpec(name="label", dtype="int32", fill=-1),
        ArraySpec(name="size_hw", tail=(2,), dims=("hw",), dtype="uint32", fill=0),
        ArraySpec(name="orientation", dtype="uint8", fill=0),
        ArraySpec(name="error", dtype="string", fill=""),
        ArraySpec(
            name="digest", tail=(2, 32), dims=("reach", "byte"), dtype="uint8", fill=0, codec=CRC32C, per_row=False
        ),
        ArraySpec(name="status", dtype="uint8", fill=NO_IMAGE),
    ]
    return {spec.name: spec for spec in specs if spec.name != "footprint" or manifest.footprint == PER_ROW}


def published_shards(manifest: Manifest, status_files: Iterable[str]) -> frozenset[int]:
    """The shards that are finished, from the names of the files of `status`; other names say nothing."""
    status, names = arrays_of(manifest)["status"], frozenset(status_files)
    return frozenset(shard for shard in range(len(manifest.data.shards)) if status.file_name(shard) in names)


def array_metadata(spec: ArraySpec, manifest: Manifest) -> dict[str, Any]:
    """The zarr.json of an array, in every field that a reader depends on."""
    shape = spec.shape(manifest)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if spec.fill != spec.fill else spec.fill,
        "codecs": _codecs(spec),
        "dimension_names": [*_dimensions(spec)],
        "attributes": spec.attributes,
    }


def _dimensions(spec: ArraySpec) -> tuple[str, ...]:
    return ("shard", *(("row",) if spec.per_row else ()), *spec.dims)


def _codecs(spec: ArraySpec) -> list[dict[str, Any]]:
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if spec.dtype == "string":
        return [{"name": "vlen-utf8", "configuration": {}}, spec.codec.metadata]
    # One byte has no order, and zarr says none.
    chunk = [little if np.dtype(spec.dtype).itemsize > 1 else {"name": "bytes"}, spec.codec.metadata]
    if not spec.is_sharded:
        return chunk
    inner = {"chunk_shape": [1, 1, *spec.tail], "codecs": chunk}
    index = {"index_codecs": [little, CRC32C.metadata], "index_location": "end"}
    return [{"name": "sharding_indexed", "configuration": inner | index}]


def create_arrays(path: str, manifest: Manifest) -> None:
    """Create a store's group and arrays with zarr-python, the reference; no shard is written."""
    import zarr

    group = zarr.create_group(path, zarr_format=3, attributes=manifest.to_json())
    for spec in arrays_of(manifest).values():
        shape = spec.shape(manifest)
        group.create_array(
            spec.name,
            shape=shape,
            shards=(1, *shape[1:]) if spec.is_sharded else None,
            chunks=(1, 1, *spec.tail) if spec.is_sharded else (1, *shape[1:]),
            dtype=str if spec.dtype == "string" else spec.dtype,
            fill_value=spec.fill,
            compressors=[spec.codec.metadata],
            dimension_names=_dimensions(spec),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=spec.attributes,
        )
