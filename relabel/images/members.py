"""The files in one tar, local or from any URL that webdataset opens, to its very end.

tarfile takes a tar that was cut, or whose header was changed, for a shorter one, and a failed download ends like a
whole one. Images would be missing without a word, so here each of these is an error.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]  # typeshed lacks the first
from threading import Event
from typing import IO, Any, BinaryIO, NamedTuple, Self, cast

from relabel.errors import SourceError
from relabel.images.encoded import MAX_BYTES
from relabel.images.streams import FetchError, Reads
from relabel.paths import open_regular

_HEADERS = 1 << 12
"""Bytes read at a time from a file of which perhaps only the headers are wanted."""
_STREAM = 1 << 16
_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LONGEST_HEADER = 1 << 20
"""Of what stands before a member's own header: names and attributes, of which file systems keep 64 kB."""


class Member(NamedTuple):
    """A file in a tar, its bytes where they were wanted, and why they cannot be had, "" if they can. What is neither a
    file nor a folder is a link or a device, and never has bytes."""

    name: str
    data: bytes
    error: str = ""
    is_file: bool = True


def tar_files(location: Path | str, name: str, is_wanted: Callable[[str], bool], reads: Reads) -> Iterator[Member]:
    """The members of a tar, in order, but folders; no bytes of those that are not wanted.

    Of a local file (a `Path`) the unwanted are skipped unread; a URL (a `str`) is streamed, and opened again where that
    fails or stalls. Both may be compressed with gzip, bzip2 or xz. `name` is what errors call the tar.

    Raises:
        SourceError: the tar is missing, cut, damaged or followed by something, or could not be fetched.
    """
    with reads.of(name) as stopped:
        try:
            if isinstance(location, Path):
                with open_regular(location, _HEADERS) as stream:
                    yield from _members(stream, is_wanted)
            else:
                yield from _fetched(location, is_wanted, reads, stopped)
        except FetchError as error:
            raise SourceError(
                f"{_without_secrets(str(location), name)} could not be fetched: {error}. Check the address, your "
                "access to it and the network"
            ) from error
        except Exception as error:
            # Damage leads tarfile, the decompressors and the downloaders to two dozen kinds of errors.
            raise SourceError(f"{name} is damaged or cannot be read: {_reason(error)}") from error


def _fetched(url: str, is_wanted: Callable[[str], bool], reads: Reads, stopped: Event) -> Iterator[Member]:
    """The members of a tar that is fetched, as often as need be; each is handed out once."""
    given: list[str] = []
    for attempt in itertools.count():
        try:
            with reads.opened(url, stopped) as raw, io.BufferedReader(raw, _STREAM) as stream:
                members = _members(stream, is_wanted)
                again = [member.name for member in itertools.islice(members, len(given))]
                if again != given:
                    raise ReadError("what is fetched now is another tar than a moment ago")
                for member in members:
                    given.append(member.name)
                    yield member
            return
        except FetchError as error:
            if attempt >= reads.retries or not error.may_pass:
                raise
        reads.pause(attempt, stopped)


def _without_secrets(location: str, name: str) -> str:
    """A URL without the user, the query and the fragment, where signatures and tokens stand; of a command, the name."""
    if location.startswith("pipe:"):
        return name
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", location)[0])


def _unpacked(stream: Any) -> IO[bytes]:
    """By its first bytes, as tarfile does; but tarfile's own streams do not look at the checksums."""
    start = stream.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)
    return cast(IO[bytes], stream)


def _members(stream: BinaryIO, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    mode: Any = "r:" if stream.seekable() else "r|"
    with tarfile.open(fileobj=_unpacked(stream), mode=mode, tarinfo=_StrictTarInfo, encoding="utf-8") as tar:
        for member in tar:
            # tarfile would keep them all, a kilobyte each.
            tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
            if member.isfile():
                error = cast(_StrictTarInfo, member).error
                if not error and member.size > MAX_BYTES:
                    error = f"too large: {member.size} bytes, and at most {MAX_BYTES} are read"
                content = tar.extractfile(member) if not error and is_wanted(member.name) else None
                yield Member(member.name, content.read() if content else b"", error)
            elif not member.isdir():
                yield Member(member.name, b"", is_file=False)
        rest = cast(IO[bytes], tar.fileobj)
        while chunk := rest.read(_STREAM):
            if chunk.strip(b"\0"):
                raise ReadError("something follows its closing block: damaged, or several tars in one file")
    # A decompressor may leave something unread, and a stream's end is where a failed download is seen.
    while stream.read(_STREAM):
        continue


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses what tarfile takes for the end of a tar: no more blocks, or a block that is no header.

    `error` says why a member cannot be trusted although those behind it can.
    """

    error = ""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"no header and no closing block where one must be ({error}): cut, or not a tar") from error
        info._refuse_negative()
        return info

    def _refuse_negative(self) -> None:
        if self.size < 0:
            # tarfile would go back, and read the same headers for ever.
            raise ReadError(f"the size of {self.name!r} is negative")

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """What tarfile does with each header, and lets its children do otherwise."""
        self._refuse_negative()
        if self.type not in _EXTENDED or self.size <= _LONGEST_HEADER:
            return cast(tarfile.TarInfo, super()._proc_member(tar))  # type: ignore[misc]  # typeshed leaves it out
        # tarfile would take all of it into memory; without it the member behind it has only its short name.
        file = cast(IO[bytes], tar.fileobj)
        file.seek(file.tell() + self.size + -self.size % _BLOCK)
        member = self.fromtarfile(tar)
        member.offset = self.offset
        member.error = f"the header before it is too large: {self.size} bytes, and at most {_LONGEST_HEADER} are read"
        return member


def _reason(error: Exception) -> str:
    """One line. A message of the operating system without the path that it would name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
