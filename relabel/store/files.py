"""Where a store's files are: in a folder, or behind a URL and copied whole, on demand, into a local folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from relabel.errors import DamagedStoreError, StoreError


class StoreFiles(Protocol):
    """A store's files by name, ``array/file``. Picklable."""

    @property
    def where(self) -> str:
        """The store, for messages."""

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; empty if it is not there."""

    def local(self, name: str) -> Path:
        """A local path of a file.

        Raises:
            DamagedStoreError: it is not there.
        """


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A store in a folder."""

    root: Path

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def names(self, folder: str) -> set[str]:
        """See `StoreFiles`."""
        try:
            return {file.name for file in (self.root / folder).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def local(self, name: str) -> Path:
        """See `StoreFiles`."""
        return self.root / name


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """A store behind any URL that fsspec opens; files are copied into `cache` when they are first needed."""

    url: str
    cache: Path

    @property
    def where(self) -> str:
        """The URL."""
        return self.url

    def names(self, folder: str) -> set[str]:
        """See `StoreFiles`."""
        system, root = _file_system(self.url)
        try:
            return {str(path).rstrip("/").rpartition("/")[2] for path in system.ls(f"{root}/{folder}", detail=False)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(f"cannot list {self.url}/{folder}: {error}") from error

    def local(self, name: str) -> Path:
        """See `StoreFiles`."""
        path = self.cache / name
        if not path.exists():
            self._copy(name, path)
        return path

    def _copy(self, name: str, path: Path) -> None:
        system, root = _file_system(self.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A private name first: workers of one machine share the cache, and must never see half a file.
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        os.close(descriptor)
        try:
            system.get_file(f"{root}/{name}", draft)
            Path(draft).replace(path)
        except FileNotFoundError as error:
            raise DamagedStoreError(f"{self.url} lacks the file {name}") from error
        except OSError as error:
            raise StoreError(f"cannot copy {self.url}/{name} to {self.cache}: {error}") from error
        finally:
            Path(draft).unlink(missing_ok=True)


def store_files(path: str | Path) -> StoreFiles:
    """The files of a store given as a folder or a URL (``scheme://...``).

    A URL's files are cached below ``$RELABEL_CACHE``, else ``~/.cache/relabel``.
    """
    text = str(path)
    if "://" not in text:
        return LocalFiles(Path(path))
    url = text.rstrip("/")
    root = Path(os.environ.get("RELABEL_CACHE") or Path.home() / ".cache" / "relabel")
    return RemoteFiles(url, root / hashlib.sha256(url.encode()).hexdigest()[:16])


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise StoreError(f"{url} needs fsspec: pip install fsspec") from error
    try:
        system, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StoreError(f"cannot open {url}: {error}") from error
    return system, str(root).rstrip("/")
