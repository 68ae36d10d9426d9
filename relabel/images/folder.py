"""A folder of class folders, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from relabel.errors import SourceError
from relabel.images.encoded import is_image_name, is_utf8
from relabel.images.files import Files

_SHOWN = 10


def class_folders(root: Path, _: int, progress: Callable[[int], None]) -> Files:
    """All images below a root folder, sorted. Links to folders are followed, but not upwards.

    The label of an image is the number of its top-level folder in sorted order, -1 for one in the root itself.

    Raises:
        SourceError: there are none, a folder cannot be read, or a name is not UTF-8.
    """
    keys: list[str] = []
    classes: dict[str, int] = {}
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
        keys += images
        progress(len(images))
    if not keys:
        is_store = (root / "zarr.json").exists()
        hint = "It is a store: IMAGES comes first, then STORE" if is_store else "Give the folder of the class folders"
        raise SourceError(f"{root} holds no images (jpg, png, webp, ...). {hint}")
    unnamable = sorted(key for key in (*keys, *classes) if not is_utf8(key))
    if unnamable:
        raise SourceError(f"{len(unnamable)} file names are not valid UTF-8: {unnamable[:_SHOWN]}. Rename them")
    keys.sort()
    labels = [classes[key.partition("/")[0]] if "/" in key else -1 for key in keys]
    return Files(tuple(keys), labels, tuple(classes) or None)


def _status(folder: str) -> tuple[int, int]:
    try:
        status = Path(folder).stat()
    except OSError as error:
        _unreadable(error)
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> NoReturn:
    raise SourceError(f"cannot read the folder {error.filename}: {error.strerror}. Mend its permissions") from error
