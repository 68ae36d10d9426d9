"""The files in one tar, local or from any URL that webdataset opens, to its very end.

tarfile takes a tar that was cut, or whose header was changed, for a shorter one, and a failed download ends like a
whole one. Images would be missing without a word, so here each of these is an error.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]  # typeshed lacks the first
from typing import IO, Any, Self, cast

from relabel.errors import SourceError

_HEADERS = 1 << 12
"""Bytes read at a time from a file of which perhaps only the headers are wanted."""

_STREAM = 1 << 16


def tar_files(location: Path | str, name: str, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The name and bytes of each regular file in a tar, in order; no bytes of those that are not wanted.

    Of a local file (a `Path`) the unwanted are skipped unread; a URL (a `str`) is streamed. Both may be compressed with
    gzip, bzip2 or xz. `name` is what errors call the tar.

    Raises:
        SourceError: the tar is missing, cut, damaged or followed by something, or could not be fetched.
    """
    try:
        stream = _opened(location)
        try:
            yield from _files(stream, is_wanted)
            # A decompressor may leave something unread, and a stream's end is where a failed download is seen.
            while stream.read(_STREAM):
                continue
        finally:
            # A command whose output is left unread may well complain.
            with contextlib.suppress(OSError):
                stream.close()
    except _FetchError as error:
        raise SourceError(
            f"{_without_secrets(str(location), name)} could not be fetched: {error}. Check the address, your access to "
            "it and the network"
        ) from error
    except Exception as error:
        # Damage leads tarfile, the decompressors and the downloaders to two dozen kinds of errors.
        raise SourceError(f"{name} is damaged or cannot be read: {_reason(error)}") from error


def _opened(location: Path | str) -> io.BufferedReader:
    if isinstance(location, Path):
        return io.BufferedReader(io.FileIO(location), _HEADERS)
    from webdataset.gopen import gopen

    try:
        return io.BufferedReader(_Fetched(gopen(location)), _STREAM)
    except FileNotFoundError as error:
        raise _FetchError(f"{error.filename}, which is to fetch it, is not here") from error
    except ValueError as error:
        raise _FetchError(_reason(error)) from error


def _without_secrets(location: str, name: str) -> str:
    """A URL without the user, the query and the fragment, where signatures and tokens stand; of a command, the name."""
    if location.startswith("pipe:"):
        return name
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", location)[0])


def _unpacked(stream: io.BufferedReader) -> IO[bytes]:
    """By its first bytes, as tarfile does; but tarfile's own streams do not look at the checksums."""
    start = stream.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)
    return stream


def _files(stream: io.BufferedReader, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    mode: Any = "r:" if stream.seekable() else "r|"
    with tarfile.open(fileobj=_unpacked(stream), mode=mode, tarinfo=_StrictTarInfo, encoding="utf-8") as tar:
        for member in tar:
            # tarfile would keep them all, a kilobyte each.
            tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
            if member.isfile():
                content = tar.extractfile(member) if is_wanted(member.name) else None
                yield member.name, content.read() if content else b""
        rest = cast(IO[bytes], tar.fileobj)
        while chunk := rest.read(_STREAM):
            if chunk.strip(b"\0"):
                raise ReadError("something follows its closing block: damaged, or several tars in one file")


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses what tarfile takes for the end of a tar: no more blocks, or a block that is no header."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"no header and no closing block where one must be ({error}): cut, or not a tar") from error
        if info.size < 0:
            # tarfile would go back, and read the same headers for ever.
            raise ReadError(f"the size of {info.name!r} is negative")
        return info


class _FetchError(OSError):
    """What went wrong is the fetching: nothing is known of the tar."""


class _Fetched(io.RawIOBase):
    """A stream that webdataset opened; its end is reached only where the command that fetches it did well.

    webdataset's own errors print that command, and for some URLs an access token stands in it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ended = False

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much of the buffer as there is; 0 at the end."""
        if self._ended:
            return 0
        try:
            data = self._stream.read(len(buffer))
            if not data:
                self._ended = True
                self._stream.close()
        except OSError as error:
            status = getattr(getattr(self._stream, "proc", None), "returncode", None)
            raise _FetchError(
                f"the command that fetches it ended with exit {status}" if status else _reason(error)
            ) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop the command."""
        try:
            self._stream.close()
        finally:
            super().close()


def _reason(error: Exception) -> str:
    """One line. A message of the operating system without the path that it would name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
