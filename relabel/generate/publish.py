"""The disk stage: coded batches are compressed and shards published in a thread of their own."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from relabel.generate.batches import DecodedBatch, RowInfo
from relabel.generate.options import Failure
from relabel.plan import ShardTask
from relabel.progress import Progress
from relabel.store import FAILED as FAILED_STATUS
from relabel.store import LABELLED, RowBatch, RowTable, ShardWriter

NOT_FINITE = "the teacher's scores are not finite (NaN or infinity)"


@dataclass(slots=True, eq=False)
class OpenShard:
    """A shard that is being filled: its claim in the store, and what is known of its rows so far."""

    task: ShardTask
    writer: ShardWriter
    stores_footprints: bool
    rows: list[RowInfo] = field(default_factory=list)

    def add(self, batch: DecodedBatch, scores: RowBatch, finite: NDArray[np.bool_]) -> list[Failure]:
        """Compress a batch's maps; the rows without one are returned as failures."""
        errors = [
            row.error or ("" if good else NOT_FINITE) for row, good in zip(batch.rows, finite.tolist(), strict=True)
        ]
        good = np.array([not error for error in errors])
        kept = scores.take(np.flatnonzero(good))
        if self.stores_footprints:
            boxes = [row.footprint.xyxy for row, ok in zip(batch.rows, good, strict=True) if ok]
            kept = replace(kept, footprint=np.array(boxes, np.float32).reshape(-1, 4))
        self.writer.add(batch.first + np.flatnonzero(good), kept)
        self.rows += [
            RowInfo(row.key, row.hash, row.label, row.footprint, error)
            for row, error in zip(batch.rows, errors, strict=True)
        ]
        return [
            Failure(self.task.shard, row.key, error) for row, error in zip(batch.rows, errors, strict=True) if error
        ]

    def publish(self) -> None:
        """Write and rename all files of the shard."""
        errors = [row.error for row in self.rows]
        self.writer.publish(
            RowTable(
                keys=[row.key for row in self.rows],
                image_hashes=np.array([row.hash for row in self.rows], np.uint64),
                labels=np.array([row.label for row in self.rows], np.int32),
                statuses=np.array([FAILED_STATUS if error else LABELLED for error in errors], np.uint8),
                errors=errors,
            )
        )


class Publisher:
    """A thread that compresses batches and publishes shards; its errors are raised by the next `put` or `finish`."""

    def __init__(self, progress: Progress) -> None:
        self.failures: list[Failure] = []
        self.published = 0
        self.images = 0
        self._progress = progress
        self._open: list[OpenShard] = []
        self._queue: queue.Queue[_Job | None] = queue.Queue(8)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    def open(self, shard: OpenShard) -> OpenShard:
        """Take over a claimed shard: it is published after its last batch, or given up when the publisher closes."""
        self._open.append(shard)
        return shard

    def put(self, shard: OpenShard, batch: DecodedBatch, scores: RowBatch, finite: NDArray[np.bool_]) -> None:
        """Hand over a batch; waits while 8 batches are waiting already."""
        self._raise()
        self._queue.put(_Job(shard, batch, scores, finite))

    def finish(self) -> None:
        """Wait until all that was handed over is compressed or published."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def close(self) -> None:
        """End the thread; shards that are not published are given up, and leave nothing behind."""
        self._stopped = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        for shard in self._open:
            shard.writer.close()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            # After an error or a stop the loop only empties the queue, so that a waiting `put` is let through.
            if self._stopped or self._error is not None:
                continue
            try:
                self._do(job)
            except BaseException as error:
                self._error = error

    def _do(self, job: _Job) -> None:
        self.failures += job.shard.add(job.batch, job.scores, job.finite)
        self.images += len(job.batch.rows)
        if job.batch.is_last:
            job.shard.publish()
            self.published += 1
            job.shard.writer.close()
            self._open.remove(job.shard)
        self._progress.advance(len(job.batch.rows))


@dataclass(frozen=True, slots=True)
class _Job:
    shard: OpenShard
    batch: DecodedBatch
    scores: RowBatch
    finite: NDArray[np.bool_]
