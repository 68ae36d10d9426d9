"""Locks on files, which end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import sys
import time
import weakref
from pathlib import Path

from relabel.errors import StoreError
from relabel.store.disk import make_way

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
HAVE_LOCKS = importlib.util.find_spec("fcntl") is not None
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A file that this process alone holds open and locked.

    A forked child lets go of it at once: a lock lives as long as any copy of its descriptor, and workers that outlive a
    killed parent would keep the next run from its shards.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        _let_go_in_children()
        _held.add(self)

    @property
    def is_held(self) -> bool:
        """Whether it was not let go of."""
        return self.descriptor >= 0

    def release(self) -> None:
        """Let go; the file stays. A second call does nothing."""
        if self.is_held:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.release()


def check_locks() -> None:
    """Refuse to write where nothing keeps two writers apart.

    Raises:
        StoreError: the system has no file locks.
    """
    if not HAVE_LOCKS:
        raise StoreError(
            f"stores are only read on this system ({sys.platform}), which lacks the file locks (Python's fcntl) that "
            "keep two writers apart: write on Linux or macOS, on Windows inside WSL"
        )


def lock_file(path: Path, *, patience_seconds: float) -> FileLock | None:
    """Make the file if it is not there, and lock it; None where another process holds it for all that time.

    The holder may rename or remove the file: whoever waited for it then begins anew. What is there and no file, as a
    link that leads elsewhere, is removed.

    Raises:
        StoreError: the system or the file system has no locks.
        OSError: the file cannot be made.
    """
    check_locks()
    import fcntl

    deadline = time.monotonic() + patience_seconds
    while True:
        make_way(path)
        lock = FileLock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
        try:
            fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, lock.descriptor):
                return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                lock.release()
                return None
            time.sleep(0.02)
        except OSError as error:
            lock.release()
            if error.errno not in _NO_LOCKS:
                raise
            raise StoreError(
                f"the file system of {path.parent} has no file locks ({error.strerror}), and without them two writers "
                "could spoil a shard. Write to another one, or mount it with locks (Lustre: -o flock)"
            ) from error
        lock.release()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.lstat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


@functools.cache
def _let_go_in_children() -> None:
    def let_go() -> None:
        for lock in list(_held):
            lock.release()

    os.register_at_fork(after_in_child=let_go)
