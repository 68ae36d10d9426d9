"""`verify_shards`: every file, checksum and promise of a store, and against the images, keys and hashes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel.cores import Threads, stoppable_threads, usable_cores
from relabel.errors import StoreError
from relabel.findings import Finding
from relabel.images import ImageSource, open_source, stopping
from relabel.progress import Progress
from relabel.store import FAILED, LABELED, StoreReader
from relabel.store.create import owns_any
from relabel.verify.compare import compare_images
from relabel.verify.keys import KeyTable
from relabel.verify.metadata import metadata_findings
from relabel.verify.options import ShardsOptions
from relabel.verify.repair import OF_ANOTHER, Repair, Repairer, remake_metadata
from relabel.verify.shard import ShardCheck, check_shard, not_published

_UNSEEN = ("whether all keys together are those that the fingerprint was made of", "keys that stand twice elsewhere")
_UNSEEN_IMAGES = ("whether every image has a row",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsReport:
    """The outcome of `verify_shards`: what was looked at, and what was found, ordered by shard and row.

    Attributes:
        shards: that were looked at, of the store's `shards_in_store`.
        images, labeled, failed: rows of these.
        images_compared: with the images, if those were given.
        damaged: the shards that labelling again mends.
        not_checked: what looking at a part of the shards cannot show; empty where all were looked at.
        repair: what was done; None where nothing was asked for.
    """

    shards: int
    shards_in_store: int
    images: int
    labeled: int
    failed: int
    images_compared: int
    seconds: float
    findings: tuple[Finding, ...]
    damaged: tuple[int, ...]
    not_checked: tuple[str, ...] = ()
    repair: Repair | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def is_good(self) -> bool:
        """Whether nothing is left to do: nothing was found, or all of it was mended."""
        return self.is_clean or (self.repair is not None and self.repair.is_whole)


def verify_shards(
    store: str | Path,
    images: str | ImageSource | None = None,
    options: ShardsOptions | None = None,
    *,
    workers: int | None = None,
    show_progress: bool = True,
) -> ShardsReport:
    """Check a store, and with `images` (as `relabel generate` takes them) that it labels those; mend it if asked to.

    Every file is checked by itself, so that a damaged one hides no other. A change of a zarr.json is found where
    anything in the store contradicts it; what the manifest merely tells (the teacher's name, say) nothing can.

    Args:
        store: the store's folder; of a URL, the copy in the local cache is checked.
        images: a folder or tars; None checks the store alone.
        options: a part of the shards, and whether to repair; None looks at all, and changes nothing.
        workers: threads; None is one a core. All but zstd runs outside Python's lock.
        show_progress: bars on stderr.

    Raises:
        StoreError: not a store at all, or its manifest was changed; or memory or descriptors ran out.
        SourceError: the images cannot be found.
    """
    options = options or ShardsOptions()
    started = time.perf_counter()
    remade = remake_metadata(store, options.copy) if options.repair else []
    reader = StoreReader(store, partial=True, lenient=True)
    chosen = options.chosen(reader.num_shards)
    # A mistyped path must not be found out only after the store was read.
    source = None if images is None else open_source(images, options=options)
    repairer = Repairer(reader, store, options.copy) if options.repair else None
    compared = 0
    try:
        with stoppable_threads(workers or usable_cores()) as threads:
            checks = _checked(reader, chosen, threads, show_progress)
            findings = [finding for check in checks.values() for finding in check.findings]
            findings += [Finding(-1, -1, "", what) for _, what in remade]
            findings += [Finding(-1, -1, "", what) for what in metadata_findings(reader)]
            foreign = _foreign(reader, checks)
            damaged = tuple(shard for shard, check in checks.items() if check.is_damaged and not foreign)
            if repairer is not None:
                checks |= _mended(repairer, checks, threads, retracts=not foreign)
            table = KeyTable(reader, [check.rows for check in checks.values()], is_part=options.is_part)
            of_all = [*table.findings(), *_unlike(store, options.digest)]
            of_all += [] if repairer and repairer.done.restored else foreign
            if source is not None:
                compared, differences = _compared(source, table, threads, show_progress)
                of_all += differences
    except MemoryError as error:
        raise StoreError("memory ran out; give fewer --workers") from error
    unseen = _UNSEEN + (_UNSEEN_IMAGES if source is not None else ())
    total = np.sum([np.zeros(3, np.int64), *(check.images for check in checks.values())], axis=0)
    return ShardsReport(
        shards=len(chosen),
        shards_in_store=reader.num_shards,
        images=int(total[LABELED] + total[FAILED]),
        labeled=int(total[LABELED]),
        failed=int(total[FAILED]),
        images_compared=compared,
        seconds=time.perf_counter() - started,
        findings=tuple(sorted([*findings, *of_all])),
        damaged=damaged,
        not_checked=unseen if options.is_part else (),
        repair=None if repairer is None else repairer.outcome([file for file, _ in remade], checks.values(), of_all),
    )


def _compared(source: ImageSource, table: KeyTable, threads: Threads, shown: bool) -> tuple[int, list[Finding]]:
    bar = Progress("comparing images", len(table), unit="images", shown=shown, reading=lambda: source.reading)
    with bar as progress, stopping(source):
        return compare_images(source, table, threads.pool, threads.unless_stopped(progress.advance))


def _unlike(store: str | Path, digest: str | None) -> Iterator[Finding]:
    """What is found of a store that should have that digest, once it was mended."""
    if digest is not None:
        try:
            StoreReader(store, digest=digest)
        except StoreError as error:
            yield Finding(-1, -1, "", str(error))


def _checked(reader: StoreReader, chosen: range, threads: Threads, show_progress: bool) -> dict[int, ShardCheck]:
    with Progress("verifying", len(chosen) * reader.rows_per_shard, unit="rows", shown=show_progress) as bar:
        advance = threads.unless_stopped(bar.advance)

        def look(shard: int) -> ShardCheck:
            if shard in reader.published:
                return check_shard(reader, shard, advance)
            advance(reader.rows_per_shard)
            return not_published(shard)

        return dict(zip(chosen, threads.pool.map(look, chosen), strict=True))


def _foreign(reader: StoreReader, checks: dict[int, ShardCheck]) -> list[Finding]:
    """One if shards are whole, and none of all that are published belongs to the manifest: that is what is wrong."""
    if any(check.is_foreign for check in checks.values()) and not owns_any(reader.files, reader.manifest):
        return [Finding(-1, -1, "", OF_ANOTHER)]
    return []


def _mended(
    repairer: Repairer, checks: dict[int, ShardCheck], threads: Threads, *, retracts: bool
) -> dict[int, ShardCheck]:
    """The shards that something was found of, after the repair."""
    repairer.retracts &= retracts
    repairer.sweep()
    wrong = [shard for shard, check in checks.items() if check.findings]
    return dict(zip(wrong, threads.pool.map(lambda shard: repairer.mend(shard, checks[shard]), wrong), strict=True))
