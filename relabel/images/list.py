"""A text file that lists images: a path per line, and perhaps a class behind a tab."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from relabel.errors import SourceError
from relabel.images.classes import MOST_CLASSES, class_names, is_class, label_of, numbers_of
from relabel.images.files import Files
from relabel.paths import read_regular

_SHOWN, _SHOWN_TEXT = 10, 40
_MOST_BYTES = 1 << 32
"""Of a list: a hundred million lines."""


def listed_files(path: Path, root: Path, _: int, progress: Callable[[int], None]) -> Files:
    """The files that the lines of a text file name, in their order.

    A line is a path relative to the root, and where wanted a tab and a class: a number (-1 where it is not known), or a
    name. The label of a name is its place among all of them, sorted. Whether the files are there is seen when they are
    read.

    Raises:
        SourceError: the list cannot be read, or none of its files is there; or lines are empty or not UTF-8, end as on
            Windows, name a file outside of the root, or one that another line names, or have a class that is none.
            Says which.
    """
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read the list {path}: {error.strerror}") from error
    lines = data.removesuffix(b"\n").split(b"\n")
    keys: dict[str, int] = {}
    texts: list[str] = []
    faults: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        name, tab, text = line.decode(errors="replace").partition("\t")
        key, text = posixpath.normpath(name), text.strip()
        texts.append(text)
        fault = _fault(line, key, text if tab else None)
        if not fault and keys.setdefault(key, number) != number:
            fault = f"names {key}, as line {keys[key]} does"
        if fault:
            faults[number] = fault
    if faults:
        told = "".join(f"\n  line {number} {faults[number]}" for number in sorted(faults)[:_SHOWN])
        more = f"\n  and {len(faults) - _SHOWN} more lines" if len(faults) > _SHOWN else ""
        raise SourceError(f"{path} must name an image of {root} in every line, and does not:{told}{more}")
    progress(len(keys))
    # Path's own raises for a name that is too long to be one.
    if not any(os.path.isfile(root / key) for key in keys):  # noqa: PTH113
        raise SourceError(
            f"none of the {len(keys)} files that {path} lists is there: its first is {root / next(iter(keys))}. IMAGES "
            "is the folder that the list's paths start from"
        )
    where = {text: f"line {number}" for number, text in reversed(list(enumerate(texts, 1))) if text}
    names = class_names(where)
    numbers = numbers_of(names)
    return Files(tuple(keys), [label_of(text, numbers) for text in texts], names)


def _fault(line: bytes, key: str, text: str | None) -> str:
    """What is wrong with a line in itself, "" if nothing is; `text` is what stands behind its tab, if it has one."""
    if line.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark: save the list as UTF-8 without one"
    if line.endswith(b"\r"):
        return "ends in a carriage return, as on Windows: save the list with Unix line ends"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8: {error.reason}"
    if not line or line.startswith(b"\t"):
        return "names no file"
    if b"\0" in line:
        return "holds a zero byte"
    if key.startswith("/"):
        return f"is the absolute path {key}: write it relative to IMAGES"
    if key == ".." or key.startswith("../"):
        return f"leaves IMAGES: {key}"
    if text is not None and (not text or "\t" in text):
        return "must hold one class behind its tab, or no tab"
    if text and not is_class(text):
        return f"has the class {text[:_SHOWN_TEXT]}: a class is a name, a number below {MOST_CLASSES}, or -1 for none"
    return ""
