"""A folder of class folders, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from relabel.errors import SourceError
from relabel.images.encoded import NOT_UTF8, as_utf8, is_utf8
from relabel.images.files import Files
from relabel.naming import DANGLING, NO_CLASS, is_image_name, kind_of_file


def class_folders(root: Path, _: int, progress: Callable[[int], None]) -> Files:
    """All images below a root folder, sorted. Links to folders are followed, but not upwards.

    The label of an image is the number of its top-level folder in sorted order, -1 for one in the root itself.

    Raises:
        SourceError: there are none, or a folder cannot be read.
    """
    keys: list[str] = []
    classes: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    # The folders above each folder, by device and inode: a link to one of them would never end.
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        status = _status(folder)
        lineage = above.pop(folder, frozenset())
        if status in lineage:
            subfolders.clear()
            continue
        subfolders.sort()
        above |= dict.fromkeys((os.path.join(folder, name) for name in subfolders), lineage | {status})  # noqa: PTH118
        if folder == str(root):
            classes = {name: i for i, name in enumerate(subfolders)}
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        images = [prefix + name for name in files if is_image_name(name)]
        left_out.update(_kind(folder, name) for name in files if not is_image_name(name))
        keys += images
        progress(len(images))
    if not keys:
        is_store = (root / "zarr.json").exists()
        hint = "It is a store: IMAGES comes first, then STORE" if is_store else "Give the folder of the class folders"
        raise SourceError(f"{root} holds no images (jpg, png, webp, ...). {hint}")
    keys.sort()
    labels = [classes[key.partition("/")[0]] if "/" in key else -1 for key in keys]
    errors = {as_utf8(key): NOT_UTF8 for key in keys if not is_utf8(key)}
    if classes and -1 in labels:
        left_out[NO_CLASS] = labels.count(-1)
    return Files(tuple(map(as_utf8, keys)), labels, tuple(map(as_utf8, classes)) or None, errors, left_out)


def _kind(folder: str, name: str) -> str:
    """What a file that is no image by its name is counted as; a class folder may be a link, and its target gone."""
    path = Path(folder, name)
    return DANGLING if path.is_symlink() and not path.exists() else kind_of_file(name)


def _status(folder: str) -> tuple[int, int]:
    try:
        status = Path(folder).stat()
    except OSError as error:
        _unreadable(error)
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> NoReturn:
    raise SourceError(f"cannot read the folder {error.filename}: {error.strerror}. Mend its permissions") from error
