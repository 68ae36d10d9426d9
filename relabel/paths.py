"""Names and files from outside: what may be printed, where a path leads, and what is read only if it is a file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Should a pipe take the place of a file after the first look, it would be waited for without the second flag."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a file cannot be blamed for: this process, or the machine, has too little of something."""


def printable(text: str) -> str:
    """Text from a data file on one line, without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.splitlines()))


def expanded(path: str | Path) -> Path:
    """A path as a user writes it, its leading ``~`` or ``~name`` replaced by that home folder."""
    # Without such a user the path is taken as it stands.
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def located(path: str | Path) -> Path:
    """Where a path leads: absolute, without ``~`` and links, so that two ways to one place are equal."""
    return Path(os.path.realpath(expanded(path)))


def file_and_part(path: Path) -> tuple[Path, str]:
    """A file as it was named, and which part of it: ``FILE@NAME`` where no file is called so; NAME may be empty."""
    name, at, part = path.name.rpartition("@")
    if at and name and part and not path.exists():
        return path.with_name(name), part
    return path, ""


def open_regular(path: str | Path, buffering: int = -1) -> BinaryIO:
    """Open a file to read it; nothing that is no regular file is opened, or waited for.

    Raises:
        OSError: it is not there, cannot be read, or is something else; `strerror` says what.
    """
    return os.fdopen(regular_descriptor(path), "rb", buffering)


def regular_descriptor(path: str | Path) -> int:
    """As `open_regular`, a descriptor, which the caller closes."""
    _check(path, Path(path).stat())
    file = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(file))
    except BaseException:
        os.close(file)
        raise
    return file


def read_regular(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file, at most so many.

    Raises:
        OSError: as `open_regular`; or it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"too large: {size} bytes, and at most {most} are read", str(path))
        # A file that grows meanwhile is read as far as it was then.
        return file.read(size)


def _check(path: str | Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
