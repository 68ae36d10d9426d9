"""The import: list, scan, decide what the store is, and convert shard by shard."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relabel.cores import stoppable_threads
from relabel.errors import InvalidValueError
from relabel.images import ImageSource, open_source, stopping
from relabel.importers.archive import Rows, list_archive, rows_of_files, rows_of_images
from relabel.importers.files import Scan, added, scan
from relabel.importers.options import PUBLISHED, ImportOptions, ImportSummary
from relabel.importers.result import layout_of, manifest_of
from relabel.importers.shard import ImportedShard, ShardJob, files_of, import_shard
from relabel.importers.workers import Workers
from relabel.paths import expanded
from relabel.plan import Failure, ShardTask
from relabel.progress import Progress
from relabel.store import create_or_open, read_manifest, remaining

_LISTED = 1000
"""Failures that a summary names; the store has them all."""


def import_archive(
    folder: str | Path, store: str | Path, options: ImportOptions, images: str | ImageSource | None = None
) -> ImportSummary:
    """Make a store of raw logits of a published archive's per-image files, or finish one.

    The archive is read twice: once to see what it is, once to convert it. A file that is no map becomes a failed row.

    Args:
        folder: the archive, unpacked: class folders of .pt files.
        store: the store's folder, made if it is not there.
        options: everything else.
        images: what it labels, as for `generate`, whose keys, hashes and classes the store gets; None makes keys of the
            files' names.

    Raises:
        SourceError: there is no archive, it does not belong to the images, or a source cannot be listed.
        InvalidValueError: the archive is of the other format, or its maps cover centre squares and there are no images.
        ManifestMismatchError: the store was made of another archive, of other images or with other options.
        StoreError: the store cannot be written.
    """
    started = time.perf_counter()
    path, shown = expanded(store), options.show_progress
    if path.is_dir() and any(path.iterdir()) and not (path / "status").is_dir():
        # That it is no store must not be found out only after minutes.
        read_manifest(path)
    source = _source(images, options)
    rows = _rows(expanded(folder), source, options)
    with Workers(options.threads, rows.with_map) as workers:
        with Progress("scanning maps", rows.with_map, unit="maps", shown=shown) as progress:
            found, digests = _scanned(rows, options, workers, progress)
        layout = layout_of(found, options)
        writer = create_or_open(path, manifest_of(rows, found, layout, options), rows.keys)
        left = remaining(writer, rows.tasks)
        job = ShardJob(
            rows=rows,
            source=source,
            num_classes=options.num_classes,
            layout=layout,
            digests=digests,
            writer=writer,
            again=left.again,
            workers=workers,
        )
        done = _imported(job, left.tasks, options)
    return ImportSummary(
        shards=len(rows.tasks),
        shards_skipped=len(rows.tasks) - len(left.tasks) - len(left.blocked),
        seconds=time.perf_counter() - started,
        planes=layout.planes,
        classes_most=max(most for kind, most in found.most.items() if kind.shape == layout.shape),
        classes_mean=found.listed / sum(found.kinds.values()),
        maps=len(rows.archive.stems),
        maps_without_image=rows.maps_without_image,
        footprint=options.whose_footprint,
        orientation=options.orientation,
        max_failures=options.max_failures,
        **left.earlier,
        **_totals(done, left.blocked),
    )


def _imported(job: ShardJob, tasks: Sequence[ShardTask], options: ImportOptions) -> list[ImportedShard]:
    todo, source = sum(task.count for task in tasks), job.source
    with (
        Progress(
            "importing",
            todo,
            unit="images",
            shown=options.show_progress and bool(todo),
            reading=lambda: source.reading if source else "",
        ) as progress,
        stoppable_threads(options.threads) as threads,
        stopping(source),
    ):
        advance = threads.unless_stopped(progress.advance)
        return list(threads.pool.map(lambda task: import_shard(job, task, advance), tasks))


def _source(images: str | ImageSource | None, options: ImportOptions) -> ImageSource | None:
    if images is None and options.whose_footprint == "center":
        raise InvalidValueError(
            f"a map of {PUBLISHED[options.archive].title} covers the centre square of its image, and where that lies "
            "depends on the image's size: give --images, which are read but not decoded; or --footprint whole for an "
            "archive that was made of whole images"
        )
    return None if images is None else open_source(images, options=options)


def _totals(done: list[ImportedShard], blocked: Sequence[Failure]) -> dict[str, Any]:
    """The part of a summary that is of the shards of this run."""
    refusals = [shard.refusal for shard in done if shard.refusal is not None]
    failures = [*blocked, *refusals] + [failure for shard in done for failure in shard.failures]
    return {
        "shards_published": len(done) - len(refusals),
        "images": sum(shard.images for shard in done),
        "failures": tuple(failures[:_LISTED]),
        "failures_unlisted": len(failures[_LISTED:]),
        "scores": sum(shard.scores for shard in done),
        "scores_dropped": sum(shard.dropped for shard in done),
    }


def _rows(folder: Path, source: ImageSource | None, options: ImportOptions) -> Rows:
    with Progress("listing maps", None, unit="maps", shown=options.show_progress) as progress:
        archive = list_archive(folder, progress.advance)
    if source is None:
        return rows_of_files(archive, options.extension, options.samples_per_shard)
    with Progress(
        "listing images", None, unit="images", shown=options.show_progress, reading=lambda: source.reading
    ) as progress:
        listing = source.listing(options.samples_per_shard, workers=options.threads, progress=progress.advance)
    if not listing.parts:
        raise InvalidValueError("--samples-per-shard is for folders of images; a tar is a shard. Leave it out")
    return rows_of_images(archive, listing, source.root_name)


def _scanned(rows: Rows, options: ImportOptions, workers: Workers, progress: Progress) -> tuple[Scan, list[int]]:
    """What all files are, and the digest of each shard's."""
    calls = ((task.shard, files) for task in rows.tasks for files in files_of(rows, task, options.num_classes))
    shards, files = itertools.tee(calls)
    total, digests = Scan(), [0] * len(rows.tasks)
    outcomes = workers.map(scan, ((some,) for _, some in files), ahead=3 * workers.count)
    for (shard, _), found in zip(shards, outcomes, strict=True):
        total.add(found)
        digests[shard] = added(digests[shard], found.digest)
        progress.advance(found.files)
    return total, digests
