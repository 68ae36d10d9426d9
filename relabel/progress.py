"""Progress on stderr for anything that takes more than a few seconds."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A bar with rate and ETA on stderr; silent where `shown` is False. A context manager.

    Where stderr is not a terminal the bar is printed at most every 30 seconds, so that a log stays readable.
    """

    def __init__(self, what: str, total: int | None, *, unit: str, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=what,
            unit=f" {unit}",
            disable=not shown,
            mininterval=0.2 if terminal else 30.0,
            file=sys.stderr,
            dynamic_ncols=terminal,
        )

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more; `note` stands behind the bar."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
