"""Progress on stderr for anything that takes more than a few seconds."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

from relabel.paths import printable

_LOG_SECONDS = 30.0
_TICK_SECONDS = 1.0
_LONGEST_NAME = 80


class Progress:
    """A bar with rate and ETA on stderr; silent where `shown` is False. A context manager.

    Where stderr is not a terminal it is a line every 30 seconds and one at the end, so that a log stays readable.
    `advance` may be called from many threads; where nobody does, the time goes on all the same, and `reading` says what
    is being waited for, as it does behind every note.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        unit: str,
        shown: bool = True,
        reading: Callable[[], str] = lambda: "",
    ) -> None:
        self._lock = threading.Lock()
        self._note, self._reading = "", reading
        self._closed = threading.Event()
        self._bar: tqdm[Any] | _Lines | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, desc=what, unit=f" {unit}", mininterval=0.2, file=sys.stderr, dynamic_ncols=True
            )
        elif shown:
            self._bar = _Lines(what, total, f" {unit}")
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        if self._bar is not None:
            self._ticker.start()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more; `note` stands behind the bar."""
        if self._bar is None:
            return
        with self._lock:
            self._say(self._bar, note)
            self._bar.update(count)

    def reach(self, count: int, total: int | None, note: str = "") -> None:
        """Set the count and the total, where others count too; a count that is behind the last one changes nothing."""
        if self._bar is None:
            return
        with self._lock:
            self._bar.total = math.inf if total is None else total
            self._say(self._bar, note)
            self._bar.update(max(0, count - int(self._bar.n)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._bar is not None:
            self._ticker.join()
            self._bar.close()

    def _say(self, bar: tqdm[Any] | _Lines, note: str = "") -> None:
        self._note = note or self._note
        name = self._reading()
        told = [*filter(None, [self._note]), *([f"reading {printable(name)[:_LONGEST_NAME]}"] if name else [])]
        bar.set_postfix_str(", ".join(told), refresh=False)

    def _tick(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                if self._bar is not None and not self._closed.is_set():
                    self._say(self._bar)
                    self._bar.refresh()


class _Lines:
    """The part of tqdm that is used here, for a log: no bar, no carriage returns."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        # tqdm's names, and its way to say that the total is not known.
        self._what, self.total, self._unit = what, math.inf if total is None else total, unit
        self.n = 0
        self._note = ""
        self._started = self._printed = time.monotonic()

    def set_postfix_str(self, note: str, *, refresh: bool) -> None:
        self._note = note

    def update(self, count: int) -> None:
        self.n += count
        self.refresh()

    def refresh(self) -> None:
        if time.monotonic() - self._printed >= _LOG_SECONDS:
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        line = tqdm.format_meter(
            self.n,
            self.total,
            self._printed - self._started,
            ncols=0,
            prefix=self._what,
            unit=self._unit,
            postfix=self._note,
        )
        print(line, file=sys.stderr, flush=True)
