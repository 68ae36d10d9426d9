"""Laws of a plan: shards cut the images, workers share the shards, batches cut a shard."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError
from relabel.plan import ShardTask, even_batches, missing, plan, share

source_lists = st.lists(st.integers(0, 40), max_size=6).map(lambda counts: [(f"s{i}", n) for i, n in enumerate(counts)])
law = settings(max_examples=60, deadline=None)


@given(source_lists, st.none() | st.integers(1, 12))
@law
def test_shards_partition_the_images_in_their_order(sources, rows):
    tasks = plan(sources, rows_per_shard=rows)
    assert [task.shard for task in tasks] == list(range(len(tasks)))
    images = [(task.source, i) for task in tasks for i in range(task.first, task.first + task.count)]
    assert images == [(name, i) for name, count in sources for i in range(count)]
    if rows is None:
        assert len(tasks) == sum(count > 0 for _, count in sources)
    else:
        assert all(task.count <= rows for task in tasks)
        last = {task.source: task.shard for task in tasks}
        assert all(task.count == rows for task in tasks if task.shard != last[task.source])


@given(source_lists, st.integers(1, 5), st.integers(1, 7))
@law
def test_workers_share_all_shards_and_none_twice(sources, rows, workers):
    tasks = plan(sources, rows_per_shard=rows)
    shares = [share(tasks, rank, workers) for rank in range(workers)]
    assert sorted((task for part in shares for task in part), key=lambda task: task.shard) == list(tasks)
    assert all(list(part) == sorted(part, key=lambda task: task.shard) for part in shares)
    loads = [sum(task.count for task in part) for part in shares]
    assert max(loads) - min(loads) <= rows


def test_large_shards_are_dealt_first():
    tasks = plan([("a", 1), ("b", 1), ("c", 1), ("d", 3)])
    assert [len(share(tasks, rank, 2)) for rank in range(2)] == [1, 3]


@pytest.mark.parametrize(("rank", "workers"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank, workers):
    with pytest.raises(InvalidValueError, match="rank must lie in"):
        share((), rank, workers)


@given(source_lists, st.sets(st.integers(0, 60)))
@law
def test_what_is_missing_and_what_is_published_are_all_tasks(sources, published):
    tasks = plan(sources, rows_per_shard=4)
    left = missing(tasks, published)
    assert list(left) == [task for task in tasks if task.shard not in published]
    assert missing(left, published) == left


@given(st.integers(0, 500), st.integers(1, 60))
@law
def test_batches_are_few_even_and_hold_all_images(count, batch_size):
    batches = even_batches(count, batch_size)
    assert sum(batches) == count
    assert len(batches) == -(-count // batch_size)
    assert not batches or 1 <= min(batches) <= max(batches) <= batch_size
    assert not batches or max(batches) - min(batches) <= 1


@pytest.mark.parametrize(("count", "batch_size"), [(5, 0), (5, -1), (-1, 5)])
def test_batches_of_nothing_are_refused(count, batch_size):
    with pytest.raises(InvalidValueError, match="got batch_size"):
        even_batches(count, batch_size)


def test_a_shard_of_no_rows_is_refused():
    with pytest.raises(InvalidValueError, match="rows_per_shard"):
        plan([("a", 3)], rows_per_shard=0)


@pytest.mark.parametrize("change", [{"shard": -1}, {"first": -1}, {"count": 0}])
def test_a_task_without_images_is_refused(change):
    with pytest.raises(InvalidValueError, match="a shard task needs"):
        ShardTask(**({"shard": 0, "source": "a", "first": 0, "count": 1} | change))
