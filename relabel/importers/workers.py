"""Processes that read an archive: torch.load is Python code, and threads would wait for each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from relabel.errors import RelabelError

FILES_A_PROCESS = 2000
"""A process takes as long to start as it takes to read so many."""

_Result = TypeVar("_Result")


class Workers:
    """Calls of functions of modules, in processes, or in the thread that asks where there are few files.

    A context manager; nobody waits for what was not begun when it is left with an error.
    """

    def __init__(self, processes: int, files: int) -> None:
        self.count = max(1, min(processes, files // FILES_A_PROCESS))
        self._pool: ProcessPoolExecutor | None = None
        if self.count > 1:
            context = multiprocessing.get_context("forkserver")
            # Loaded once, and shared by all of them.
            context.set_forkserver_preload([__name__, "relabel.importers.planes"])
            self._pool = ProcessPoolExecutor(self.count, context, _to_itself)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self, function: Callable[..., _Result], calls: Iterable[tuple[Any, ...]], *, ahead: int
    ) -> Iterator[_Result]:
        """The outcomes of calls, in order; at most `ahead` + 1 are under way at a time.

        Raises:
            RelabelError: a process died.
        """
        if self._pool is None:
            yield from starmap(function, calls)
            return
        waiting: deque[Future[_Result]] = deque()
        for arguments in calls:
            try:
                waiting.append(self._pool.submit(function, *arguments))
            except RuntimeError as error:
                # Broken, or closed by another thread's error.
                raise _lost(error) from error
            if len(waiting) > ahead:
                yield _outcome(waiting.popleft())
        while waiting:
            yield _outcome(waiting.popleft())


def _outcome(future: Future[_Result]) -> _Result:
    try:
        return future.result()
    except (BrokenProcessPool, CancelledError) as error:
        raise _lost(error) from error


def _lost(error: BaseException) -> RelabelError:
    return RelabelError(
        "a process that reads the archive ended by itself: killed for its memory? Nothing published is lost; run "
        f"again, with fewer --workers ({type(error).__name__}). A script that imports needs `if __name__ == "
        "'__main__':` around its call"
    )


def _to_itself() -> None:
    """Ctrl-C is the parent's to answer, and no process outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(1)
