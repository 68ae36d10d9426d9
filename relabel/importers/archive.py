"""Which files an archive holds, and which image each belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relabel.errors import SourceError
from relabel.images import Listing, SourcePart
from relabel.images.encoded import is_utf8
from relabel.manifest import DataRecord
from relabel.plan import ROWS_PER_SHARD, ShardTask

SUFFIX = ".pt"
NO_MAP, AMBIGUOUS = -1, -2
"""In place of a map's number: there is none; several have the image's name, in different folders."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Archive:
    """The files of an archive: `stems` are their paths below `folder`, sorted, without the suffix."""

    folder: str
    stems: tuple[str, ...]


def list_archive(folder: Path, progress: Callable[[int], None]) -> Archive:
    """The .pt files in a folder and in the folders directly below it, where the published codes look for them.

    Raises:
        SourceError: it cannot be read, or holds none; or a name is not UTF-8, which a store could not keep.
    """
    if not folder.is_dir():
        raise SourceError(
            f"no such folder: {folder}. DIR is the archive's folder, unpacked: class folders of .pt files"
        )
    stems: list[str] = []
    below = [entry.name for entry in _entries(folder) if entry.is_dir()]
    for prefix in ("", *(f"{name}/" for name in below)):
        files = (e.name for e in _entries(folder / prefix) if prefix or not e.is_dir())
        # A file called .pt, and no more, is no image's.
        found = [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX) and name != SUFFIX]
        stems += [prefix + stem for stem in found]
        progress(len(found))
    if not stems:
        raise SourceError(f"{folder} holds no .pt files, nor do the folders in it. {_hint(folder, below)}")
    unnamable = [stem for stem in stems if not is_utf8(stem)]
    if unnamable:
        raise SourceError(f"{len(unnamable)} file names are not valid UTF-8: {unnamable[:_SHOWN]}. Rename them")
    return Archive(str(folder), tuple(sorted(stems)))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise SourceError(f"cannot read the folder {folder}: {error.strerror}. Mend its permissions") from error


def _hint(folder: Path, below: Iterable[str]) -> str:
    """Where they are, if it is one level deeper."""
    for name in sorted(below):
        for entry in _entries(folder / name):
            if entry.is_dir() and any(e.name.endswith(SUFFIX) for e in _entries(folder / name / entry.name)):
                return f"They are in {folder / name}: give that"
    return "DIR is the archive's folder, unpacked: class folders of .pt files"


def published_stem(key: str, root_name: str = "") -> str:
    """The published codes' name of an image's file, without .pt: the last two parts of its path, cut at the first dot.

    `root_name` is the name of the folder that the key is relative to: the part before a key of one part.
    """
    # A tar may have ./ before its members' names, as `tar -cf x.tar .` writes them.
    parts = [part for part in key.split("/") if part not in ("", ".")][-2:]
    if len(parts) == 1 and root_name:
        parts = [root_name, *parts]
    return "/".join(parts).partition(".")[0]


def numbers_of_files(archive: Archive, names: Iterable[str]) -> list[int]:
    """The number of the file of each name, without its suffix, or `NO_MAP`.

    A name without a folder, as many tars have it, finds the one file that has it in any folder, or says `AMBIGUOUS`.
    """
    without_folder: dict[str, int] = {}
    for number, stem in enumerate(archive.stems):
        last = stem.rpartition("/")[2]
        without_folder[last] = AMBIGUOUS if last in without_folder else number
    numbers = {stem: number for number, stem in enumerate(archive.stems)}
    return [numbers.get(name, without_folder.get(name, NO_MAP)) for name in names]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a store to be, and the map of each.

    Attributes:
        archive: the files.
        keys: of all rows, in their order.
        tasks: the shards that they are cut into.
        maps: (rows,) which of the archive's files, or `NO_MAP` or `AMBIGUOUS`.
        sharing: (files,) how many images have the file for theirs.
        record: of the manifest.
    """

    archive: Archive
    keys: tuple[str, ...]
    tasks: tuple[ShardTask, ...]
    maps: NDArray[np.int64]
    sharing: NDArray[np.int64]
    record: DataRecord

    def first(self, task: ShardTask) -> int:
        """The number of a task's first row."""
        return sum(other.count for other in self.tasks[: task.shard])

    def name(self, row: int) -> str:
        """The file of a row's map below the archive's folder, "" where it has none of its own."""
        number = int(self.maps[row])
        return self.archive.stems[number] + SUFFIX if number >= 0 and self.sharing[number] == 1 else ""

    def fault(self, row: int) -> str:
        """Why a row has no map of its own; "" where it has one."""
        number = int(self.maps[row])
        if number == NO_MAP:
            return "the archive holds no map of this image"
        if number == AMBIGUOUS:
            return "several maps of the archive have this name, in different folders"
        if self.sharing[number] > 1:
            return (
                f"{self.sharing[number]} images have the one map {self.archive.stems[number]}{SUFFIX}: the published "
                "rule cuts names at their first dot"
            )
        return ""

    @property
    def with_map(self) -> int:
        """How many rows have a map of their own."""
        return int((self.maps >= 0).sum() - self.sharing[self.sharing > 1].sum())

    @property
    def maps_without_image(self) -> int:
        """How many files belong to no image."""
        return int((self.sharing == 0).sum())


def rows_of_files(archive: Archive, extension: str, rows_per_shard: int | None) -> Rows:
    """A row for each file, whose key is its name with the extension of an image."""
    count = len(archive.stems)
    keys = tuple(stem + extension for stem in archive.stems)
    listing = Listing.of("folder", (SourcePart(".", keys),), rows_per_shard or ROWS_PER_SHARD)
    return Rows(archive, keys, listing.tasks, np.arange(count), np.ones(count, np.int64), listing.record)


def rows_of_images(archive: Archive, listing: Listing, root_name: str) -> Rows:
    """A row for each image of a source, in its order; `root_name` as for `published_stem`.

    Raises:
        SourceError: no image at all has a map; shows what names were looked for.
    """
    keys = tuple(key for part in listing.parts for key in part.keys)
    looked_for = [published_stem(key, root_name) for key in keys]
    maps = np.array(numbers_of_files(archive, looked_for), np.int64)
    if not (maps >= 0).any():
        raise SourceError(
            f"no image has a map in {archive.folder}: the first image, {keys[0]!r}, would have "
            f"{looked_for[0] + SUFFIX!r}, and the first file is {archive.stems[0] + SUFFIX!r}. Are they of one set?"
        )
    sharing = np.bincount(maps[maps >= 0], minlength=len(archive.stems)).astype(np.int64)
    return Rows(archive, keys, listing.tasks, maps, sharing, listing.record)
