"""Writing so that it is on the disk, or an error that says what to do."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from relabel.errors import StoreError


def write_all(descriptor: int, data: bytes) -> None:
    """Make data the whole content of an open file, and wait until the disk has it."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_way(path: Path) -> None:
    """Remove what is no file from where a store's own belongs: a link, never what it leads to; a pipe; an empty folder.

    Raises:
        StoreError: as `check_way`.
        OSError: it cannot be removed.
    """
    check_way(path)
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.rmdir()
        elif not stat.S_ISREG(mode):
            path.unlink()


def check_way(path: Path) -> None:
    """Whether `make_way` may make it; removes nothing.

    Raises:
        StoreError: a folder that holds something is there, which nobody may delete unseen.
        OSError: it cannot be looked at.
    """
    if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
        raise StoreError(f"{path} is a folder that is not empty, where a file of a store belongs: move it away")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while a store is written into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}. Shards published so far are safe; "
            "make room or mend the permissions, and run the same command again"
        ) from error
