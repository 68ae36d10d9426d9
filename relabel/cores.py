"""How many cores there are to work on, and threads on them that can be stopped."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from dataclasses import dataclass


def usable_cores() -> int:
    """The cores that this process may use; all of the machine's where the system does not tell (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Threads:
    """A pool, and whether its results are no longer wanted."""

    pool: Executor
    _stopped: threading.Event

    def unless_stopped(self, advance: Callable[[int], object]) -> Callable[[int], None]:
        """`advance`, which every thread calls often, as the place where it notices that it was stopped."""

        def step(count: int) -> None:
            if self._stopped.is_set():
                raise CancelledError
            advance(count)

        return step


@contextlib.contextmanager
def stoppable_threads(count: int) -> Iterator[Threads]:
    """At most `count` threads, which an error or Ctrl-C in the `with` block ends, all of them."""
    threads = Threads(ThreadPoolExecutor(count), threading.Event())
    with threads.pool:
        try:
            yield threads
        except BaseException:
            threads._stopped.set()
            threads.pool.shutdown(wait=False, cancel_futures=True)
            raise
