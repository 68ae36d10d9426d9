"""Webdataset tars: how their files make samples, and what keys those have."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from relabel.cores import stoppable_threads
from relabel.errors import SourceError
from relabel.images.classes import class_names, label_of, numbers_of
from relabel.images.encoded import NOT_UTF8, EncodedImage, Listing, SourcePart, Span, as_utf8, is_utf8
from relabel.images.members import Member, tar_files
from relabel.images.streams import Reads, stopping
from relabel.manifest import DataRecord, fingerprint
from relabel.naming import LINKS, image_suffixes, is_image_name, key_and_suffix, kind_of_file
from relabel.options import SourceOptions
from relabel.plan import plan

_SHOWN = 10
_LONGEST_CLASS = 200
"""Characters: a longer text is a caption, and a million of them would fill the manifest."""
_META = re.compile(r"__[^/]*__($|/)")
_TAR_NAME = re.compile(r"[^\s/'\"?#&|;<>()=]+\.(?:tar|tgz)(?:\.\w+)?(?=$|[\s'\"?#&|;<>()])")


class TarSource:
    """Webdataset tars: local files (`Path`) or URLs (`str`).

    A key is a sample's ``__key__``, its class what its ``.cls`` member says: a number, which is the label; or a name,
    whose label is its place among all names, sorted. So names have labels only once all tars were listed.
    """

    root_name = ""

    def __init__(self, locations: Sequence[Path | str], options: SourceOptions) -> None:
        self._reads = Reads(options)
        names = [_name(location) for location in locations]
        self._locations = dict(zip(names, locations, strict=True))
        self._listed = self._skipped = False
        self._numbers: Mapping[str, int] | None = None
        if len(self._locations) != len(locations):
            twice = [name for name, n in Counter(names).items() if n > 1]
            raise SourceError(
                f"two tars have the same file name ({', '.join(twice[:_SHOWN])}), and a store names its shards by it; "
                "rename one"
            )
        unnamable = [name for name in names if not is_utf8(name)]
        if unnamable:
            raise SourceError(f"the file names of tars are not valid UTF-8: {unnamable[:_SHOWN]}. Rename them")

    @property
    def reading(self) -> str:
        """See `ImageSource.reading`."""
        return self._reads.oldest

    def stop(self) -> None:
        """See `ImageSource.stop`."""
        self._reads.stop()

    def listing(self, rows_per_shard: int | None, *, workers: int, progress: Callable[[int], None]) -> Listing:
        """See `ImageSource.listing`; of a tar that is a local file, only the headers and the classes are read."""
        if rows_per_shard is None:
            return self._listing(workers, progress)
        self._skipped = True
        shards = tuple(self._locations)
        tasks = plan([(name, rows_per_shard) for name in shards])
        record = DataRecord(
            kind="webdataset", shards=shards, counts=(), rows_per_shard=rows_per_shard, fingerprint=fingerprint(shards)
        )
        return Listing(tasks, record, (), ())

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """See `ImageSource.read`."""
        seen: set[str] = set()
        for number, sample in enumerate(self._samples(part, read=True)):
            if sample.key in seen:
                raise SourceError(f"{part} holds the key {sample.key!r} twice; labels follow keys. Rename one of them")
            seen.add(sample.key)
            if number >= first + count:
                if self._listed:
                    return
                raise SourceError(
                    f"{part} holds more than {first + count} images: give a larger --samples-per-shard, or leave it out"
                )
            if number >= first:
                yield EncodedImage(sample.key, sample.data, self._label(part, sample), sample.error)

    def spans(self, class_names: tuple[str, ...] | None) -> list[Iterable[Span]]:
        """See `ImageSource.spans`. A tar is read from its start, and in one pass: listing it first would be another."""
        self._numbers = numbers_of(class_names)
        return [((name, 0, sys.maxsize),) for name in self._locations]

    def find(self, wanted: Mapping[str, str], unread: Callable[[SourceError], None]) -> Iterator[EncodedImage]:
        """See `ImageSource.find`. A shard's own tar is looked into first, and read no further than need be; only for
        what is not there are all of them listed."""
        left = set(wanted)
        for name in dict.fromkeys(name for name in wanted.values() if name in self._locations):
            yield from self._of_tar(name, {key for key in left if wanted[key] == name}, left, unread)
        if not left:
            return
        try:
            listing = self._listing(1, lambda _: None)
        except SourceError as error:
            unread(error)
            return
        for part in listing.parts:
            yield from self._of_tar(part.name, left.intersection(part.keys), left, unread)

    def _of_tar(
        self, name: str, here: set[str], left: set[str], unread: Callable[[SourceError], None]
    ) -> Iterator[EncodedImage]:
        """Those of `here` that a tar holds; taken out of `left`."""
        if not here:
            return
        try:
            for image in self.read(name, 0, sys.maxsize):
                if image.key in here:
                    here.discard(image.key)
                    left.discard(image.key)
                    yield image
                    if not here:
                        return
        except SourceError as error:
            unread(error)

    def _listing(self, workers: int, progress: Callable[[int], None]) -> Listing:
        """All tars' keys, the names of classes, and what was left out."""
        where: dict[str, str] = {}
        left_out: list[Counter[str]] = []

        def listed(name: str) -> SourcePart | str:
            keys: list[str] = []
            mine: Counter[str] = Counter()
            left_out.append(mine)
            try:
                for sample in self._samples(name, read=False, left_out=mine):
                    keys.append(sample.key)
                    if sample.class_text not in where:
                        where[sample.class_text] = f"the sample {sample.key!r} of {name}"
                    advance(1)
            except SourceError as error:
                return f"{error} ({len(keys)} images before that)"
            return SourcePart(name, tuple(keys)) if keys else f"{name} holds no images"

        with stoppable_threads(workers) as threads, stopping(self):
            advance = threads.unless_stopped(progress)
            outcomes = list(threads.pool.map(listed, self._locations))
        problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if problems:
            more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
            raise SourceError(f"{'; '.join(problems[:_SHOWN])}{more}. Mend or remove them, and run again")
        parts = tuple(outcome for outcome in outcomes if isinstance(outcome, SourcePart))
        _refuse_duplicates(parts)
        where.pop("", None)
        names = class_names(where)
        self._numbers, self._listed = numbers_of(names), True
        return replace(
            Listing.of("webdataset", parts, None, names),
            left_out=sum(left_out, Counter()),
            most_label=max((label_of(text, self._numbers) for text in where), default=-1),
        )

    def _label(self, part: str, sample: _Sample) -> int:
        try:
            return label_of(sample.class_text, self._numbers)
        except KeyError:
            if self._skipped:
                raise SourceError(
                    f"{part}: {sample.key!r} is of the class {sample.class_text!r}, and only a listing of all tars can "
                    "number names: leave --samples-per-shard out"
                ) from None
            if not self._listed:
                return -1
            raise SourceError(
                f"{part}: {sample.key!r} is of the class {sample.class_text!r}, and none was called so when it was "
                "listed. It changed during the run; restore it, or generate a new store"
            ) from None

    def _samples(self, name: str, *, read: bool, left_out: Counter[str] | None = None) -> Iterator[_Sample]:
        """The samples that hold an image, in the tar's order; without `read`, the image's bytes are left out.

        `left_out` counts the files of which nothing is made, by what they are.
        """

        def is_wanted(path: str) -> bool:
            suffix = key_and_suffix(path)[1]
            return suffix == "cls" or (read and is_image_name(f".{suffix}"))

        left_out = Counter() if left_out is None else left_out
        current = _Group("")
        for member in tar_files(self._locations[name], name, is_wanted, self._reads):
            key, suffix = key_and_suffix(member.name)
            if _META.match(member.name):
                continue
            if not suffix or not member.is_file:
                left_out[kind_of_file(member.name) if member.is_file else LINKS] += 1
                continue
            if key != current.key:
                yield from current.image(left_out)
                current = _Group(key)
            current.members.append((suffix, member))
        yield from current.image(left_out)


