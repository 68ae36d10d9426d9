"""The data stage: shard tasks in, decoded batches out, read and decoded ahead of the device.

One thread reads the source, a pool of threads decodes and resizes: that work happens outside Python's lock, and threads
hand uint8 pixels on without a copy between processes.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.errors import ImageError, SourceError
from relabel.geometry import Footprint
from relabel.images import EncodedImage, ImageSource, decode_and_fit, image_hash
from relabel.manifest import Preprocessing, fingerprint
from relabel.plan import ShardTask, even_batches


@dataclass(frozen=True, slots=True)
class RowInfo:
    """What is known of one image besides its score map; `error` is empty unless it could not be decoded."""

    key: str
    hash: int
    label: int
    footprint: Footprint
    error: str


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Images `first` .. of a task: pixels uint8 (n, 3, h, w), zeros where an image could not be decoded.

    `is_last` says that the task ends here, and that its images were those that were listed.
    """

    task: ShardTask
    first: int
    pixels: Tensor
    rows: list[RowInfo]
    is_last: bool


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A task whose source could not be read to its end, or held other images than were listed."""

    task: ShardTask
    error: SourceError


@dataclass(frozen=True, slots=True)
class _Pending:
    task: ShardTask
    first: int
    pixels: Tensor
    rows: list[Future[RowInfo]]
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How batches are cut and how far ahead they are read.

    `fingerprints` holds the digest of each shard's listed keys. Without a listing it is empty; then a task's count is
    an upper bound, and its batches are not evened out. At most `ahead` + 2 batches of pixels are held at a time,
    besides those that were handed out.
    """

    preprocessing: Preprocessing
    batch_size: int
    fingerprints: tuple[str, ...]
    threads: int
    pinned: bool
    ahead: int = 4


class DecodedBatches:
    """An iterator over the tasks' batches, in order; close it (or leave its `with` block) to stop its threads."""

    def __init__(self, source: ImageSource, tasks: Sequence[ShardTask], plan: BatchPlan) -> None:
        self._source, self._tasks, self._plan = source, tasks, plan
        self._queue: queue.Queue[_Pending | ShardFailure | BaseException | None] = queue.Queue(plan.ahead)
        self._stopped = threading.Event()
        self._pool = _single_threaded_pool(plan.threads)
        self._feeder = threading.Thread(target=self._feed, name="read-images", daemon=True)
        self._feeder.start()

    def __enter__(self) -> DecodedBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and decoding; what was read ahead is dropped."""
        self._stopped.set()
        # A reader stuck on a dead connection must not keep the run alive: the thread is a daemon.
        self._feeder.join(timeout=5)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[DecodedBatch | ShardFailure]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, ShardFailure):
                yield item
            else:
                rows = [future.result() for future in item.rows]
                yield DecodedBatch(item.task, item.first, item.pixels, rows, item.is_last)

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
        except BaseException as error:
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
        images = self._images(task)
        plan = self._plan
        sizes = iter(even_batches(task.count, plan.batch_size)) if plan.fingerprints else iter(())
        first = 0
        chunk = list(itertools.islice(images, next(sizes, plan.batch_size)))
        while chunk:
            # Read before its predecessor is handed out, so that a last batch is known as such.
            following = list(itertools.islice(images, next(sizes, plan.batch_size)))
            yield self._submit(task, first, chunk, is_last=not following)
            first, chunk = first + len(chunk), following

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

    def _submit(self, task: ShardTask, first: int, chunk: list[EncodedImage], *, is_last: bool) -> _Pending:
        height, width = self._plan.preprocessing.image_size_hw
        pixels = torch.empty(len(chunk), 3, height, width, dtype=torch.uint8, pin_memory=self._plan.pinned)
        rows = [self._pool.submit(self._decode, image, pixels[i]) for i, image in enumerate(chunk)]
        return _Pending(task, first, pixels, rows, is_last)

    def _decode(self, image: EncodedImage, target: Tensor) -> RowInfo:
        digest = image_hash(image.data)
        try:
            decoded = decode_and_fit(image.data, self._plan.preprocessing)
        except ImageError as error:
            target.zero_()
            return RowInfo(image.key, digest, image.label, Footprint(), str(error))
        target.copy_(decoded.pixels)
        return RowInfo(image.key, digest, image.label, decoded.footprint, "")


def _changed(task: ShardTask, found: int) -> SourceError:
    return SourceError(
        f"{task.source} no longer holds the images that were listed: {task.count} from number {task.first} on, and now "
        f"{found} or others. They changed during the run; restore them, or generate a new store"
        if found
        else f"{task.source} holds no images from number {task.first} on. Restore them, or generate a new store"
    )


class _StoppedError(Exception):
    """The iterator was closed while its threads were at work."""


def _single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """A pool of threads that each keep to themselves: an inner pool for every one would fight it for the cores."""
    process_wide = torch.get_num_threads()
    # With a limit: where the system refuses a thread, the others must not wait for it for ever.
    started = threading.Barrier(threads, timeout=60)

    def to_itself(_: int) -> None:
        torch.set_num_threads(1)
        # Only a thread that has looked at the number keeps it when another thread sets it.
        torch.get_num_threads()
        started.wait()

    pool = ThreadPoolExecutor(threads, "decode")
    list(pool.map(to_itself, range(threads)))
    torch.set_num_threads(process_wide)
    return pool
