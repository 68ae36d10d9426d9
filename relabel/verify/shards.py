"""`verify_shards`: every file, checksum and promise of a store, and against the images, keys and hashes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, RelabelError
from relabel.images import open_source
from relabel.manifest import fingerprint
from relabel.progress import Progress
from relabel.store import FAILED, LABELLED, NO_IMAGE, RowTable, StoreReader
from relabel.verify.compare import compare_images
from relabel.verify.content import content_findings
from relabel.verify.findings import Finding, ShardsReport

_BATCH = 256


@dataclass(slots=True)
class _ShardResult:
    shard: int
    table: RowTable | None = None
    findings: list[Finding] = field(default_factory=list)


def verify_shards(
    store: str | Path, images: str | None = None, *, workers: int | None = None, show_progress: bool = True
) -> ShardsReport:
    """Check a store, and with `images` (as `relabel generate` takes them) that it labels those.

    Args:
        store: the store's folder.
        images: a folder or tars; None checks the store alone.
        workers: threads; None is one a core. Reading, decompressing and hashing run outside Python's lock.
        show_progress: bars on stderr.

    Raises:
        StoreError: not a store at all, or its metadata was changed.
        SourceError: the images cannot be listed or read.
    """
    started = time.perf_counter()
    workers = workers or len(os.sched_getaffinity(0))
    reader = StoreReader(store, partial=True)
    with ThreadPoolExecutor(workers) as pool:
        with Progress("verifying", reader.num_shards * reader.rows_per_shard, unit="rows", shown=show_progress) as bar:
            results = list(pool.map(lambda shard: _check_shard(reader, shard, bar), range(reader.num_shards)))
        tables = {result.shard: result.table for result in results if result.table is not None}
        findings = [finding for result in results for finding in result.findings]
        findings += _stray_files(reader)
        findings += _key_findings(reader, tables)
        compared = 0
        if images is not None:
            source = open_source(images)
            with Progress("comparing images", None, unit="images", shown=show_progress) as bar:
                compared, differences = compare_images(source, tables, pool, bar.advance)
            findings += differences
    counts = [np.bincount(table.statuses, minlength=3) for table in tables.values()]
    total = np.sum(counts, axis=0) if counts else np.zeros(3, np.int64)
    return ShardsReport(
        shards=reader.num_shards,
        images=int(total[LABELLED] + total[FAILED]),
        labelled=int(total[LABELLED]),
        failed=int(total[FAILED]),
        images_compared=compared,
        seconds=time.perf_counter() - started,
        findings=tuple(sorted(findings)),
    )


def _check_shard(reader: StoreReader, shard: int, bar: Progress) -> _ShardResult:
    result = _ShardResult(shard)

    def found(row: int, key: str, what: str) -> None:
        result.findings.append(Finding(shard, row, key, what))

    if shard not in reader.published:
        found(-1, "", "the shard is not published (its status file is missing); run `relabel generate` to finish it")
        bar.advance(reader.rows_per_shard)
        return result
    try:
        result.table = reader.table(shard)
        for row, what in _table_findings(reader, shard, result.table):
            found(row, result.table.keys[row] if row >= 0 else "", what)
        with_map = np.flatnonzero(reader.stored_rows(shard))
    except RelabelError as error:
        found(-1, "", str(error))
        bar.advance(reader.rows_per_shard)
        return result
    for row in np.flatnonzero((result.table.statuses == LABELLED) != reader.stored_rows(shard)):
        found(int(row), result.table.keys[row], "its status and its score map disagree: one says labelled, one not")
    for row, what in _map_findings(reader, shard, with_map):
        found(row, result.table.keys[row], what)
    bar.advance(reader.rows_per_shard)
    return result


def _table_findings(reader: StoreReader, shard: int, table: RowTable) -> Iterator[tuple[int, str]]:
    counts = reader.manifest.data.counts
    used = int((table.statuses != NO_IMAGE).sum())
    if counts and used != counts[shard]:
        yield -1, f"{used} rows hold an image, and the manifest says {counts[shard]}"
    if used == 0:
        yield -1, "no row holds an image"
    for row, status in enumerate(table.statuses.tolist()):
        key, error = table.keys[row], table.errors[row]
        if status not in (NO_IMAGE, LABELLED, FAILED):
            yield row, f"status {status} is none of 0, 1, 2"
        if (status == NO_IMAGE) != (row >= used):
            yield row, "rows with an image must come first, and this one breaks the order"
        if bool(key) != (status != NO_IMAGE):
            yield row, "a row has a key if and only if it holds an image"
        if bool(error) != (status == FAILED):
            yield row, "a row has an error if and only if its status is 2 (failed)"
        if table.labels[row] < -1:
            yield row, f"label {table.labels[row]} is neither a class nor -1 (unknown)"


def _map_findings(reader: StoreReader, shard: int, rows: NDArray[np.intp]) -> Iterator[tuple[int, str]]:
    """Findings of the rows that have a map; a damaged chunk is found once, and the others are still checked."""
    for start in range(0, len(rows), _BATCH):
        readable = rows[start : start + _BATCH]
        base = shard * reader.rows_per_shard
        try:
            batch = reader.read(base + readable)
        except DamagedStoreError:
            damaged = [(int(row), _damage(reader, base + int(row))) for row in readable]
            yield from ((row, what) for row, what in damaged if what)
            readable = np.array([row for row, what in damaged if not what], np.int64)
            batch = reader.read(base + readable)
        for index, what in content_findings(batch, reader.manifest.scores):
            yield int(readable[index]), what


def _damage(reader: StoreReader, row: int) -> str:
    try:
        reader.read(np.array([row]))
    except DamagedStoreError as error:
        return str(error)
    return ""


def _stray_files(reader: StoreReader) -> Iterator[Finding]:
    """Missing and unexpected files of the arrays' folders."""
    for spec in reader.arrays.values():
        expected = {spec.file_name(shard): shard for shard in range(reader.num_shards)}
        names = reader.files.names(spec.name)
        for name, shard in expected.items():
            if shard in reader.published and name not in names:
                yield Finding(shard, -1, "", f"the file {spec.name}/{name} is missing")
        for name in sorted(names - expected.keys() - {"zarr.json"}):
            yield Finding(
                -1, -1, "", f"{spec.name}/{name} does not belong to the store (left by a run that was stopped?)"
            )


def _key_findings(reader: StoreReader, tables: dict[int, RowTable]) -> Iterator[Finding]:
    first: dict[str, tuple[int, int]] = {}
    for shard, table in tables.items():
        for row, key in enumerate(table.keys):
            if key and key in first:
                yield Finding(shard, row, key, "the key stands twice; first in shard {} row {}".format(*first[key]))
            elif key:
                first[key] = (shard, row)
    if len(tables) == reader.num_shards and reader.manifest.data.counts:
        keys = (key for shard in range(reader.num_shards) for key in tables[shard].keys if key)
        if fingerprint(keys) != reader.manifest.data.fingerprint:
            yield Finding(-1, -1, "", "the keys are not those that the manifest's fingerprint was made of")
