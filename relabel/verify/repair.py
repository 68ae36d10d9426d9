"""Mending a store: what is damaged is retracted, so that it is labelled again, or restored from a copy; no more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relabel.errors import DamagedStoreError, ManifestMismatchError, StoreBusyError, StoreError
from relabel.findings import Finding
from relabel.manifest import Manifest
from relabel.paths import located
from relabel.store import ShardWriter, StoreReader, StoreWriter, read_manifest
from relabel.store.create import owns_any, remake, restore_manifest, sweep_beside
from relabel.store.digest import shard_digest
from relabel.store.files import ScarceError, StoreFiles, store_files
from relabel.store.layout import array_metadata, arrays_of, published_shards
from relabel.store.metadata import read_json
from relabel.verify.files import read_file
from relabel.verify.metadata import json_findings, metadata_findings
from relabel.verify.shard import ShardCheck, check_shard, not_published

OF_ANOTHER = (
    "no shard belongs to this zarr.json: it is that of another store. Restore it, give --from COPY, or run the command "
    "that made the shards"
)
"""Nothing is retracted then: of shards that are all whole, none would be left."""
_WRITTEN = (
    "nothing labels a store again that relabel.write made, so nothing was taken out of it: restore it with --from "
    "COPY, or write it anew into another folder. Its other shards serve all the same"
)
_OF_FILES = ("shape", "data_type", "codecs")
"""What of an array's zarr.json says how its files are to be read."""


@dataclass(slots=True, kw_only=True)
class Repair:
    """What a repair did.

    Attributes:
        retracted: shards that are missing now; `generate`, or `import`, labels them again.
        restored: shards that are the copy's now, and whole.
        left_alone: shards that another process writes, or has mended meanwhile.
        missing: shards that are not published, and were not before.
        remade: zarr.json files.
        still_damaged: shards that the copy could not mend, and that are mended without one.
        unmended: what was found and is there still.
    """

    retracted: list[int] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    left_alone: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    still_damaged: list[int] = field(default_factory=list)
    unmended: list[Finding] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.retracted or self.left_alone or self.missing or self.unmended)


def remake_metadata(store: str | Path, copy: str | None) -> list[tuple[str, str]]:
    """Make the zarr.json files anew that are missing or damaged: an array's as the manifest says, the store's as the
    copy says; answers (file, what was wrong with it).

    Raises:
        StoreError: the store's own is damaged or of another store, and there is no copy, or it is one of another store.
    """
    path = _local(store)
    files = store_files(path)
    found: list[tuple[str, str]] = []
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        if (restored := _restored(path, copy)) is None:
            raise
        manifest = restored
        found.append(("zarr.json", str(error)))
    else:
        if not owns_any(files, manifest):
            if (restored := _restored(path, copy)) is not None:
                manifest = restored
                found.append(("zarr.json", OF_ANOTHER))
            elif _is_of_other_arrays(files, manifest):
                raise StoreError(f"{path}: {OF_ANOTHER}")
    # What a user has written into the store's own is not to be lost.
    is_ours = read_json(files, "zarr.json").get("attributes", {}).keys() == {"relabel"}
    found += [(file, what) for file, what in json_findings(files, manifest) if is_ours or file != "zarr.json"]
    remake(path, manifest, list(dict.fromkeys(file for file, _ in found)))
    return found


def _restored(path: Path, copy: str | None) -> Manifest | None:
    """The copy's manifest, once it is the store's; None where that is not so."""
    if copy is None or not path.is_dir():
        return None
    manifest = read_manifest(copy)
    return manifest if restore_manifest(path, manifest) else None


def _is_of_other_arrays(files: StoreFiles, manifest: Manifest) -> bool:
    """Whether shards are there, and arrays, whole ones, that the manifest says nothing of."""
    for spec in arrays_of(manifest).values():
        # What is damaged says nothing.
        with contextlib.suppress(DamagedStoreError):
            found, expected = read_json(files, f"{spec.name}/zarr.json"), array_metadata(spec, manifest)
            if found.keys() >= expected.keys() and any(found[name] != expected[name] for name in _OF_FILES):
                return bool(published_shards(manifest, files.names("status")))
    return False


