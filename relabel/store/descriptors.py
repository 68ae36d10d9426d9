"""Open files, many but not too many."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from relabel.store.files import open_regular

_MOST = 512
_seeking = threading.Lock()


class OpenFile:
    """A file to read from; it closes with its last reference, so that a read that still holds it can end."""

    def __init__(self, path: Path) -> None:
        self.descriptor = open_regular(path)

    def read(self, length: int, offset: int) -> bytes:
        """Some bytes, fewer where the file ends; for threads at once."""
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, length, offset)
        # Windows: a descriptor has one place. The lock is never copied locked, for nothing forks there.
        with _seeking:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, length)

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
        self._most = _most()

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


def _most() -> int:
    try:
        import resource
    except ImportError:  # Windows, where 8,192 may be open
        return _MOST
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # A quarter leaves room for a trainer's own files, and for a second store.
    return _MOST if limit == resource.RLIM_INFINITY else max(1, min(_MOST, limit // 4))
