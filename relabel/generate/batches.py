"""The data stage: shard tasks in, decoded batches out, read and decoded ahead of the device.

One thread reads the source, a pool of threads decodes and resizes: that work happens outside Python's lock, and threads
hand uint8 pixels on without a copy between processes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from relabel.errors import SourceError, lacks_memory
from relabel.generate.decoders import Pixels, decoder
from relabel.generate.reuse import Copied, Numbered, OldStore
from relabel.images import EncodedImage, ImageSource
from relabel.manifest import Preprocessing, fingerprint
from relabel.plan import ShardTask, even_batches
from relabel.store import Row, RowBatch


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Images of a task, uint8 (n, 3, h, w) once for each of the plan's views; zeros for failed images.

    `places` are their numbers in the task. `maps` are those that an older store had of them; then there are no views.
    `is_last` says that the task ends here, and that its images were those that were listed; `fallbacks` is how many of
    them a slower decoder had to read, `seconds` how long the decoding threads worked on it, their mean.
    """

    task: ShardTask
    views: tuple[Tensor, ...]
    rows: list[Row]
    places: list[int]
    is_last: bool
    maps: RowBatch | None = None
    fallbacks: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A task whose source could not be read to its end, or held other images than were listed."""

    task: ShardTask
    error: SourceError


@dataclass(frozen=True, slots=True)
class _Pending:
    task: ShardTask
    pixels: Callable[[], Pixels]
    places: list[int]
    is_last: bool
    maps: RowBatch | None = None

    def decoded(self) -> DecodedBatch:
        """The same, once its pixels are there."""
        found = self.pixels()
        return DecodedBatch(
            task=self.task,
            views=found.views,
            rows=found.rows,
            places=self.places,
            is_last=self.is_last,
            maps=self.maps,
            fallbacks=found.fallbacks,
            seconds=found.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How batches are cut and how far ahead they are read.

    `device` is the teacher's; where the views say so ("cuda"), JPEGs are decoded on it.
    `fingerprints` holds the digest of each shard's listed keys. Without a listing it is empty; then a task's count is
    an upper bound, and its batches are not evened out. At most `ahead` + 2 batches of pixels are held at a time,
    besides those that were handed out. What `reuse` has is copied: only the other images make batches.
    """

    views: tuple[Preprocessing, ...]
    batch_size: int
    fingerprints: tuple[str, ...]
    threads: int
    device: torch.device
    ahead: int = 4
    reuse: OldStore | None = None


class DecodedBatches:
    """An iterator over the tasks' batches, in order; close it (or leave its `with` block) to stop its threads."""

    def __init__(self, source: ImageSource, tasks: Sequence[ShardTask], plan: BatchPlan) -> None:
        self._source, self._tasks, self._plan = source, tasks, plan
        self._queue: queue.Queue[_Pending | ShardFailure | BaseException | None] = queue.Queue(plan.ahead)
        self._stopped = threading.Event()
        self._decoder = decoder(plan.views, plan.threads, plan.device)
        self._feeder = threading.Thread(target=self._feed, name="read-images", daemon=True)
        self._feeder.start()

    def __enter__(self) -> DecodedBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and decoding; what was read ahead is dropped."""
        self._stopped.set()
        if self._feeder.is_alive():
            self._source.stop()
        # A reader stuck on a dead disk must not keep the run alive: the thread is a daemon.
        self._feeder.join(timeout=1)
        self._decoder.close()

    def __iter__(self) -> Iterator[DecodedBatch | ShardFailure]:
        lost: ShardTask | None = None
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if item.task == lost:
                continue
            if isinstance(item, ShardFailure):
                yield item
                continue
            try:
                found = item.decoded()
            except (MemoryError, RuntimeError) as error:
                if not lacks_memory(error):
                    raise
                # A passing state of the machine is no property of an image: never a row that says so for ever.
                lost = item.task
                yield ShardFailure(lost, _out_of_memory(lost))
                continue
            yield found

    def _feed(self) -> None:
        try:
            for task in self._tasks:
                try:
                    for pending in self._pending(task):
                        self._put(pending)
                except SourceError as error:
                    self._put(ShardFailure(task, error))
            self._put(None)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001
            # Carried to the thread that iterates, and raised there.
            with contextlib.suppress(_StoppedError):
                self._put(error)

    def _put(self, item: _Pending | ShardFailure | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _StoppedError

    def _pending(self, task: ShardTask) -> Iterator[_Pending]:
        parts = self._parts(task)
        part = next(parts, None)
        while part is not None:
            # Read before its predecessor is handed out, so that a last batch is known as such.
            following = next(parts, None)
            if isinstance(part, Copied):
                pixels: Callable[[], Pixels] = partial(Pixels, (), part.rows, fallbacks=0, seconds=0.0)
                yield _Pending(task, pixels, part.places, is_last=following is None, maps=part.maps)
            else:
                pixels = self._decoder.submit([image for _, image in part])
                yield _Pending(task, pixels, [place for place, _ in part], is_last=following is None)
            part = following

    def _parts(self, task: ShardTask) -> Iterator[list[Numbered] | Copied]:
        """The task's images in batches, and what an older store has of them."""
        plan = self._plan
        images: Iterator[Numbered] = enumerate(self._images(task))
        found: Iterator[Numbered | Copied] = images if plan.reuse is None else plan.reuse.sort(images)
        count = task.count if plan.reuse is None else plan.reuse.lacks(task)
        sizes = iter(even_batches(count, plan.batch_size)) if plan.fingerprints else iter(())
        batch, size = [], next(sizes, plan.batch_size)
        for one in found:
            if isinstance(one, Copied):
                yield one
                continue
            batch.append(one)
            if len(batch) == size:
                yield batch
                batch, size = [], next(sizes, plan.batch_size)
        if batch:
            yield batch

    def _images(self, task: ShardTask) -> Iterator[EncodedImage]:
        """The task's images; raises behind the last where they are not those that were listed."""
        keys: list[str] = []
        for image in self._source.read(task.source, task.first, task.count):
            if self._stopped.is_set():
                raise _StoppedError
            keys.append(image.key)
            yield image
        listed = self._plan.fingerprints
        if not keys or (listed and fingerprint(keys) != listed[task.shard]):
            raise _changed(task, len(keys))


def _changed(task: ShardTask, found: int) -> SourceError:
    return SourceError(
        f"{task.source} no longer holds the images that were listed: {task.count} from number {task.first} on, and now "
        f"{found} or others. They changed during the run; restore them, or generate a new store"
        if found
        else f"{task.source} holds no images from number {task.first} on. Restore them, or generate a new store"
    )


def _out_of_memory(task: ShardTask) -> SourceError:
    return SourceError(
        f"memory ran out while images of {task.source} were decoded. Free some, or give fewer --workers or a smaller "
        "--batch-size, and run the same command again"
    )


class _StoppedError(Exception):
    """The iterator was closed while its threads were at work."""
