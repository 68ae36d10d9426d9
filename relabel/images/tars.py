"""Webdataset tars, local or from any URL that webdataset opens."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tarfile import EmptyHeaderError, SubsequentHeaderError, TruncatedHeaderError
from typing import IO, Literal, Self

from relabel.errors import SourceError
from relabel.images.encoded import EncodedImage, SourcePart, is_image_name

_SHOWN = 10


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` to its three names, as webdataset expands them."""
    from webdataset.shardlists import expand_urls

    return list(expand_urls(pattern))


class TarSource:
    """Webdataset tars. A key is a sample's ``__key__``, its label what its ``.cls`` member says."""

    kind: Literal["webdataset"] = "webdataset"

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = {_name(url): url for url in urls}
        self._listed = False
        if not urls:
            raise SourceError("no tars given")
        if len(self._urls) != len(urls):
            twice = [name for name, n in Counter(map(_name, urls)).items() if n > 1]
            raise SourceError(
                f"two tars have the same file name ({', '.join(twice[:_SHOWN])}), and a store names its shards by it; "
                "rename one"
            )

    def parts(self) -> tuple[str, ...]:
        """The tars' file names."""
        return tuple(self._urls)

    def listing(self, *, workers: int, progress: Callable[[int], None]) -> tuple[SourcePart, ...]:
        """Every tar's keys, from the headers alone where a tar is a local file; see `ImageSource.listing`."""

        def listed(name: str) -> SourcePart | str:
            keys: list[str] = []
            try:
                for sample in _samples(self._urls[name], read=False):
                    keys.append(sample.key)
                    progress(1)
            except SourceError as error:
                return f"{error} ({len(keys)} images before that)"
            return SourcePart(name, tuple(keys)) if keys else f"{name} holds no images"

        with ThreadPoolExecutor(workers) as pool:
            outcomes = list(pool.map(listed, self._urls))
        problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if problems:
            more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
            raise SourceError(f"{'; '.join(problems[:_SHOWN])}{more}. Mend or remove them, and run again")
        parts = tuple(outcome for outcome in outcomes if isinstance(outcome, SourcePart))
        _refuse_duplicates(parts)
        self._listed = True
        return parts

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        """See `ImageSource.read`."""
        seen: set[str] = set()
        for number, sample in enumerate(_samples(self._urls[part], read=True)):
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
                yield sample


def _name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


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


def _samples(url: str, *, read: bool) -> Iterator[EncodedImage]:
    """The samples that hold an image, in the tar's order; without `read`, their bytes are left out."""
    name = _name(url)
    current = _Group("")
    try:
        with _open(url) as stream, _open_tar(stream, url) as tar:
            for member in tar:
                key, suffix = _key_and_suffix(member.name)
                if not member.isfile() or not key or not suffix:
                    continue
                if key != current.key:
                    yield from current.image(name)
                    current = _Group(key)
                wanted = read and (suffix.lower() == "cls" or is_image_name(suffix))
                data = _member_bytes(tar, member) if wanted else b""
                current.members.append((suffix.lower(), data))
        yield from current.image(name)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise SourceError(f"{name} is damaged or cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


class _Group:
    """The members of one sample, as webdataset groups them: neighbours with the same key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.members: list[tuple[str, bytes]] = []

    def image(self, name: str) -> Iterator[EncodedImage]:
        """The sample's image, if it has one."""
        images = [(suffix, data) for suffix, data in self.members if is_image_name(suffix)]
        if len(images) > 1:
            raise SourceError(
                f"{name}: the sample {self.key!r} holds {len(images)} images ({', '.join(s for s, _ in images)}), "
                "so its key does not say which; keep one, or give each a key of its own"
            )
        if images:
            yield EncodedImage(self.key, images[0][1], self._label())

    def _label(self) -> int:
        text = next((data for suffix, data in self.members if suffix == "cls"), b"").strip()
        return int(text) if text.isdigit() and len(text) < 10 else -1


def _key_and_suffix(path: str) -> tuple[str, str]:
    """webdataset's rule: the key ends at the first dot of the last path component."""
    folder, slash, base = path.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (folder + slash + stem, suffix) if stem else ("", "")


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    data = stream.read() if stream else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"unexpected end of data in {member.name}")
    return data


def _open(url: str) -> IO[bytes]:
    if "://" not in url and not url.startswith("pipe:"):
        return Path(url).open("rb")
    from webdataset import gopen

    stream: IO[bytes] = gopen.gopen(url)
    return stream


def _open_tar(stream: IO[bytes], url: str) -> tarfile.TarFile:
    local = "://" not in url and not url.startswith("pipe:")
    return tarfile.open(fileobj=stream, mode="r:*" if local else "r|*", tarinfo=_ClosedTarInfo)


class _ClosedTarInfo(tarfile.TarInfo):
    """Refuses a tar that ends without its closing zero blocks: tarfile takes one cut between members for whole."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, TruncatedHeaderError) as error:
            raise SubsequentHeaderError("it ends without the closing blocks of a tar: cut, or empty") from error
