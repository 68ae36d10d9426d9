"""How many cores there are to work on, and threads on them that can be stopped."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

_PATIENCE_SECONDS = 1.0
"""For threads that were told to stop: those that compute do so in milliseconds; Ctrl-C must end a command in 2 s."""


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
    """At most `count` threads, which an error or Ctrl-C in the `with` block ends, all of them.

    One that waits for what never comes, as a pipe that says nothing, is left behind after a moment; it keeps no process
    from ending.
    """
    pool, stopped = _Pool(count), threading.Event()
    try:
        yield Threads(pool, stopped)
    except BaseException:
        stopped.set()
        pool.shutdown(cancel_futures=True, patience_seconds=_PATIENCE_SECONDS)
        raise
    pool.shutdown()


class _Pool(Executor):
    """A ThreadPoolExecutor, whose threads Python joins at exit, however long they wait: these are daemons."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor.submit`."""
        future: Future[Any] = Future()
        self._jobs.put((future, partial(fn, *args, **kwargs)))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, patience_seconds: float | None = None
    ) -> None:
        """See `Executor.shutdown`; it waits for the threads no longer than that, if a patience is given."""
        with contextlib.suppress(queue.Empty):
            while cancel_futures:
                if (job := self._jobs.get_nowait()) is not None:
                    job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
        for thread in self._threads if wait else ():
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - raised in the thread that asks for the result
                    future.set_exception(error)
            del job, future, call
