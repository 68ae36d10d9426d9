"""Making a store, whole or not at all, by however many processes at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from relabel.errors import ManifestMismatchError, StoreBusyError, StoreError
from relabel.manifest import Manifest
from relabel.store.disk import disk_errors, sync
from relabel.store.files import MOST_METADATA_BYTES, store_files
from relabel.store.layout import create_arrays
from relabel.store.locks import check_locks, lock_file
from relabel.store.metadata import check_arrays, load_manifest
from relabel.store.writer import StoreWriter

_PATIENCE_SECONDS = 60.0
_SHOWN = 12


def create_or_open(path: Path, manifest: Manifest) -> StoreWriter:
    """A writer of the store at `path`, which is created if it is not there.

    Left-over temporary files of writers that died are removed.

    Raises:
        ManifestMismatchError: the store there was made otherwise; lists the differences.
        DamagedStoreError: an array's metadata is missing or was changed.
        StoreError: something else is there, the folder cannot be written, or the system has no file locks.
    """
    check_locks()
    # Behind a link: the draft must be beside the folder that it becomes.
    path = Path(os.path.realpath(path))
    with disk_errors(path):
        if not _is_taken(path):
            _create(path, manifest)
        files = store_files(path)
        if not files.local("zarr.json").exists():
            raise StoreError(f"{path} is not a relabel store: something else is there. Give a new or an empty folder")
        theirs = load_manifest(files)
        writer = StoreWriter(path, theirs)
        if differences := theirs.difference(manifest):
            raise _mismatch(path, differences, is_empty=not writer.published())
        check_arrays(files, theirs)
        writer.sweep()
    return writer


def _is_taken(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _mismatch(path: Path, differences: list[str], *, is_empty: bool) -> ManifestMismatchError:
    more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return ManifestMismatchError(
        f"{path} was made otherwise, so this run must not add to it (the store's value != this run's):"
        + "".join(f"\n  {line}" for line in differences[:_SHOWN])
        + more
        + "\nGive another STORE, or the teacher, options and images that made this one"
        + ("; or delete it, for it holds no shard yet, unless another process is filling it" if is_empty else "")
    )


def _create(path: Path, manifest: Manifest) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_creator(path) as draft:
        if _is_taken(path):
            return
        create_arrays(str(draft), manifest)
        for file in (*draft.rglob("*"), draft):
            sync(file)
        if (size := (draft / "zarr.json").stat().st_size) > MOST_METADATA_BYTES:
            raise StoreError(
                f"the manifest would take {size} bytes, with {len(manifest.data.shards)} shards; readers take at most "
                f"{MOST_METADATA_BYTES}. Make several stores, of fewer and larger shards"
            )
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise StoreError(f"{path} is a mount point and cannot become a store; give a folder inside it") from error
        sync(path.parent)


@contextlib.contextmanager
def _sole_creator(path: Path) -> Iterator[Path]:
    """The folder in which a store is made before it has its name; held by one alone, so what lies there is dead."""
    draft, locked = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.lock")
    lock = lock_file(locked, patience_seconds=_PATIENCE_SECONDS)
    if lock is None:
        raise StoreBusyError(f"another process has been making {path} for {_PATIENCE_SECONDS:.0f} s; is it stopped?")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        locked.unlink(missing_ok=True)
        lock.release()
