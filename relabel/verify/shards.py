"""`verify_shards`: every file, checksum and promise of a store, and against the images, keys and hashes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.cores import stoppable_threads, usable_cores
from relabel.errors import RelabelError
from relabel.findings import Finding
from relabel.images import ImageSource, open_source
from relabel.progress import Progress
from relabel.store import FAILED, LABELED, NO_IMAGE, StoreReader
from relabel.verify.compare import compare_images
from relabel.verify.content import Maps, content_findings
from relabel.verify.files import ScoreFile, found_digest, read_column
from relabel.verify.keys import KeyTable, shard_rows
from relabel.verify.metadata import metadata_findings
from relabel.verify.rows import Columns, row_findings

_BATCH = 128
"""Rows whose scores are looked at together: few enough for a core's cache."""
_FOREIGN = (
    "each file is whole, and they do not belong together, or not to this shard of this store: its digest says "
    "otherwise. One of them is of another shard or of another run, or was changed; label the shard again"
)


@dataclass(slots=True)
class _ShardCheck:
    """What is kept of a shard once it was looked at: `images` counts its rows by status."""

    findings: list[Finding] = field(default_factory=list)
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    rows: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsReport:
    """The outcome of `verify_shards`: what was looked at, and what was found, ordered by shard and row."""

    shards: int
    images: int
    labeled: int
    failed: int
    images_compared: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify_shards(
    store: str | Path,
    images: str | ImageSource | None = None,
    *,
    workers: int | None = None,
    show_progress: bool = True,
) -> ShardsReport:
    """Check a store, and with `images` (as `relabel generate` takes them) that it labels those.

    Every file is checked by itself, so that a damaged one hides no other. A change of a zarr.json is found where
    anything in the store contradicts it; what the manifest merely tells (the teacher's name, say) nothing can.

    Args:
        store: the store's folder; of a URL, the copy in the local cache is checked.
        images: a folder or tars; None checks the store alone.
        workers: threads; None is one a core. All but zstd runs outside Python's lock.
        show_progress: bars on stderr.

    Raises:
        StoreError: not a store at all, or its metadata was changed.
        SourceError: the images cannot be found.
    """
    started = time.perf_counter()
    reader = StoreReader(store, partial=True)
    # A mistyped path must not be found out only after the store was read.
    source = None if images is None else open_source(images)
    compared = 0
    with stoppable_threads(workers or usable_cores()) as threads:

        def check(shard: int) -> _ShardCheck:
            return _check_shard(reader, shard, threads.unless_stopped(bar.advance))

        rows = reader.num_shards * reader.rows_per_shard
        with Progress("verifying", rows, unit="rows", shown=show_progress) as bar:
            checks = list(threads.pool.map(check, range(reader.num_shards)))
        findings = [finding for check in checks for finding in check.findings]
        findings += [Finding(-1, -1, "", what) for what in metadata_findings(reader)]
        table = KeyTable(reader, [check.rows for check in checks])
        findings += table.findings()
        if source is not None:
            with Progress("comparing images", len(table), unit="images", shown=show_progress) as bar:
                compared, differences = compare_images(source, table, threads.pool, threads.unless_stopped(bar.advance))
            findings += differences
    total = np.sum([check.images for check in checks], axis=0)
    return ShardsReport(
        shards=reader.num_shards,
        images=int(total[LABELED] + total[FAILED]),
        labeled=int(total[LABELED]),
        failed=int(total[FAILED]),
        images_compared=compared,
        seconds=time.perf_counter() - started,
        findings=tuple(sorted(findings)),
    )


def _check_shard(reader: StoreReader, shard: int, advance: Callable[[int], None]) -> _ShardCheck:
    check = _ShardCheck()
    columns: dict[str, NDArray[Any]] = {}

    def found(row: int, what: str) -> None:
        key = str(columns["key"][row]) if row >= 0 and "key" in columns else ""
        check.findings.append(Finding(shard, row, key, what))

    if shard not in reader.published:
        found(-1, "the shard is not published (its status file is missing); run `relabel generate` to finish it")
        advance(reader.rows_per_shard)
        return check
    for spec in reader.arrays.values():
        if not spec.is_sharded:
            try:
                columns[spec.name] = read_column(reader, spec.name, shard)
            except RelabelError as error:
                found(-1, str(error))
    for row, what in row_findings(columns, reader.arrays, reader.manifest.fit):
        found(row, what)
    for row, what in _map_findings(reader, shard, columns, advance):
        found(row, what)
    if "status" in columns:
        status = columns["status"]
        check.images = np.bincount(status[status <= FAILED], minlength=3)
        for what in _count_findings(reader, shard, int((status != NO_IMAGE).sum())):
            found(-1, what)
    # Of a shard that is damaged otherwise it is no news.
    if not check.findings and (found_digest(reader, shard) != columns["digest"]).any():
        found(-1, _FOREIGN)
    check.rows = shard_rows(columns, shard * reader.rows_per_shard)
    return check


def _count_findings(reader: StoreReader, shard: int, used: int) -> Iterator[str]:
    counts = reader.manifest.data.counts
    if counts and used != counts[shard]:
        yield f"{used} rows hold an image, and the manifest says {counts[shard]}"
    if not used:
        yield "no row holds an image"


def _map_findings(
    reader: StoreReader, shard: int, columns: Columns, advance: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    """Findings of the shard's score maps; a damaged one is found once, and the others are checked all the same."""
    try:
        file = ScoreFile(reader, shard)
    except RelabelError as error:
        advance(reader.rows_per_shard)
        yield -1, str(error)
        return
    status = columns.get("status")
    labeled = file.claimed if status is None else status == LABELED
    yield from file.faults
    for row in np.flatnonzero(labeled != file.claimed).tolist():
        yield row, "its status and its score map disagree: one says labelled, one not"
    stored = np.flatnonzero(file.stored)
    for start in range(0, len(stored), _BATCH):
        rows = stored[start : start + _BATCH]
        scores, faults = file.read(rows)
        yield from ((int(rows[i]), what) for i, what in faults)
        sound = labeled[rows]
        sound[[i for i, _ in faults]] = False
        rows = rows[sound]
        maps = Maps(
            scores=scores[sound], classes=_some(columns, "classes", rows), profile=_some(columns, "profile", rows)
        )
        for i, what in content_findings(maps, reader.manifest.scores, reader.manifest.class_names):
            yield int(rows[i]), what
        advance(len(sound))
    advance(reader.rows_per_shard - len(stored))


def _some(columns: Mapping[str, NDArray[Any]], name: str, rows: NDArray[np.intp]) -> NDArray[Any] | None:
    return columns[name][rows] if name in columns else None