class Repairer:
    """Mends shards of a store, each under its lock, so that nothing that another process writes is touched."""

    def __init__(self, reader: StoreReader, store: str | Path, copy: str | None) -> None:
        self._reader = reader
        self._writer = StoreWriter(_local(store), reader.manifest)
        self._copy = None if copy is None else _copy_of(reader.manifest, copy)
        self._is_written = reader.manifest.data.kind == "written"
        self.retracts = copy is None and not self._is_written
        """Whether what is damaged is retracted, to be labelled again."""
        self.done = Repair()

    def sweep(self) -> None:
        """Remove the temporary files of writers that died."""
        sweep_beside(self._writer.path)
        self._writer.sweep()

    def outcome(self, remade: Iterable[str], checks: Iterable[ShardCheck], of_all: list[Finding]) -> Repair:
        """What was done, of what the shards are like afterwards, and what was found of all of them together."""
        done = self.done
        for kind in (done.retracted, done.restored, done.left_alone, done.missing, done.still_damaged):
            kind.sort()
        done.remade += dict.fromkeys(remade)
        labelled_again = {*done.retracted, *done.missing, *done.left_alone}
        unmended = [check for check in checks if labelled_again.isdisjoint(f.shard for f in check.findings)]
        left = [finding for check in unmended for finding in check.findings]
        if self._is_written and any(check.is_damaged or not check.is_published for check in unmended):
            done.unmended.append(Finding(-1, -1, "", _WRITTEN))
        of_store = [Finding(-1, -1, "", what) for what in metadata_findings(self._reader)]
        done.unmended = sorted([*done.unmended, *left, *of_store, *of_all])
        return done

    def mend(self, shard: int, found: ShardCheck) -> ShardCheck:
        """Retract a damaged shard, or restore one that is damaged or missing from the copy; what it is afterwards.

        It is looked at again once it is locked: a run may have published it since, and have been half read.
        """
        try:
            with self._writer.claim(shard, again=True, patience_seconds=0) as claimed:
                return self._mended(claimed)
        except StoreBusyError:
            self.done.left_alone.append(shard)
        except ScarceError:
            raise
        except StoreError as error:
            # What hinders one shard must not hide what is done of the others.
            self.done.unmended.append(Finding(shard, -1, "", str(error)))
        return found

    def _mended(self, claimed: ShardWriter) -> ShardCheck:
        now, shard = self._look(claimed.shard), claimed.shard
        if not now.findings:
            self.done.left_alone.append(shard)
        elif self._copy is not None:
            return self._restore(claimed, self._copy, now)
        elif now.is_damaged and self.retracts:
            claimed.retract()
            self.done.retracted.append(shard)
            return not_published(shard)
        elif not now.is_published and not self._is_written:
            self.done.missing.append(shard)
        return now

    def _restore(self, claimed: ShardWriter, copy: StoreReader, now: ShardCheck) -> ShardCheck:
        files = _whole_files(copy, claimed.shard)
        if not files:
            self.done.unmended.append(Finding(claimed.shard, -1, "", "the copy's shard is damaged or missing, too"))
            if not self._is_written and (now.is_damaged or not now.is_published):
                self.done.still_damaged.append(claimed.shard)
            return now
        claimed.restore(files)
        after = self._look(claimed.shard)
        if not after.findings:
            self.done.restored.append(claimed.shard)
        return after

    def _look(self, shard: int) -> ShardCheck:
        status = self._reader.arrays["status"]
        if not os.path.lexists(self._writer.path / status.name / status.file_name(shard)):
            return not_published(shard)
        return check_shard(self._reader, shard, _nothing)


def _whole_files(copy: StoreReader, shard: int) -> Mapping[str, bytes]:
    """The bytes of a shard's files by array; none where anything is wrong with them."""
    if shard not in copy.published or check_shard(copy, shard, _nothing).findings:
        return {}
    try:
        files = {name: read_file(copy, name, shard) for name in copy.arrays}
    except DamagedStoreError:
        return {}
    # Those that were read now are those that were looked at.
    others = [(name, data) for name, data in files.items() if name != "digest"]
    bound = shard_digest(copy.identity, shard, others).tobytes()
    return files if files["digest"].startswith(bound) else {}


def _copy_of(manifest: Manifest, copy: str) -> StoreReader:
    reader = StoreReader(copy, partial=True)
    if differences := manifest.difference(reader.manifest):
        raise ManifestMismatchError(
            f"{copy} is no copy of the store, but was made otherwise (the store's value != the copy's):\n  "
            + "\n  ".join(differences[:3])
        )
    return reader


def _local(store: str | Path) -> Path:
    if "://" in str(store):
        raise StoreError(f"{store} is a URL, and a repair changes files: give the local folder it was copied from")
    return located(store)


def _nothing(_: int) -> None:
    """Nobody is told of rows that are looked at once more."""
