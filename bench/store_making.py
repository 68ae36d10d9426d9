"""Stores made by hand, through the package's own writer: of any score maps, and of a million logical rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel import ScoreMap
from relabel.manifest import DataRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord
from relabel.store import LABELED, RowBatch, RowTable, StoreWriter, codecs, create_or_open
from relabel.store.digest import shard_digest

SYNTHETIC = TeacherRecord(source="other", name="synthetic", weights="unknown", weights_digest="none", head="none")
PIXELS = Preprocessing(image_size_hw=(480, 480), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def manifest_of(maps: ScoreMap, shards: int, rows_per_shard: int) -> Manifest:
    """The manifest of a store of maps like these, whose shards are full."""
    planes = maps.planes.shape[1]
    return Manifest(
        teacher=SYNTHETIC,
        preprocessing=PIXELS,
        scores=ScoreRecord(
            num_classes=maps.num_classes,
            planes=planes,
            profile=maps.classes.shape[1] - planes,
            grid_hw=maps.grid.size_hw,
        ),
        data=DataRecord(
            kind="folder",
            shards=tuple(f"images {i * rows_per_shard} to {(i + 1) * rows_per_shard}" for i in range(shards)),
            counts=(rows_per_shard,) * shards,
            rows_per_shard=rows_per_shard,
            fingerprint="none",
        ),
    )


def table_of(keys: list[str]) -> RowTable:
    """The row arrays of labelled images with these keys; hashes, classes and sizes are random, as real ones look.

    Sizes are of one shape, that of the photographs which `bench.synthetic` writes: an image of another has no label.
    """
    random = np.random.default_rng(len(keys))
    return RowTable(
        keys=keys,
        image_hashes=random.integers(0, 2**64, len(keys), np.uint64),
        labels=random.integers(0, 1000, len(keys), np.int32),
        sizes_hw=random.integers(40, 500, (len(keys), 1), np.uint32) * np.array([3, 4], np.uint32),
        orientations=np.ones(len(keys), np.uint8),
        statuses=np.full(len(keys), LABELED, np.uint8),
        errors=[""] * len(keys),
    )


def keys_of(first: int, count: int) -> list[str]:
    """Keys like ImageNet's, each number's its own."""
    return [f"n{1_440_764 + i // 1300 * 7919:08d}/n{i // 1300:08d}_{i}.JPEG" for i in range(first, first + count)]


def write(path: Path, maps: ScoreMap, keys: Iterable[list[str]]) -> StoreWriter:
    """A store of the maps over and over, one shard for each list of keys; the lists are of one length."""
    shards = list(keys)
    writer = create_or_open(path, manifest_of(maps, len(shards), len(shards[0])))
    rows = RowBatch.of(maps, writer.manifest.scores)
    for number, names in enumerate(shards):
        with writer.claim(number) as shard:
            # Another map each time round, so that neighbours in one shard are no neighbours in the next.
            order = (np.arange(len(names)) * 7 + number) % len(maps)
            shard.add(np.arange(len(names)), rows.take(order))
            shard.publish(table_of(names))
    return writer


def write_logical(path: Path, like: StoreWriter, shards: int) -> None:
    """A store of `shards` shards whose files are links to those of a small one; only its keys are its own."""
    data = like.manifest.data
    rows = data.rows_per_shard
    names = tuple(f"images {i * rows} to {(i + 1) * rows}" for i in range(shards))
    record = replace(data, shards=names, counts=(rows,) * shards)
    writer = create_or_open(path, replace(like.manifest, data=record))
    identity = writer.manifest.identity()
    for shard in range(shards):
        files: list[tuple[str, bytes]] = []
        for spec in like.arrays.values():
            target = writer.path / spec.name / spec.file_name(shard)
            if spec.name == "key":
                target.write_bytes(codecs.ZSTD.encode(codecs.encode_strings(keys_of(shard * rows, rows))))
            elif spec.name != "digest":
                _link(like.path / spec.name / spec.file_name(shard % len(data.shards)), target)
            if spec.name != "digest":
                files.append((spec.name, target.read_bytes()))
        digest = writer.arrays["digest"]
        bound = codecs.CRC32C.encode(shard_digest(identity, shard, files).tobytes())
        (writer.path / digest.name / digest.file_name(shard)).write_bytes(bound)


def size_by_array(path: Path) -> dict[str, int]:
    """Bytes of all shard files of each array, and of all else (the metadata, once a store) under ``zarr.json``."""
    sizes: dict[str, int] = {"zarr.json": 0}
    for file in path.rglob("*"):
        if file.is_file():
            name = file.parent.name if file.name.startswith("c.") else "zarr.json"
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sizes


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links.
        shutil.copyfile(source, target)
