"""From what a user types to an image source."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from relabel.errors import SourceError
from relabel.images.encoded import ImageSource
from relabel.images.files import FilesSource
from relabel.images.folder import class_folders
from relabel.images.list import listed_files
from relabel.images.tars import TarSource
from relabel.naming import is_image_name
from relabel.options import SourceOptions
from relabel.paths import expanded


def open_source(
    images: str | ImageSource, files: str | Path | None = None, options: SourceOptions | None = None
) -> ImageSource:
    """A folder of class folders, or webdataset tars: a file, a glob, a brace pattern, or any URL webdataset opens.

    Args:
        images: where they are; a source that is open already is returned as it is.
        files: a text file that lists them, paths relative to the folder `images`: see `listed_files`.
        options: how patiently URLs are read.

    Raises:
        SourceError: nothing is there, or the pattern cannot be read.
    """
    if not isinstance(images, str):
        return images
    if not images:
        raise SourceError("IMAGES is empty: give a folder, tars or a URL (an unset variable of the shell?)")
    options = options or SourceOptions()
    try:
        path = expanded(images)
        if files is not None:
            if not path.is_dir():
                raise SourceError(
                    f"{images} is no folder: with --files, IMAGES is the folder that the list's paths start from"
                )
            return FilesSource("list", path, partial(listed_files, expanded(files)))
        if not _is_url(images) and path.exists():
            return FilesSource("folder", path, class_folders) if path.is_dir() else TarSource(_tars([path]), options)
        return TarSource(_tars([location for pattern in _expanded(images) for location in _found(pattern)]), options)
    except OSError as error:
        raise SourceError(f"cannot look for {images}: {error.strerror}") from error


def _tars(locations: Sequence[Path | str]) -> Sequence[Path | str]:
    for location in locations:
        if isinstance(location, Path) and is_image_name(location.name):
            raise SourceError(
                f"{location} is a single image. IMAGES is the folder that holds images, or webdataset tars of them"
            )
    return locations


def _is_url(pattern: str) -> bool:
    return "://" in pattern or pattern.startswith(("pipe:", "file:"))


def _expanded(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` to its three names, as webdataset expands them."""
    from webdataset.shardlists import expand_urls

    try:
        return list(expand_urls(pattern))
    except (AssertionError, KeyError, ValueError) as error:
        raise SourceError(
            f"cannot expand the pattern {pattern}: {error}. Mend it, or quote it for the shell"
        ) from error


def _found(pattern: str) -> list[Path] | list[str]:
    """The tars of a pattern without braces; what a glob finds is a file, whatever its name looks like."""
    if pattern.startswith("file:"):
        pattern = url2pathname(urlsplit(pattern).path)
    if _is_url(pattern):
        return [pattern]
    pattern = str(expanded(pattern))
    if Path(pattern).exists():
        return [Path(pattern)]
    found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else []  # noqa: PTH207 - the pattern may be absolute
    if not found:
        raise SourceError(
            f"no such file: {pattern}. IMAGES is a folder of class folders, or webdataset tars "
            "(a file, a glob, a brace pattern such as 'train-{0000..1023}.tar', or a URL)"
        )
    return [Path(name) for name in found]
