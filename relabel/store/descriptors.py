"""Open files, many but not too many."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

_MOST = 512


class OpenFile:
    """A descriptor that closes with its last reference: a read that still holds it keeps it open until it is done."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class OpenFiles:
    """Files by number, opened when first asked for; the longest open ones are closed when there are too many.

    Used by threads at once, and no lock: a fork would copy it locked. The worst of a race is a file opened twice.
    """

    def __init__(self, path_of: Callable[[int], Path]) -> None:
        self._path_of = path_of
        self._open: dict[int, OpenFile] = {}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # A quarter leaves room for a trainer's own files, and for a second store.
        self._most = _MOST if limit == resource.RLIM_INFINITY else max(1, min(_MOST, limit // 4))

    def __getitem__(self, number: int) -> OpenFile:
        """The file.

        Raises:
            OSError: it is not there, cannot be opened, or no descriptor is left for even one file.
        """
        file = self._open.get(number)
        if file is None:
            if len(self._open) >= self._most:
                self._close(len(self._open) - self._most + 1)
            path = self._path_of(number)
            try:
                file = OpenFile(path)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._close(len(self._open) // 2 + 1)
                file = OpenFile(path)
            self._open[number] = file
        return file

    def _close(self, count: int) -> None:
        for number in list(self._open)[:count]:
            self._open.pop(number, None)
