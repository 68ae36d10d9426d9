"""Mending a store: what is damaged is retracted, so that it is labelled again, or restored from a copy; no more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relabel.errors import DamagedStoreError, ManifestMismatchError, StoreBusyError, StoreError
from relabel.findings import Finding
from relabel.manifest import Manifest
from relabel.paths import located
from relabel.store import ShardWriter, StoreReader, StoreWriter, read_manifest
from relabel.store.create import remake, restore_manifest, sweep_beside
from relabel.store.digest import shard_digest
from relabel.store.files import store_files
from relabel.store.metadata import read_json
from relabel.verify.files import read_file
from relabel.verify.metadata import json_findings, metadata_findings
from relabel.verify.shard import ShardCheck, check_shard, not_published


@dataclass(slots=True, kw_only=True)
class Repair:
    """What a repair did.

    Attributes:
        retracted: shards that are missing now; `generate`, or `import`, labels them again.
        restored: shards that are the copy's now, and whole.
        left_alone: shards that another process writes, or has mended meanwhile.
        missing: shards that are not published, and were not before.
        remade: zarr.json files.
        unmended: what was found and is there still; labelling again does not mend it.
    """

    retracted: list[int] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    left_alone: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    unmended: list[Finding] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.retracted or self.left_alone or self.missing or self.unmended)


def remake_metadata(store: str | Path, copy: str | None) -> list[tuple[str, str]]:
    """Make the zarr.json files anew that are missing or damaged: an array's as the manifest says, the store's as the
    copy says; answers (file, what was wrong with it).

    Raises:
        StoreError: the store's own is damaged, and there is no copy, or it is one of another store.
    """
    path = _local(store)
    found: list[tuple[str, str]] = []
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        if copy is None or not path.is_dir() or not restore_manifest(path, read_manifest(copy)):
            raise
        manifest = read_manifest(copy)
        found.append(("zarr.json", str(error)))
    files = store_files(path)
    # What a user has written into the store's own is not to be lost.
    is_ours = read_json(files, "zarr.json").get("attributes", {}).keys() == {"relabel"}
    found += [(file, what) for file, what in json_findings(files, manifest) if is_ours or file != "zarr.json"]
    remake(path, manifest, list(dict.fromkeys(file for file, _ in found)))
    return found


class Repairer:
    """Mends shards of a store, each under its lock, so that nothing that another process writes is touched."""

    def __init__(self, reader: StoreReader, store: str | Path, copy: str | None) -> None:
        self._reader = reader
        self._writer = StoreWriter(_local(store), reader.manifest)
        self._copy = None if copy is None else _copy_of(reader.manifest, copy)
        self.done = Repair()

    def sweep(self) -> None:
        """Remove the temporary files of writers that died."""
        sweep_beside(self._writer.path)
        self._writer.sweep()

    def outcome(self, remade: Iterable[str], checks: Iterable[ShardCheck], of_all: list[Finding]) -> Repair:
        """What was done, of what the shards are like afterwards, and what was found of all of them together."""
        done = self.done
        for kind in (done.retracted, done.restored, done.left_alone, done.missing):
            kind.sort()
        done.remade += dict.fromkeys(remade)
        labelled_again = {*done.retracted, *done.missing, *done.left_alone}
        left = [finding for check in checks for finding in check.findings if finding.shard not in labelled_again]
        of_store = [Finding(-1, -1, "", what) for what in metadata_findings(self._reader)]
        done.unmended = sorted([*done.unmended, *left, *of_store, *of_all])
        return done

    def mend(self, shard: int, found: ShardCheck) -> ShardCheck:
        """Retract a damaged shard, or restore one that is damaged or missing from the copy; what it is afterwards.

        It is looked at again once it is locked: a run may have published it since, and have been half read.
        """
        try:
            claimed = self._writer.claim(shard, again=True, patience_seconds=0)
        except StoreBusyError:
            self.done.left_alone.append(shard)
            return found
        with claimed:
            now = self._look(shard)
            if not now.findings:
                self.done.left_alone.append(shard)
            elif self._copy is not None:
                return self._restore(claimed, self._copy, now)
            elif now.is_damaged:
                claimed.retract()
                self.done.retracted.append(shard)
                return not_published(shard)
            elif not now.is_published:
                self.done.missing.append(shard)
            return now

    def _restore(self, claimed: ShardWriter, copy: StoreReader, now: ShardCheck) -> ShardCheck:
        files = _whole_files(copy, claimed.shard)
        if not files:
            self.done.unmended.append(Finding(claimed.shard, -1, "", "the copy's shard is damaged or missing, too"))
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
    bound = shard_digest(copy.manifest.identity(), shard, others).tobytes()
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
