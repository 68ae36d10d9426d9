"""The disk stage: its errors reach the thread that feeds it, and nothing waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from relabel.errors import StoreError
from relabel.generate.batches import DecodedBatch
from relabel.generate.publish import OpenShard, Publisher
from relabel.geometry import Footprint
from relabel.plan import ShardTask
from relabel.store import Row, RowBatch, RowTable

TASK = ShardTask(5, "a.tar", 0, 4)


@dataclass
class FakeWriter:
    """Keeps what it is given; `fail` is called first."""

    fail: Callable[[], None] = lambda: None
    added: list[list[int]] = field(default_factory=list)
    footprints: list[Any] = field(default_factory=list)
    table: RowTable | None = None
    closed: int = 0

    def add(self, rows: Any, batch: RowBatch) -> None:
        self.fail()
        self.added.append(rows.tolist())
        self.footprints.append(batch.footprint.tolist() if isinstance(batch.footprint, np.ndarray) else None)

    def publish(self, table: RowTable) -> None:
        self.table = table

    def close(self) -> None:
        self.closed += 1


def rows(*errors: str) -> list[Row]:
    return [
        Row(key=f"key{i}", image_hash=i, footprint=Footprint(0, 0, 1, 1 + i), error=error)
        for i, error in enumerate(errors)
    ]


def scores(count: int) -> RowBatch:
    return RowBatch(
        classes=np.zeros((count, 2), np.uint16),
        scores=np.zeros((count, 2, 1, 1), np.uint8),
        profile=np.zeros((count, 2), np.int8),
    )


def put(
    publisher: Publisher, shard: OpenShard, *errors: str, first: int = 0, finite: list[bool] | None = None, last: bool
) -> None:
    batch = DecodedBatch(TASK, None, rows(*errors), list(range(first, first + len(errors))), last)
    publisher.put(shard, batch, scores(len(errors)), np.array(finite or [True] * len(errors)))


def opened(publisher: Publisher, writer: FakeWriter, *, footprints: bool = False) -> OpenShard:
    return publisher.open(OpenShard(TASK, writer, footprints))


def disk_full() -> None:
    raise StoreError("the disk is full")


@pytest.fixture
def publisher() -> Any:
    made = Publisher(lambda count: None)
    yield made
    made.close()


def test_rows_without_a_map_are_failures_with_their_reason(publisher):
    shard = opened(publisher, writer := FakeWriter(), footprints=True)
    put(publisher, shard, "cut", "", "", finite=[True, True, False], last=False)
    put(publisher, shard, "", "", first=3, last=True)
    publisher.finish()
    assert writer.added == [[1], [3, 4]]
    assert writer.footprints == [[[0, 0, 1, 2]], [[0, 0, 1, 1], [0, 0, 1, 2]]]
    assert writer.table.statuses.tolist() == [2, 1, 2, 1, 1]
    assert writer.table.errors[:3] == ["cut", "", "the teacher's scores are not finite (NaN or infinity)"]
    assert [(f.shard, f.key, f.reason) for f in publisher.failures] == [
        (5, "key0", "cut"),
        (5, "key2", writer.table.errors[2]),
    ]
    assert (publisher.images, publisher.published, writer.closed) == (5, 1, 1)


def test_an_error_is_raised_by_a_later_put_and_none_waits_for_ever(publisher):
    shard = opened(publisher, FakeWriter(fail=disk_full))

    def feed() -> None:
        for _ in range(1000):
            put(publisher, shard, "", last=False)

    with pytest.raises(StoreError, match="the disk is full"):
        feed()


def test_a_shard_that_lacks_a_batch_is_never_published(publisher):
    all_put = threading.Event()
    calls = iter(range(2))

    def fail_once() -> None:
        if next(calls) == 0:
            all_put.wait(10)
            disk_full()

    shard = opened(publisher, writer := FakeWriter(fail_once))
    put(publisher, shard, "", last=False)
    put(publisher, shard, "", first=1, last=True)
    all_put.set()
    with pytest.raises(StoreError, match="the disk is full"):
        publisher.finish()
    assert writer.table is None


def test_closing_gives_up_every_open_shard_even_where_one_cannot_be(publisher):
    class Stuck(FakeWriter):
        def close(self) -> None:
            raise OSError("input/output error")

    opened(publisher, first := FakeWriter())
    opened(publisher, Stuck())
    opened(publisher, last := FakeWriter())
    with pytest.raises(OSError, match="input/output"):
        publisher.close()
    assert (first.closed, last.closed) == (1, 1)
    publisher._open.clear()


def test_a_shard_that_is_given_up_counts_for_nothing(publisher):
    shard = opened(publisher, writer := FakeWriter())
    put(publisher, shard, "", "cut", last=False)
    publisher.give_up(shard)
    publisher.finish()
    assert (publisher.images, publisher.published, publisher.failures) == (0, 0, [])
    assert (writer.closed, writer.table) == (1, None)
