"""The loop over shard tasks: images to pixels, pixels to score maps, score maps to published shards."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.ambient import torch_defaults
from relabel.cores import usable_cores
from relabel.errors import TeacherError
from relabel.generate.annotate import AnnotatedBatch, Annotator, PendingScores
from relabel.generate.batch_size import fastest_batch_size
from relabel.generate.batches import BatchPlan, DecodedBatch, DecodedBatches, ShardFailure
from relabel.generate.doubts import Doubts, tell_of_change
from relabel.generate.options import GenerateOptions, GenerateSummary, StageSeconds, merged
from relabel.generate.peers import Peers
from relabel.generate.planning import listed, manifest_of, tell_of_classes
from relabel.generate.publish import OpenShard, Publisher
from relabel.generate.reuse import OldStore
from relabel.images import ImageSource, Listing, open_source
from relabel.manifest import PER_ROW
from relabel.plan import Failure, ShardTask, missing, share
from relabel.progress import Progress
from relabel.store import StoreWriter, create_or_open, remaining
from relabel.store.remaining import Remaining
from relabel.teacher import Ensemble, EnsembleSpec, Teacher, TeacherSpec, load_ensemble
from relabel.teacher.blame import first_line

_FEW = 8
"""Images of a forward pass where no keys say that there is anything to label, so that no size was tried."""


@torch_defaults()
def generate(
    images: str | ImageSource,
    store: str | Path,
    teacher: TeacherSpec | EnsembleSpec | Teacher | Ensemble,
    options: GenerateOptions | None = None,
) -> GenerateSummary:
    """Label every image of a source and publish the store's missing shards.

    Under torchrun the first process waits in the end for the others, and its summary tells of all.

    Args:
        images: a folder of class folders; a webdataset tar, glob, brace pattern or URL.
        store: the store's folder, made if it is not there.
        teacher: what to load, one teacher or several, or what was loaded.
        options: everything else.

    Raises:
        SourceError: the images cannot be listed, or hold duplicate keys.
        TeacherError: the teacher cannot be loaded or proved, fails on a shard (it says on which), or not even one image
            fits into the device's memory.
        ManifestMismatchError: the store, or the older one, was made by another teacher, other preprocessing or images.
        StoreError: the store cannot be written.
    """
    options = options or GenerateOptions()
    source = open_source(images, options=options)
    ensemble = _loaded(teacher)
    peers = Peers.of_run(options.rank, options.world_size)
    shown = options.show_progress and peers.leads
    listing = listed(source, options, title=peers.title("listing images"), shown=shown)
    manifest = manifest_of(ensemble, listing.record, options)
    reuse = None if options.reuse is None else OldStore(options.reuse, manifest, Path(store))
    writer = create_or_open(Path(store), manifest, listing.keys(), reuse_option="--reuse")
    mine = share(listing.tasks, options.rank, options.world_size)
    left = remaining(writer, mine, retry_failed=options.retry_failed)
    if left.tasks and peers.leads:
        tell_of_change("the store", writer.manifest.versions, manifest.versions)
        if not writer.published():
            tell_of_classes(manifest.class_spaces(listing.most_label))
    listing = _looked_up(reuse, listing, left.tasks, shown=shown)
    annotator = Annotator(ensemble, writer.manifest.scores)
    plan = BatchPlan(
        views=ensemble.views,
        batch_size=_batch_size(options, annotator, ensemble, _most(left.tasks, reuse), peers),
        fingerprints=listing.fingerprints,
        # One per core, also with a teacher on the CPU, which wants the cores itself: what decoding takes, it then takes
        # from all of them alike, and no part of the forward pass waits for a slower one.
        threads=options.workers or max(1, usable_cores() // peers.on_this_machine),
        device=ensemble.device,
        reuse=reuse,
    )
    # Which of theirs other processes will label again is not known here.
    everyone = listing.tasks if peers.are_shared else mine
    is_idle = not (left.tasks or options.retry_failed or missing(everyone, writer.published()))
    with _bar(peers.title("labelling"), source, shown=shown and not is_idle) as progress:
        run = _Run(annotator, writer, peers, progress, left)
        summary = replace(
            run.label(source, plan),
            shards=len(mine),
            shards_skipped=len(mine) - len(left.tasks) - len(left.blocked),
            max_failures=options.max_failures,
            left_out=dict(listing.left_out),
            **left.earlier,
        )
        told = peers.gather(summary, run.tell)
    return _of_all(told, listing.tasks, writer, peers)


def _bar(title: str, source: ImageSource, *, shown: bool) -> Progress:
    return Progress(title, None, unit="images", shown=shown, reading=lambda: source.reading)


def _loaded(teacher: TeacherSpec | EnsembleSpec | Teacher | Ensemble) -> Ensemble:
    if isinstance(teacher, TeacherSpec):
        teacher = EnsembleSpec(teachers=(teacher,))
    if isinstance(teacher, EnsembleSpec):
        return load_ensemble(teacher)
    return Ensemble.of(teacher) if isinstance(teacher, Teacher) else teacher


def _batch_size(options: GenerateOptions, annotator: Annotator, ensemble: Ensemble, most: int, peers: Peers) -> int:
    if options.batch_size != "auto":
        return options.batch_size
    if not most:
        # Nothing will be labelled, or a few images that have changed, and other processes need not hear of it.
        return _FEW
    return peers.agree(
        lambda: fastest_batch_size(annotator, ensemble.views, ensemble.device, most=most, shown=options.show_progress)
    )


def _looked_up(reuse: OldStore | None, listing: Listing, tasks: Sequence[ShardTask], *, shown: bool) -> Listing:
    """The listing without its keys, millions that nothing needs once an older store was asked for them."""
    if tasks and reuse is not None:
        reuse.read(listing, tasks, shown=shown)
    return replace(listing, parts=())


def _most(tasks: Sequence[ShardTask], reuse: OldStore | None) -> int:
    """The most images of a shard that the teacher is to see."""
    return max((task.count if reuse is None else reuse.lacks(task) for task in tasks), default=0)


def _of_all(
    told: Mapping[int, GenerateSummary], tasks: Sequence[ShardTask], writer: StoreWriter, peers: Peers
) -> GenerateSummary:
    """The summary that this process returns: its own, or that of all; who did not tell is judged by the store."""
    if peers.rank or not peers.are_shared:
        return told[peers.rank]
    failures = [
        Failure(task.shard, "", f"process {rank} did not publish it, and has said nothing for long. Run again")
        for rank in set(range(peers.world_size)) - told.keys()
        for task in missing(share(tasks, rank, peers.world_size), writer.published())
    ]
    summary = merged(list(told.values()))
    return replace(summary, shards=len(tasks), failures=(*failures, *summary.failures))


class _Run:
    """One process's share of a run: three stages, two batches between the device and the disk."""

    def __init__(
        self, annotator: Annotator, writer: StoreWriter, peers: Peers, progress: Progress, left: Remaining
    ) -> None:
        self._annotator, self._writer, self._peers, self._progress = annotator, writer, peers, progress
        self._left = left
        self._waits, self._busy = StageSeconds(), StageSeconds()
        self._fallbacks = 0
        self._is_listed, self._has_asked = True, False
        self._shard: OpenShard | None = None
        self._doubts = Doubts(annotator.asked)
        self._in_flight: deque[tuple[OpenShard, DecodedBatch, PendingScores | AnnotatedBatch]] = deque()

    def label(self, source: ImageSource, plan: BatchPlan) -> GenerateSummary:
        """Label the images of the tasks that are left, and publish their shards."""
        tasks = self._left.tasks
        self._is_listed = bool(plan.fingerprints)
        self._peers.count(total=sum(task.count for task in tasks))
        started = time.perf_counter()

        def advance(count: int) -> None:
            self.tell(count, f"waiting for {self._waits.note(time.perf_counter() - started)}")

        # Left in this order: what is on the disk is cleared away even where a reader or decoder is stuck.
        with DecodedBatches(source, tasks, plan) as decoded, contextlib.closing(Publisher(advance)) as publisher:
            unread = self._drive(decoded, publisher)
            with self._waits.on("disk"):
                publisher.finish()
        self._busy.disk = publisher.busy_seconds
        return GenerateSummary(
            shards=len(tasks),
            shards_skipped=0,
            shards_published=publisher.published,
            images=publisher.images,
            failures=(*self._left.blocked, *unread, *publisher.failures),
            seconds=time.perf_counter() - started,
            waits=self._waits,
            busy=self._busy,
            copied=publisher.copied,
            batch_size=plan.batch_size if self._has_asked else 0,
            fallbacks=self._fallbacks,
            doubts=tuple(self._doubts.found),
        )

    def tell(self, done: int = 0, note: str = "") -> int:
        """Count images that are done, and show how far all processes are; returns how many are done in all."""
        count, total = self._peers.count(done=done)
        self._progress.reach(count, total if self._is_listed else None, note)
        return count

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
            with self._waits.on("device"), _of(item.task):
                self._in_flight.append((shard, item, self._started(item)))
            # One batch stays on the device while the one before it is fetched.
            self._drain(publisher, keep=1)
        self._drain(publisher, keep=0)
        self._doubts.end()
        return unread

    def _started(self, batch: DecodedBatch) -> PendingScores | AnnotatedBatch:
        """The maps of a batch on their way from the device, or those that an older store had."""
        if batch.maps is not None:
            return AnnotatedBatch(batch.maps, np.ones(len(batch.rows), np.bool_), 0.0)
        self._has_asked = True
        pending = self._annotator.annotate(batch.views)
        self._doubts.begin(batch.views, is_compiled=self._annotator.is_compiled)
        return pending

    def _next(self, arriving: Iterator[DecodedBatch | ShardFailure]) -> DecodedBatch | ShardFailure | None:
        with self._waits.on("data"):
            return next(arriving, None)

    def _open(self, task: ShardTask, publisher: Publisher) -> OpenShard:
        if self._shard is None or self._shard.task != task:
            writer = self._writer.claim(task.shard, again=task.shard in self._left.again)
            self._shard = publisher.open(OpenShard(task, writer, self._writer.manifest.footprint == PER_ROW))
        return self._shard

    def _drain(self, publisher: Publisher, *, keep: int) -> None:
        """Hand the oldest batches over to the publisher until `keep` are left on the device."""
        while len(self._in_flight) > keep:
            shard, batch, pending = self._in_flight.popleft()
            with self._waits.on("device"), _of(shard.task):
                found = pending if isinstance(pending, AnnotatedBatch) else pending.wait()
            if batch.maps is None:
                self._doubts.see(batch.rows, found)
            self._busy.data += batch.seconds
            self._busy.device += found.seconds
            self._fallbacks += batch.fallbacks
            with self._waits.on("disk"):
                publisher.put(shard, batch, found.scores, found.finite)


@contextlib.contextmanager
def _of(task: ShardTask) -> Iterator[None]:
    """Say of a teacher's error which shard it fails on; a GPU tells of some only when its answer is fetched."""
    try:
        yield
    except (TeacherError, RuntimeError) as error:
        why = str(error) if isinstance(error, TeacherError) else first_line(error)
        raise TeacherError(
            f"shard {task.shard} ({task.source}) cannot be labelled: {why}. Shards published so far are safe: "
            "the same command goes on with the others"
        ) from error
