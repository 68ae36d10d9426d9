"""The loop over shard tasks: images to pixels, pixels to score maps, score maps to published shards."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from relabel.generate.annotate import Annotator, PendingScores
from relabel.generate.batches import BatchPlan, DecodedBatch, DecodedBatches, ShardFailure
from relabel.generate.options import Failure, GenerateOptions, GenerateSummary, Waits
from relabel.generate.publish import OpenShard, Publisher
from relabel.images import ImageSource, open_source
from relabel.manifest import DataRecord, Manifest, ScoreRecord, fingerprint
from relabel.plan import ROWS_PER_SHARD, ShardTask, missing, plan, share
from relabel.progress import Progress
from relabel.store import FAILED, NO_IMAGE, StoreReader, StoreWriter, create_or_open
from relabel.teacher import Teacher, TeacherSpec, load_teacher


def generate(
    images: str, store: str | Path, teacher: TeacherSpec | Teacher, options: GenerateOptions | None = None
) -> GenerateSummary:
    """Label every image of a source and publish the store's missing shards.

    Args:
        images: a folder of class folders; a webdataset tar, glob, brace pattern or URL.
        store: the store's folder, made if it is not there.
        teacher: what to load, or a loaded teacher.
        options: everything else.

    Raises:
        SourceError: the images cannot be listed, or hold duplicate keys.
        TeacherError: the teacher cannot be loaded or proved.
        ManifestMismatchError: the store was made by another teacher, other preprocessing or other images.
        StoreError: the store cannot be written.
    """
    options = options or GenerateOptions()
    source = open_source(images)
    loaded = teacher if isinstance(teacher, Teacher) else load_teacher(teacher)
    tasks, data, fingerprints = _listed(source, options)
    manifest = Manifest(
        teacher=loaded.record,
        preprocessing=loaded.preprocessing,
        scores=_score_record(loaded, options),
        data=data,
        footprint=(0.0, 0.0, 1.0, 1.0) if loaded.preprocessing.fit == "squash" else None,
        versions={name: _version(name) for name in ("relabel", "torch", "torchvision", "timm")},
    )
    writer = create_or_open(Path(store), manifest)
    mine = share(tasks, options.rank, options.world_size)
    todo = missing(mine, writer.published())
    batches = BatchPlan(
        preprocessing=loaded.preprocessing,
        batch_size=options.batch_size,
        fingerprints=fingerprints,
        threads=options.decode_threads,
        pinned=loaded.device.type == "cuda",
    )
    summary = _Run(loaded, writer, options).label(source, todo, batches, shards=len(mine))
    # A rerun that skips every shard must not make an earlier run's failures look mended.
    reader = StoreReader(store, partial=True)
    statuses = [reader.statuses(task.shard) for task in mine if task not in todo]
    return replace(
        summary,
        failed_earlier=sum(int((status == FAILED).sum()) for status in statuses),
        images_earlier=sum(int((status != NO_IMAGE).sum()) for status in statuses),
    )


def _listed(source: ImageSource, options: GenerateOptions) -> tuple[tuple[ShardTask, ...], DataRecord, tuple[str, ...]]:
    """The run's tasks, the record of its data, and the fingerprint of each task's keys.

    One pass over the keys; where the user skipped it there are no counts and no fingerprints.
    """
    if source.kind == "webdataset" and options.samples_per_shard is not None:
        tasks = plan([(name, options.samples_per_shard) for name in source.parts()])
        keys: Iterable[str] = source.parts()
        fingerprints: tuple[str, ...] = ()
    else:
        with Progress("listing images", None, unit="images", shown=options.show_progress) as progress:
            listing = source.listing(workers=options.decode_threads, progress=progress.advance)
        parts = {part.name: part.keys for part in listing}
        rows = (options.samples_per_shard or ROWS_PER_SHARD) if source.kind == "folder" else None
        tasks = plan([(name, len(keys)) for name, keys in parts.items()], rows_per_shard=rows)
        keys = itertools.chain.from_iterable(parts.values())
        fingerprints = tuple(fingerprint(parts[t.source][t.first : t.first + t.count]) for t in tasks)
    names = tuple(
        task.source if source.kind == "webdataset" else f"images {task.first} to {task.first + task.count}"
        for task in tasks
    )
    record = DataRecord(
        kind=source.kind,
        shards=names,
        counts=tuple(task.count for task in tasks) if fingerprints else (),
        rows_per_shard=max(task.count for task in tasks),
        fingerprint=fingerprint(keys),
    )
    return tasks, record, fingerprints


def _score_record(teacher: Teacher, options: GenerateOptions) -> ScoreRecord:
    planes = min(options.planes, teacher.num_classes)
    return ScoreRecord(
        num_classes=teacher.num_classes,
        planes=planes,
        profile=min(options.profile, teacher.num_classes - planes),
        grid_hw=teacher.grid.size_hw,
        dtype=options.dtype,
        compression=options.compression,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return "unknown"


class _Run:
    """One process's share of a run: three stages, two batches between the device and the disk."""

    def __init__(self, teacher: Teacher, writer: StoreWriter, options: GenerateOptions) -> None:
        self._writer, self._options = writer, options
        self._annotator = Annotator(teacher, writer.manifest.scores, writer.arrays["classes"].dtype)
        self._waits = Waits()
        self._shard: OpenShard | None = None
        self._in_flight: deque[tuple[OpenShard, DecodedBatch, PendingScores]] = deque()

    def label(
        self, source: ImageSource, tasks: Sequence[ShardTask], batches: BatchPlan, *, shards: int
    ) -> GenerateSummary:
        """Label the tasks' images and publish their shards; `shards` is the number of this process's, all told."""
        total = sum(task.count for task in tasks) if batches.fingerprints else None
        started = time.perf_counter()
        with Progress("labelling", total, unit="images", shown=self._options.show_progress and bool(tasks)) as progress:
            publisher = Publisher(
                lambda count: progress.advance(count, self._waits.note(time.perf_counter() - started))
            )
            try:
                with DecodedBatches(source, tasks, batches) as decoded:
                    unread = self._drive(decoded, publisher)
                with self._waits.on("disk"):
                    publisher.finish()
            finally:
                publisher.close()
        return GenerateSummary(
            shards=shards,
            shards_skipped=shards - len(tasks),
            shards_published=publisher.published,
            images=publisher.images,
            failures=(*unread, *publisher.failures),
            seconds=time.perf_counter() - started,
            waits=self._waits,
            max_failures=self._options.max_failures,
        )

    def _drive(self, batches: DecodedBatches, publisher: Publisher) -> list[Failure]:
        """Push every batch through the device to the publisher; returns the shards that could not be read."""
        unread: list[Failure] = []
        arriving = iter(batches)
        while (item := self._next(arriving)) is not None:
            if isinstance(item, ShardFailure):
                unread.append(Failure(item.task.shard, "", str(item.error)))
                self._drain(publisher, keep=0)
                if self._shard is not None and self._shard.task == item.task:
                    publisher.give_up(self._shard)
                continue
            shard = self._open(item.task, publisher)
            with self._waits.on("device"):
                self._in_flight.append((shard, item, self._annotator.annotate(item.pixels)))
            # One batch stays on the device while the one before it is fetched.
            self._drain(publisher, keep=1)
        self._drain(publisher, keep=0)
        return unread

    def _next(self, arriving: Iterator[DecodedBatch | ShardFailure]) -> DecodedBatch | ShardFailure | None:
        with self._waits.on("data"):
            return next(arriving, None)

    def _open(self, task: ShardTask, publisher: Publisher) -> OpenShard:
        if self._shard is None or self._shard.task != task:
            writer = self._writer.claim(task.shard)
            self._shard = publisher.open(OpenShard(task, writer, self._writer.manifest.footprint is None))
        return self._shard

    def _drain(self, publisher: Publisher, *, keep: int) -> None:
        """Hand the oldest batches over to the publisher until `keep` are left on the device."""
        while len(self._in_flight) > keep:
            shard, batch, pending = self._in_flight.popleft()
            with self._waits.on("device"):
                scores, finite = pending.wait()
            with self._waits.on("disk"):
                publisher.put(shard, batch, scores, finite)
