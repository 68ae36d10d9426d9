"""Threads that can be stopped: what they were asked comes back, and none of them is waited for in vain."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import CancelledError

import pytest

from relabel import cores
from relabel.cores import stoppable_threads


def test_results_come_in_order_and_errors_where_they_are_asked_for() -> None:
    names = set()

    def square(number: int) -> int:
        names.add(threading.current_thread().name)
        return number * number

    with stoppable_threads(2) as threads:
        assert list(threads.pool.map(square, range(50))) == [number * number for number in range(50)]
        failed = threads.pool.submit(int, "none")
        assert isinstance(failed.exception(), ValueError)
    assert 1 <= len(names) <= 2


def test_a_thread_that_waits_for_ever_is_left_and_what_was_not_begun_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_PATIENCE_SECONDS", 0.05)
    never, waits, begun = threading.Event(), threading.Event(), []
    before = set(threading.enumerate())
    block = contextlib.ExitStack()
    threads = block.enter_context(stoppable_threads(1))
    threads.pool.submit(lambda: (waits.set(), never.wait(30)))
    threads.pool.submit(begun.append, 1)
    assert waits.wait(30)
    assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    (waiting,) = set(threading.enumerate()) - before
    assert waiting.daemon
    with pytest.raises(CancelledError):
        threads.unless_stopped(begun.append)(1)
    never.set()
    waiting.join(10)
    assert begun == []
