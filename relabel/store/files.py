"""Where a store's files are: in a folder, or behind a URL and copied whole, on demand, into a local folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from relabel.errors import DamagedStoreError, StoreError
from relabel.paths import expanded, read_regular
from relabel.store.locks import HAVE_LOCKS, lock_file

MOST_METADATA_BYTES = 1 << 25
"""Of a zarr.json: twice what all shards that a store may have take. Parsed, it may take thirty times as much memory."""
_COPY_SECONDS = 600.0
_SCARCE = {
    errno.EMFILE: "Raise `ulimit -n`",
    errno.ENFILE: "The machine has no descriptor left: raise fs.file-max",
    errno.ENOMEM: "Raise vm.max_map_count (65,530 unless it was set), `ulimit -v`, or the machine's memory",
    errno.EACCES: "Mend its permissions, and run again",
    errno.EPERM: "Mend its permissions, and run again",
    errno.EAGAIN: "Raise `ulimit -l`, or try again: the machine is out of it at this moment",
}
"""What a process, a user or a machine can lack, and what to do; none of it is damage."""


class ScarceError(StoreError):
    """Descriptors, mappings, memory or permissions are wanting, which is no damage."""


class ForbiddenError(StoreError):
    """A file that this user may not read: it may be whole all the same."""


class StoreFiles(Protocol):
    """A store's files by name, ``array/file``. Picklable."""

    @property
    def where(self) -> str:
        """The store, for messages."""

    @property
    def repair(self) -> str:
        """What to do about a damaged file, for messages."""

    @property
    def cache(self) -> Path | None:
        """Where each file is copied to, whole, before any of it is read; None for a store in a folder."""

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; empty if it is not there.

        Raises:
            StoreError: the folder cannot be listed.
        """

    def local(self, name: str, most: int | None = None) -> Path:
        """A local path of a file; of a store in a folder, whether the file is there or not.

        What is there may be a pipe or a device, or have any size: `read_bytes` and `paths.regular_descriptor` open it.

        Raises:
            DamagedStoreError: the file is not behind the URL, or is longer than `most` bytes.
            StoreError: it cannot be copied.
        """

    def refresh(self, shards: Sequence[Sequence[str]], most: int, *, anew: bool = False) -> list[bool]:
        """Forget the copies of shards that are others by now; nothing for a store in a folder.

        Args:
            shards: names of the files of each, first the one that tells of the others; these are fetched together.
            most: bytes that such a file may have.
            anew: whether to forget all their copies.

        Returns:
            Whether it could be told, for each.

        Raises:
            StoreError: it could be told for none.
        """

    def size_bytes(self) -> int:
        """The bytes of all files."""


_REPAIR = (
    "Restore the file from a copy, or let `relabel verify shards STORE --repair` take the shard out of the store and "
    "run `relabel generate` again"
)


@dataclass(frozen=True, slots=True)
class _LocalFiles:
    """A store in a folder."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    @property
    def repair(self) -> str:
        return _REPAIR

    @property
    def cache(self) -> None:
        return None

    def names(self, folder: str) -> set[str]:
        try:
            return {file.name for file in (self.root / folder).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise unreadable(f"cannot list {self.root / folder}", error) from error

    def local(self, name: str, most: int | None = None) -> Path:
        return self.root / name

    def refresh(self, shards: Sequence[Sequence[str]], most: int, *, anew: bool = False) -> list[bool]:
        return [True] * len(shards)

    def size_bytes(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                # A writer may rename or remove its temporary files meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    total += Path(folder, name).stat().st_size
        return total


@dataclass(frozen=True, slots=True)
class _RemoteFiles:
    """A store behind any URL that fsspec opens; files are copied into `cache` when they are first needed."""

    url: str
    cache: Path

    @property
    def where(self) -> str:
        return self.url

    @property
    def repair(self) -> str:
        return f"If the store itself is whole, its copy is not: delete {self.cache}. {_REPAIR}"

    def names(self, folder: str) -> set[str]:
        try:
            with _remote(self.url, f"list {self.url}/{folder}") as (system, root):
                system.invalidate_cache()
                return {str(p).rstrip("/").rpartition("/")[2] for p in system.ls(f"{root}/{folder}", detail=False)}
        except FileNotFoundError:
            return set()

    def local(self, name: str, most: int | None = None) -> Path:
        path = self.cache / name
        if not path.exists():
            try:
                with _remote(self.url, f"copy {self.url}/{name} to {self.cache}") as (system, root):
                    if most is not None and (size := system.size(f"{root}/{name}") or 0) > most:
                        raise DamagedStoreError(f"{self.url}/{name} has {size} bytes, and at most {most} belong there")
                    self._copy(name, path, system, root)
            except FileNotFoundError as error:
                raise DamagedStoreError(f"{self.url} lacks the file {name}") from error
        return path

    def size_bytes(self) -> int:
        with _remote(self.url, f"measure {self.url}") as (system, root):
            return int(system.du(root))

    def refresh(self, shards: Sequence[Sequence[str]], most: int, *, anew: bool = False) -> list[bool]:
        with _remote(self.url, f"read {self.url}/{shards[0][0]}") as (system, root):
            # Not `cat`, which takes brackets in a path for a pattern.
            found = system.cat_ranges([f"{root}/{names[0]}" for names in shards], 0, most + 1)
            told = [isinstance(each, FileNotFoundError) or not isinstance(each, Exception) for each in found]
            if not any(told):
                raise found[0]
            for names, each, is_told in zip(shards, found, told, strict=True):
                if is_told:
                    self._replace(names, None if isinstance(each, FileNotFoundError) else bytes(each), anew)
        return told

    def _replace(self, names: Sequence[str], first: bytes | None, anew: bool) -> None:
        """Forget the copies of some files, unless the first one's says what it should, which it does from then on."""
        path, *others = (self.cache / name for name in names)
        if not anew and _content(path) == first:
            return
        with _alone(path):
            if not anew and _content(path) == first:
                return
            # In this order: what is cut off here is done again.
            for other in others:
                other.unlink(missing_ok=True)
            if first is None:
                path.unlink(missing_ok=True)
                return
            with drafted(path) as draft:
                draft.write_bytes(first)

    def _copy(self, name: str, path: Path, system: Any, root: str) -> None:
        with _alone(path):
            if path.exists():
                return
            with drafted(path) as draft:
                system.get_file(f"{root}/{name}", str(draft))
                expected, copied = system.size(f"{root}/{name}"), draft.stat().st_size
                if expected is not None and expected != copied:
                    raise OSError(f"got {copied} of {expected} bytes")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep the other workers of a machine, which share the cache, from a file: one copies, they wait.

    Without locks, all copy.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = path.with_name(f".{path.name}.lock")
    lock = lock_file(marker, patience_seconds=_COPY_SECONDS) if HAVE_LOCKS else None
    try:
        yield
    finally:
        if lock is not None:
            marker.unlink(missing_ok=True)
            lock.release()


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A file to fill, which then gets its name: none ever sees half of it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def store_files(path: str | Path) -> StoreFiles:
    """The files of a store given as a folder or a URL (``scheme://...``).

    A URL's files are cached below ``$RELABEL_CACHE``, else ``~/.cache/relabel``, in a folder that belongs to the URL
    and the manifest that is there now: another store that takes the URL's place is not mistaken for the first. One
    with the same manifest is told by its shards' digests (`StoreFiles.refresh`).

    Raises:
        StoreError: the URL cannot be opened, or no store is there.
    """
    text = str(path)
    if "://" not in text:
        return _LocalFiles(expanded(path))
    url = text.rstrip("/")
    try:
        with _remote(url, f"open {url}") as (system, root):
            system.invalidate_cache()
            manifest = system.cat_file(f"{root}/zarr.json", 0, MOST_METADATA_BYTES + 1)
    except FileNotFoundError as error:
        raise StoreError(f"{url} is not a relabel store: it has no zarr.json") from error
    cache = expanded(os.environ.get("RELABEL_CACHE") or Path.home() / ".cache" / "relabel")
    return _RemoteFiles(url, cache / hashlib.sha256(url.encode() + b"\0" + manifest).hexdigest()[:16])


def read_bytes(files: StoreFiles, name: str, most: int) -> bytes:
    """A store's file, if it is a regular one of at most so many bytes.

    Raises:
        OSError: it is not there, is none such (EINVAL, EFBIG), or cannot be read.
        StoreError: as `StoreFiles.local`.
    """
    return read_regular(files.local(name, most), most)


def unreadable(what: str, error: OSError) -> StoreError:
    """The error for what the system did not do, to be raised: a `ScarceError` that says what to raise, where it can,
    or a `ForbiddenError`."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return ForbiddenError(f"{text}. Mend its permissions: it may be whole")
    return ScarceError(f"{text}. {_SCARCE[error.errno]}") if error.errno in _SCARCE else StoreError(text)


@contextlib.contextmanager
def _remote(url: str, what: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; its errors, except FileNotFoundError, become StoreErrors."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise StoreError(f"cannot {what}: it needs fsspec: pip install fsspec") from error
    try:
        # Each time anew: fsspec keeps one for each process, and one made before a fork is dead in the child.
        system, root = url_to_fs(url)
        yield system, str(root).rstrip("/")
    except (FileNotFoundError, StoreError):
        raise
    # Each file system has errors of its own, from its own libraries.
    except Exception as error:
        raise StoreError(f"cannot {what}: {str(error) or type(error).__name__}") from error