def _name(location: Path | str) -> str:
    """A tar's file name, without the folder, host, signature or command around it."""
    if isinstance(location, Path):
        return location.name
    found = _TAR_NAME.search(location)
    return found[0] if found else location.rstrip("/").rpartition("/")[2]


def _refuse_duplicates(parts: Iterable[SourcePart]) -> None:
    counts = Counter(key for part in parts for key in part.keys)
    twice = {key for key, n in counts.items() if n > 1}
    if not twice:
        return
    where: dict[str, list[str]] = {key: [] for key in sorted(twice)[:_SHOWN]}
    for part in parts:
        for key in twice.intersection(part.keys, where):
            where[key] += [part.name] * part.keys.count(key)
    lines = "".join(f"\n  {key}: {', '.join(names)}" for key, names in where.items())
    more = f"\n  and {len(twice) - len(where)} more" if len(twice) > len(where) else ""
    raise SourceError(f"{len(twice)} keys stand twice; labels follow keys, so each must be unique:{lines}{more}")


@dataclass(frozen=True, slots=True)
class _Sample:
    """An image, what its class is called, and why it has failed already; "" where it has not."""

    key: str
    data: bytes
    class_text: str
    error: str


@dataclass(frozen=True, slots=True)
class _Group:
    """The members of one sample by suffix, as webdataset groups them: neighbours with the same key."""

    key: str
    members: list[tuple[str, Member]] = field(default_factory=list)

    def image(self, left_out: Counter[str]) -> Iterator[_Sample]:
        """The sample's image, if it has one."""
        images = image_suffixes(suffix for suffix, _ in self.members)
        if not images:
            left_out.update(kind_of_file(f"x.{suffix}") for suffix, _ in self.members)
            return
        member = next(member for suffix, member in self.members if suffix == images[0])
        error = member.error
        if len(images) > 1:
            error = (
                f"its sample holds {len(images)} images ({', '.join(images)}), so its key does not say which; keep "
                "one, or give each a key of its own"
            )
        elif not is_utf8(self.key):
            error = NOT_UTF8
        yield _Sample(as_utf8(self.key), b"" if error else member.data, self._class_text(), error)

    def _class_text(self) -> str:
        """What the class is called; "" where it is not said in a few words of plain text."""
        data = next((member.data for suffix, member in self.members if suffix == "cls"), b"")
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode().strip()
            return text if text.isprintable() and len(text) <= _LONGEST_CLASS else ""
        return ""
