"""The disk stage: coded batches are compressed and shards published in a thread of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from relabel.generate.batches import DecodedBatch
from relabel.plan import Failure, ShardTask
from relabel.store import Row, RowBatch, RowTable, ShardWriter

NOT_FINITE = "the teacher's scores are not finite (NaN or infinity)"


@dataclass(slots=True, eq=False)
class OpenShard:
    """A shard that is being filled: its claim in the store, and what is known of its rows so far."""

    task: ShardTask
    writer: ShardWriter
    stores_footprints: bool
    rows: dict[int, Row] = field(default_factory=dict)
    copied: int = 0

    def add(self, batch: DecodedBatch, scores: RowBatch, finite: NDArray[np.bool_]) -> None:
        """Compress the maps of some rows, those that have one."""
        ended = [
            row if row.error or good else replace(row, error=NOT_FINITE)
            for row, good in zip(batch.rows, finite.tolist(), strict=True)
        ]
        good = np.flatnonzero([not row.error for row in ended])
        kept = scores.take(good)
        if self.stores_footprints:
            boxes = np.array([row.footprint.xyxy for row in ended], np.float32)
            kept = replace(kept, footprint=boxes[good])
        self.writer.add(np.array(batch.places)[good], kept)
        self.rows.update(zip(batch.places, ended, strict=True))
        self.copied += 0 if batch.maps is None else len(ended)

    def publish(self) -> list[Row]:
        """Publish the shard, now that all its rows are there; answers them."""
        rows = [self.rows[place] for place in range(len(self.rows))]
        self.writer.publish(RowTable.of(rows))
        return rows


class Publisher:
    """A thread that compresses batches and publishes shards; its errors are raised by the next `put` or `finish`.

    `failures`, `published`, `images` and `copied` are those of the published shards, `busy_seconds` is how long the
    thread was at work; `advance` is called with the number of images of each batch that is done.
    """

    def __init__(self, advance: Callable[[int], object]) -> None:
        self.failures: list[Failure] = []
        self.published = 0
        self.images = 0
        self.copied = 0
        self.busy_seconds = 0.0
        self._advance = advance
        self._open: list[OpenShard] = []
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(8)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    def open(self, shard: OpenShard) -> OpenShard:
        """Take over a claimed shard: it is published after its last batch, or given up when the publisher closes."""
        self._open.append(shard)
        return shard

    def put(self, shard: OpenShard, batch: DecodedBatch, scores: RowBatch, finite: NDArray[np.bool_]) -> None:
        """Hand over a shard's next batch; waits while 8 batches are waiting already."""
        self._raise()
        # Without the batch's pixels: a waiting job is small.
        small = replace(batch, views=())

        def compress() -> None:
            shard.add(small, scores, finite)
            if small.is_last:
                rows = shard.publish()
                self.published += 1
                self.images += len(rows)
                self.copied += shard.copied
                self.failures += [Failure(shard.task.shard, row.key, row.error) for row in rows if row.error]
                self._close(shard)
            self._advance(len(small.rows))

        self._queue.put(compress)

    def give_up(self, shard: OpenShard) -> None:
        """Let go of a shard that will not be whole."""
        self._raise()
        self._queue.put(lambda: self._close(shard))

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
        with contextlib.ExitStack() as stack:
            for shard in self._open:
                stack.callback(shard.writer.close)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            # After an error or a stop the loop only empties the queue, so that a waiting `put` is let through.
            if self._stopped or self._error is not None:
                continue
            started = time.perf_counter()
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asks next
                self._error = error
            self.busy_seconds += time.perf_counter() - started

    def _close(self, shard: OpenShard) -> None:
        shard.writer.close()
        self._open.remove(shard)
