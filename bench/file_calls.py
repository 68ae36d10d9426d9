"""Faults at the n-th call that a process makes on the files of one store: kills, and errors of the system."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE)
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock", "os.scandir")
_BY_DESCRIPTOR = ("write", "fsync", "fstat", "read", "pread")


@dataclass(frozen=True, slots=True)
class Plan:
    """At which call, from 0: SIGKILL (after half of a write if `torn`), or an errno, for good if it `lasts`."""

    call: int
    error: int = 0
    torn: bool = False
    lasts: bool = False


def counting(store: Path, told: Path) -> Callable[[], None]:
    """Count the calls of this process, into a file when it ends."""

    def install() -> None:
        seen = _Seen(store, lambda number: told.write_text(str(number + 1)) and None)
        seen.install()

    return install


def injected(store: Path, plan: Plan) -> Callable[[], None]:
    """Make a plan happen in this process."""

    def act(number: int) -> None:
        if number < plan.call or (number > plan.call and not plan.lasts):
            return
        if plan.error:
            raise OSError(plan.error, os.strerror(plan.error))
        if not plan.torn:
            os.kill(os.getpid(), signal.SIGKILL)

    def install() -> None:
        seen = _Seen(store, act)
        seen.install()
        if plan.torn:
            whole = os.write

            def half(descriptor: int, data: Any) -> int:
                if seen.number > plan.call and seen.is_ours(descriptor):
                    whole(descriptor, bytes(data)[: len(data) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return whole(descriptor, data)

            os.write = half

    return install


class _Seen:
    """The calls on files whose names hold that of the store, which has a folder of its own."""

    def __init__(self, store: Path, act: Callable[[int], object]) -> None:
        self.number = 0
        self._folder, self._act = str(store.parent), act
        self._is_acting = False

    def install(self) -> None:
        """Watch from now on, for good."""
        sys.addaudithook(self._hear)
        for name in _BY_DESCRIPTOR:
            setattr(os, name, self._watched(getattr(os, name)))

    def is_ours(self, descriptor: object) -> bool:
        """Whether an open file is one of the store's."""
        try:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(self._folder)
        except OSError:
            return False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not arguments:
            return
        what = arguments[0]
        ours = (
            self.is_ours(what)
            if isinstance(what, int)
            else isinstance(what, (str, os.PathLike)) and self._is_named(what)
        )
        if ours:
            self._count()

    def _is_named(self, path: str | os.PathLike[str]) -> bool:
        name = os.fspath(path)
        # Relative to a descriptor of the store's folder, or of one of its arrays.
        return str(name).startswith((self._folder, "c.", ".c.", "zarr.json"))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(descriptor: Any, *arguments: Any, **given: Any) -> Any:
            if self.is_ours(descriptor):
                self._count()
            return call(descriptor, *arguments, **given)

        return watched

    def _count(self) -> None:
        if self._is_acting:
            return
        self._is_acting = True
        try:
            number, self.number = self.number, self.number + 1
            self._act(number)
        finally:
            self._is_acting = False
