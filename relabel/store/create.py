"""Making a store, whole or not at all, by however many processes at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from relabel.errors import DamagedStoreError, ManifestMismatchError, ReplacedStoreError, StoreBusyError, StoreError
from relabel.manifest import Manifest
from relabel.paths import located
from relabel.store.belonging import Belonging
from relabel.store.changes import list_changes
from relabel.store.disk import disk_errors, make_way, sync
from relabel.store.files import MOST_METADATA_BYTES, ForbiddenError, StoreFiles, store_files
from relabel.store.layout import arrays_of, create_arrays, published_shards
from relabel.store.locks import check_locks, lock_file
from relabel.store.metadata import array_faults, load_manifest
from relabel.store.shard import ShardFiles, stamp_of
from relabel.store.writer import StoreWriter

_PATIENCE_SECONDS = 60.0
_SHOWN = 12
_OF_LIST = ("data.shards", "data.counts", "data.rows_per_shard", "data.fingerprint")
"""What of a manifest's difference the changes of the list say better."""
_EMPTY = "; or delete it, for it holds no shard yet, unless another process is filling it"


def create_or_open(path: Path, manifest: Manifest, keys: Iterable[str] = (), *, reuse_option: str = "") -> StoreWriter:
    """A writer of the store at `path`, which is created if it is not there.

    Left-over temporary files of writers that died are removed, and a zarr.json that is missing or was changed is made
    anew: those of the arrays follow from the manifest; the manifest itself is this one if a finished shard says so, and
    none says that it is the one that is there.

    Args:
        path: the store's folder.
        manifest: what makes it.
        keys: of its images in the order of its rows, to say what changed should the store be of another list.
        reuse_option: what copies the labels of a store of another list into a new one, with the caller.

    Raises:
        ManifestMismatchError: the store there was made otherwise; lists the differences.
        StoreError: something else is there, the folder cannot be written, or the system has no file locks.
    """
    check_locks()
    # Behind a link: the draft must be beside the folder that it becomes.
    path = located(path)
    with disk_errors(path):
        if not _is_taken(path):
            _create(path, manifest)
        sweep_beside(path)
        try:
            theirs = load_manifest(store_files(path))
        except StoreError as error:
            if not restore_manifest(path, manifest):
                raise _no_store(path, error) from error
            theirs = manifest
        if theirs.difference(manifest) and not owns_any(store_files(path), theirs) and restore_manifest(path, manifest):
            theirs = manifest
        writer = StoreWriter(path, theirs)
        if theirs.difference(manifest):
            changes = () if theirs.data == manifest.data else list_changes(path, manifest.data, keys)
            raise _mismatch(writer, manifest, changes, reuse_option)
        remake(path, theirs, [f"{name}/zarr.json" for name, _ in array_faults(store_files(path), theirs)])
        writer.sweep()
    return writer


def restore_manifest(path: Path, manifest: Manifest) -> bool:
    """Make a store's own zarr.json anew, if a finished shard belongs to this manifest; answers whether it is so.

    Raises:
        StoreError: the folder cannot be written, or another process does the same.
    """
    if not owns_any(store_files(path), manifest):
        return False
    remake(path, manifest, ["zarr.json"])
    return True


def owns_any(files: StoreFiles, manifest: Manifest) -> bool:
    """Whether a finished shard of a store belongs to this manifest, whatever its zarr.json is; by small reads."""
    shards = ShardFiles(files, arrays_of(manifest), manifest.data.rows_per_shard)
    bound = Belonging(shards, manifest, root=stamp_of(files.local("zarr.json")), lost=frozenset())
    for shard in sorted(published_shards(manifest, files.names("status"))):
        with contextlib.suppress(DamagedStoreError, ReplacedStoreError, ForbiddenError):
            bound.check(shard)
            return True
    return False


def remake(path: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """Make some zarr.json files as they were when the store was made.

    Raises:
        StoreError: the folder cannot be written, or another process does the same.
    """
    if not names:
        return
    with disk_errors(path), _sole_creator(path) as draft:
        create_arrays(str(draft), manifest)
        for name in names:
            file = path / name
            file.parent.mkdir(exist_ok=True)
            make_way(file)
            sync(draft / name)
            (draft / name).replace(file)
            sync(file.parent)


def _no_store(path: Path, error: StoreError) -> StoreError:
    if (path / "zarr.json").exists():
        return error
    return StoreError(
        f"{path} is not a relabel store: something else is there. Give a new or an empty folder. A store that lost its "
        "zarr.json is known by any finished shard of this teacher, these options and images, and none is there"
    )


def sweep_beside(path: Path) -> None:
    """Remove what one who was killed while making the store has left beside it."""
    with contextlib.suppress(StoreBusyError):
        if any(map(os.path.lexists, _beside(path))):
            with _sole_creator(path, patience_seconds=0):
                pass


def _is_taken(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _mismatch(
    writer: StoreWriter, manifest: Manifest, changes: Sequence[str], reuse_option: str
) -> ManifestMismatchError:
    path = writer.path
    is_list_alone = not writer.manifest.difference(manifest, besides=("data",))
    differences = [*writer.manifest.difference(manifest, besides=_OF_LIST if changes else ()), *changes]
    more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return ManifestMismatchError(
        f"{path} was made otherwise, so this run must not add to it (the store's value != this run's):"
        + "".join(f"\n  {line}" for line in differences[:_SHOWN])
        + more
        + "\nGive another STORE, or the teacher, options and images that made this one"
        + ("" if writer.published() else _EMPTY)
        + (
            f". To label only what is new: the same command with another STORE and {reuse_option} "
            f"{shlex.quote(str(path))}"
            if reuse_option and is_list_alone and writer.published()
            else ""
        )
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
def _sole_creator(path: Path, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[Path]:
    """The folder in which a store is made before it has its name; held by one alone, so what lies there is dead."""
    draft, locked = _beside(path)
    lock = lock_file(locked, patience_seconds=patience_seconds)
    if lock is None:
        raise StoreBusyError(f"another process has been making {path} for {patience_seconds:.0f} s; is it stopped?")
    try:
        _clear(draft)
        yield draft
    finally:
        _clear(draft)
        locked.unlink(missing_ok=True)
        lock.release()


def _beside(path: Path) -> tuple[Path, Path]:
    """Of a store that is being made: its draft, and the file that is locked meanwhile."""
    return path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.lock")


def _clear(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
