"""Images that are files below a root folder, each of which can be read alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from relabel.errors import SourceError
from relabel.images.encoded import MAX_BYTES, EncodedImage, Listing, SourcePart, Span
from relabel.images.streams import Reads
from relabel.manifest import Kind
from relabel.options import SourceOptions
from relabel.paths import SHORTAGES, read_regular
from relabel.plan import ROWS_PER_SHARD

_PART = "."
_SPAN = 256
"""Images that a thread takes at a time: a million items for threads would be a gigabyte."""


@dataclass(frozen=True, slots=True)
class Files:
    """Paths relative to the root, with extension and forward slashes, which are the keys; each one's label; what
    classes are called, None where they are only numbers; why some keys are no file's name; and what was left out, see
    `Listing`."""

    keys: tuple[str, ...]
    labels: Sequence[int]
    class_names: tuple[str, ...] | None
    errors: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


Find = Callable[[Path, int, Callable[[int], None]], Files]
"""(root, threads, progress) to the files; raises SourceErrors."""


class FilesSource:
    """The files that `find` finds, in its order: one part, cut into shards of 4,096 unless another number is given."""

    def __init__(self, kind: Kind, root: Path, find: Find) -> None:
        self._kind, self._root, self._find = kind, root, find
        self._files: Files | None = None
        self._identity: tuple[int, int] | None = None
        self._reads = Reads(SourceOptions())

    @property
    def root_name(self) -> str:
        """The root folder's name."""
        return self._root.resolve().name

    @property
    def reading(self) -> str:
        """See `ImageSource.reading`."""
        return self._reads.oldest

    def stop(self) -> None:
        """See `ImageSource.stop`; a file's bytes come, or it fails."""

    def listing(self, rows_per_shard: int | None, *, workers: int, progress: Callable[[int], None]) -> Listing:
        """See `ImageSource.listing`."""
        files = self._list(workers, progress)
        part = SourcePart(_PART, files.keys)
        listing = Listing.of(self._kind, (part,), rows_per_shard or ROWS_PER_SHARD, files.class_names)
        return replace(listing, left_out=files.left_out, most_label=max(files.labels, default=-1))

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """See `ImageSource.read`."""
        files = self._listed()
        for number in range(first, min(first + count, len(files.keys))):
            key, label = files.keys[number], int(files.labels[number])
            error = files.errors.get(key, "")
            try:
                with self._reads.of(key):
                    data = b"" if error else read_regular(self._root / key, MAX_BYTES)
            except OSError as fault:
                self._refuse_if_not_its_own(key, fault)
                data, error = b"", f"cannot be read: {fault.strerror or fault}"
            yield EncodedImage(key, data, label, error)

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
        try:
            for number in places:
                yield from self.read(_PART, number, 1)
        except SourceError as error:
            unread(error)

    def _refuse_if_not_its_own(self, key: str, fault: OSError) -> None:
        """Raise where a file cannot be read through no fault of its own, so that no row must say that it was."""
        if fault.errno in SHORTAGES:
            raise SourceError(
                f"cannot read {key}: {fault.strerror}. This process has too many files open, or the machine too little "
                "memory; give it more, or it less to do, and run again"
            ) from fault
        if self._now() != self._identity:
            raise SourceError(
                f"cannot read {key}: {self._root} is not the folder that was listed. Was its disk unmounted? Bring it "
                "back, and run again"
            ) from fault

    def _now(self) -> tuple[int, int] | None:
        """Which folder the root is at this moment, if it is there."""
        try:
            status = self._root.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _listed(self) -> Files:
        return self._files or self._list(1, lambda _: None)

    def _list(self, workers: int, progress: Callable[[int], None]) -> Files:
        self._identity = self._now()
        self._files = self._find(self._root, workers, progress)
        return self._files
