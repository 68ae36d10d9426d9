"""One shard of a store: every byte and every promise of it, one fault hiding no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, StoreError
from relabel.findings import Finding
from relabel.store import FAILED, LABELED, NO_IMAGE, StoreReader
from relabel.store.files import ForbiddenError
from relabel.verify.content import Maps, content_findings
from relabel.verify.files import ScoreFile, found_digest, read_column
from relabel.verify.keys import shard_rows
from relabel.verify.rows import Columns, row_findings

_BATCH, _BATCH_BYTES = 128, 1 << 24
"""Rows whose scores are looked at together: few enough for a core's cache."""
_FOREIGN = (
    "each file is whole, and they do not belong together, or not to this shard of this store: its digest says "
    "otherwise. One of them is of another shard or of another run, or was changed; label the shard again"
)
_NOT_PUBLISHED = "the shard is not published (its status file is missing); run `relabel generate` to finish it"


@dataclass(slots=True)
class ShardCheck:
    """What is kept of a shard once it was looked at.

    Attributes:
        findings: what is wrong with it.
        images: (3,) its rows by status.
        rows: those with a key, as `shard_rows` has them; None where the keys could not be read.
        is_damaged: whether its files are not those that were written, so that labelling it again mends it.
        is_foreign: whether that is so although each of them is whole by its own checksum.
        is_published: whether it is there at all.
    """

    findings: list[Finding] = field(default_factory=list)
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    rows: NDArray[Any] | None = None
    is_damaged: bool = False
    is_foreign: bool = False
    is_published: bool = True


def not_published(shard: int) -> ShardCheck:
    """Of a shard that is missing."""
    return ShardCheck([Finding(shard, -1, "", _NOT_PUBLISHED)], is_published=False)


def check_shard(reader: StoreReader, shard: int, advance: Callable[[int], None]) -> ShardCheck:
    """Look at a published shard; `advance` is told of each row, once.

    Raises:
        StoreError: memory or descriptors ran out.
    """
    check = ShardCheck()
    columns: dict[str, NDArray[Any]] = {}

    unread: list[StoreError] = []
    is_broken = False

    def found(row: int, what: str) -> None:
        key = str(columns["key"][row]) if row >= 0 and "key" in columns else ""
        check.findings.append(Finding(shard, row, key, what))

    for spec in reader.arrays.values():
        if not spec.is_sharded:
            try:
                columns[spec.name] = read_column(reader, spec.name, shard)
            except (DamagedStoreError, ForbiddenError) as error:
                unread.append(error)
                found(-1, str(error))
    for row, what in row_findings(columns, reader.arrays, reader.manifest.fit):
        found(row, what)
    try:
        file = ScoreFile(reader, shard)
    except (DamagedStoreError, ForbiddenError) as error:
        unread.append(error)
        found(-1, str(error))
        advance(reader.rows_per_shard)
    else:
        for row, what in _map_findings(reader, file, columns, advance):
            found(row, what)
        is_broken = file.is_broken
    if "status" in columns:
        status = columns["status"]
        check.images = np.bincount(status[status <= FAILED], minlength=3)
        for what in _count_findings(reader, shard, int((status != NO_IMAGE).sum())):
            found(-1, what)
    if unread or not _is_as_written(reader, shard, columns["digest"]):
        # A file that this user may not read may be whole.
        check.is_damaged = not unread or any(not isinstance(error, ForbiddenError) for error in unread)
        check.is_foreign = not unread and not is_broken
        # Of a shard that is damaged otherwise it is no news.
        if not check.findings:
            found(-1, _FOREIGN)
    check.rows = shard_rows(columns, shard * reader.rows_per_shard)
    return check


def _is_as_written(reader: StoreReader, shard: int, digest: NDArray[Any]) -> bool:
    """Whether the files are those that the shard was published with: labelling it again would give the same ones."""
    try:
        return bool((found_digest(reader, shard) == digest).all())
    except DamagedStoreError:
        # The maps are read one by one, and a file that is far too long is never read whole.
        return False


def _count_findings(reader: StoreReader, shard: int, used: int) -> Iterator[str]:
    counts = reader.manifest.data.counts
    if counts and used != counts[shard]:
        yield f"{used} rows hold an image, and the manifest says {counts[shard]}"
    if not used:
        yield "no row holds an image"


def _map_findings(
    reader: StoreReader, file: ScoreFile, columns: Columns, advance: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    """Findings of the shard's score maps; a damaged one is found once, and the others are checked all the same."""
    status = columns.get("status")
    labeled = file.claimed if status is None else status == LABELED
    yield from file.faults
    for row in np.flatnonzero(labeled != file.claimed).tolist():
        yield row, "its status and its score map disagree: one says labelled, one not"
    stored = np.flatnonzero(file.stored)
    batch = max(1, min(_BATCH, _BATCH_BYTES // reader.manifest.scores.map_bytes))
    for start in range(0, len(stored), batch):
        rows = stored[start : start + batch]
        scores, carried, faults = file.read(rows)
        yield from ((int(rows[i]), what) for i, what in faults)
        sound = labeled[rows]
        sound[[i for i, _ in faults]] = False
        if "checksum" in columns:
            for row in rows[sound & (carried != columns["checksum"][rows])].tolist():
                yield row, "its map carries another checksum than `checksum` holds of it: it is another row's or run's"
        if not sound.all():
            rows, scores = rows[sound], scores[sound]
        maps = Maps(scores=scores, classes=_some(columns, "classes", rows), profile=_some(columns, "profile", rows))
        for i, what in content_findings(maps, reader.manifest.scores, reader.manifest.class_names):
            yield int(rows[i]), what
        advance(len(sound))
    advance(reader.rows_per_shard - len(stored))


def _some(columns: Mapping[str, NDArray[Any]], name: str, rows: NDArray[np.intp]) -> NDArray[Any] | None:
    return columns[name][rows] if name in columns else None
