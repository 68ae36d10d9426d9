"""Images that are files below a root folder, each of which can be read alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relabel.errors import SourceError
from relabel.images.encoded import EncodedImage, Listing, SourcePart, Span
from relabel.manifest import Kind
from relabel.plan import ROWS_PER_SHARD

_PART = "."
_SPAN = 256
"""Images that a thread takes at a time: a million items for threads would be a gigabyte."""


@dataclass(frozen=True, slots=True)
class Files:
    """Paths relative to the root, with extension and forward slashes, which are the keys; each one's label; and what
    classes are called, None where they are only numbers."""

    keys: tuple[str, ...]
    labels: Sequence[int]
    class_names: tuple[str, ...] | None


Find = Callable[[Path, int, Callable[[int], None]], Files]
"""(root, threads, progress) to the files; raises SourceErrors."""


class FilesSource:
    """The files that `find` finds, in its order: one part, cut into shards of 4,096 unless another number is given."""

    def __init__(self, kind: Kind, root: Path, find: Find) -> None:
        self._kind, self._root, self._find = kind, root, find
        self._files: Files | None = None

    @property
    def root_name(self) -> str:
        """The root folder's name."""
        return self._root.resolve().name

    def listing(self, rows_per_shard: int | None, *, workers: int, progress: Callable[[int], None]) -> Listing:
        """See `ImageSource.listing`."""
        self._files = files = self._find(self._root, workers, progress)
        part = SourcePart(_PART, files.keys)
        return Listing.of(self._kind, (part,), rows_per_shard or ROWS_PER_SHARD, files.class_names)

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """See `ImageSource.read`."""
        files = self._listed()
        for number in range(first, min(first + count, len(files.keys))):
            key = files.keys[number]
            try:
                data = (self._root / key).read_bytes()
            except OSError as error:
                raise SourceError(f"cannot read {key}: {error.strerror}. The folder changed during the run?") from error
            yield EncodedImage(key, data, int(files.labels[number]))

    def spans(self, class_names: tuple[str, ...] | None) -> list[Iterable[Span]]:
        """See `ImageSource.spans`."""
        count = len(self._listed().keys)
        starts = range(0, count, _SPAN)
        return [((_PART, number, 1) for number in range(first, min(first + _SPAN, count))) for first in starts]

    def find(self, wanted: Mapping[str, str], unread: Callable[[SourceError], None]) -> Iterator[EncodedImage]:
        """See `ImageSource.find`."""
        try:
            places = [number for number, key in enumerate(self._listed().keys) if key in wanted]
        except SourceError as error:
            unread(error)
            return
        for number in places:
            try:
                yield from self.read(_PART, number, 1)
            except SourceError as error:
                unread(error)

    def _listed(self) -> Files:
        self._files = self._files or self._find(self._root, 1, lambda _: None)
        return self._files
