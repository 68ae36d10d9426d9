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
from relabel.manifest import Preprocessing
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
    """Images `first` .. of a task: pixels uint8 (n, 3, h, w), zeros where an image could not be decoded."""

    task: ShardTask
    first: int
    pixels: Tensor
    rows: list[RowInfo]
    is_last: bool


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A task whose source could not be read to its end."""

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

    `exact` says that a task's count is the number of its images, not an upper bound; then its batches are evened out.
    """

    preprocessing: Preprocessing
    batch_size: int
    exact: bool
    threads: int
    pinned: bool
    ahead: int = 4


class DecodedBatches:
    """An iterator over the tasks' batches, in order; close it (or leave its `with` block) to stop its threads."""

    def __init__(self, source: ImageSource, tasks: Sequence[ShardTask], plan: BatchPlan) -> None:
        self._source, self._tasks, self._plan = source, tasks, plan
        self._queue: queue.Queue[_Pending | ShardFailure | BaseException | None] = queue.Queue(plan.ahead)
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(plan.threads, "decode", initializer=_one_thread_each)
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
        images = self._source.read(task.source, task.first, task.count)
        plan = self._plan
        sizes = iter(even_batches(task.count, plan.batch_size)) if plan.exact else itertools.repeat(plan.batch_size)
        first = 0
        chunk = list(itertools.islice(images, next(sizes)))
        while chunk:
            following = list(itertools.islice(images, next(sizes, 1)))
            found = first + len(chunk)
            if not following and plan.exact and found != task.count:
                raise _changed(task, found)
            yield self._submit(task, first, chunk, is_last=not following)
            first, chunk = found, following
        if not first:
            raise _changed(task, 0)

    def _submit(self, task: ShardTask, first: int, chunk: list[EncodedImage], *, is_last: bool) -> _Pending:
        height, width = self._plan.preprocessing.image_size_hw
        pixels = torch.zeros(len(chunk), 3, height, width, dtype=torch.uint8, pin_memory=self._plan.pinned)
        if self._stopped.is_set():
            raise _StoppedError
        rows = [self._pool.submit(self._decode, image, pixels[i]) for i, image in enumerate(chunk)]
        return _Pending(task, first, pixels, rows, is_last)

    def _decode(self, image: EncodedImage, target: Tensor) -> RowInfo:
        digest = image_hash(image.data)
        try:
            decoded = decode_and_fit(image.data, self._plan.preprocessing)
        except ImageError as error:
            return RowInfo(image.key, digest, image.label, Footprint(), str(error))
        target.copy_(decoded.pixels)
        return RowInfo(image.key, digest, image.label, decoded.footprint, "")


def _changed(task: ShardTask, found: int) -> SourceError:
    return SourceError(
        f"{task.source} holds {found} images from number {task.first} on, not the {task.count} that were listed or "
        "promised: the images changed during the run, or there are none. Restore them, or generate a new store"
    )


class _StoppedError(Exception):
    """The iterator was closed while its threads were at work."""


def _one_thread_each() -> None:
    # The pool is the parallelism; an inner pool for every decode thread would fight it for the cores.
    torch.set_num_threads(1)
