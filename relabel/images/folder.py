"""A folder of class folders, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NoReturn

from relabel.errors import SourceError
from relabel.images.encoded import EncodedImage, SourcePart, is_image_name, is_utf8

_SHOWN = 10


class FolderSource:
    """Images below a root folder. A key is the path relative to the root, with extension and forward slashes.

    The label of an image is the number of its top-level folder in sorted order, -1 for one in the root itself.
    """

    kind: Literal["folder"] = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._keys: tuple[str, ...] | None = None
        self._labels: dict[str, int] = {}

    def parts(self) -> tuple[str, ...]:
        """One part, the whole folder."""
        return (".",)

    def listing(self, *, workers: int, progress: Callable[[int], None]) -> tuple[SourcePart, ...]:
        """All keys, sorted; see `ImageSource.listing`. Links to folders are followed, but not upwards."""
        self._keys = self._found(progress)
        return (SourcePart(".", self._keys),)

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """See `ImageSource.read`."""
        keys = self._keys if self._keys is not None else self._found(lambda _: None)
        self._keys = keys
        for key in keys[first : first + count]:
            try:
                data = (self._root / key).read_bytes()
            except OSError as error:
                raise SourceError(f"cannot read {key}: {error.strerror}. The folder changed during the run?") from error
            yield EncodedImage(key, data, self._labels.get(key.partition("/")[0], -1) if "/" in key else -1)

    def _found(self, progress: Callable[[int], None]) -> tuple[str, ...]:
        keys: list[str] = []
        # The folders above each folder, by device and inode: a link to one of them would never end.
        above: dict[str, frozenset[tuple[int, int]]] = {}
        for folder, subfolders, files in os.walk(self._root, followlinks=True, onerror=_unreadable):
            status = _status(folder)
            lineage = above.pop(folder, frozenset())
            if status in lineage:
                subfolders.clear()
                continue
            subfolders.sort()
            above |= dict.fromkeys((os.path.join(folder, name) for name in subfolders), lineage | {status})  # noqa: PTH118
            if folder == str(self._root):
                self._labels = {name: i for i, name in enumerate(subfolders)}
            below = Path(folder).relative_to(self._root).as_posix()
            prefix = "" if below == "." else f"{below}/"
            images = [prefix + name for name in files if is_image_name(name)]
            keys += images
            progress(len(images))
        if not keys:
            is_store = (self._root / "zarr.json").exists()
            hint = (
                "It is a store: IMAGES comes first, then STORE" if is_store else "Give the folder of the class folders"
            )
            raise SourceError(f"{self._root} holds no images (jpg, png, webp, ...). {hint}")
        unnamable = sorted(key for key in keys if not is_utf8(key))
        if unnamable:
            raise SourceError(f"{len(unnamable)} file names are not valid UTF-8: {unnamable[:_SHOWN]}. Rename them")
        return tuple(sorted(keys))


def _status(folder: str) -> tuple[int, int]:
    try:
        status = Path(folder).stat()
    except OSError as error:
        _unreadable(error)
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> NoReturn:
    raise SourceError(f"cannot read the folder {error.filename}: {error.strerror}. Mend its permissions") from error
