"""From what a user types to an image source."""

from __future__ import annotations

import glob
from pathlib import Path

from relabel.errors import SourceError
from relabel.images.encoded import EncodedImage, ImageSource, SourcePart, image_hash
from relabel.images.folder import FolderSource
from relabel.images.tars import TarSource, expand_braces

__all__ = ["EncodedImage", "ImageSource", "SourcePart", "image_hash", "open_source"]


def open_source(images: str) -> ImageSource:
    """A folder of class folders, or webdataset tars: a file, a glob, a brace pattern, or any URL webdataset opens.

    Raises:
        SourceError: nothing is there.
    """
    if Path(images).is_dir():
        return FolderSource(Path(images))
    urls: list[str] = []
    for pattern in expand_braces(images):
        if "://" in pattern or pattern.startswith("pipe:") or Path(pattern).exists():
            urls.append(pattern)
            continue
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else []  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise SourceError(
                f"no such file: {pattern}. IMAGES is a folder of class folders, or webdataset tars "
                "(a file, a glob, a brace pattern such as 'train-{0000..1023}.tar', or a URL)"
            )
        urls += found
    return TarSource(urls)
