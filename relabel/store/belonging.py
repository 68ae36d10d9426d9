"""Whether a shard's files are those that a reader opened first, and belong together and to its store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from relabel.errors import DamagedStoreError, ReplacedStoreError, StoreError
from relabel.manifest import Manifest
from relabel.store.digest import ends_digest, store_digest
from relabel.store.files import ScarceError, store_files
from relabel.store.metadata import load_manifest
from relabel.store.shard import MAPPED, LostFileError, ShardFiles, stamp_of

_Read = TypeVar("_Read")
_TRIES = 4
"""What is published while it is looked at is whole at the second look."""
_AGAIN = "Open it again, when no other command writes it any more"


class Belonging:
    """What a reader has opened so far, for what it opens later must belong to that.

    Of each shard its `digest`, and of each file a stamp, in arrays that workers share or are sent. A file that has the
    stamp of the one that was checked is that file, which one `stat` tells; else its shard is checked again, and must
    have the digest that it had. So nothing is ever mixed, whatever takes the place of a shard or of the store.

    Args:
        shards: the files.
        manifest: of the store.
        root: the stamp of its zarr.json, taken before the manifest was read.
        lost: the shards that lacked a file when the store was opened.
    """

    def __init__(self, shards: ShardFiles, manifest: Manifest, *, root: int, lost: frozenset[int]) -> None:
        self._shards = shards
        self.identity = manifest.identity()
        self._root, self._lost = root, lost
        self._places = {name: place for place, name in enumerate(shards.arrays)}
        count = len(manifest.data.shards)
        self._digests = np.zeros((count, 2, 32), np.uint8)
        self._stamps = np.zeros((count, len(self._places)), np.int64)
        self._looked_at = [(self._places[name], *shards.around_number(name)) for name in MAPPED]
        self._is_fresh = np.full(count, shards.files.cache is None)
        self.is_sound = np.zeros(count, np.bool_)
        """(S,) whether the checksums of a shard's mapped files were found right, be it by the parent of this process"""

    def check(self, shard: int) -> None:
        """Compare a shard's digest with what its files are, by small reads.

        Raises:
            DamagedStoreError: a file is missing or cut, or they do not belong together or to this store.
            ReplacedStoreError: the shard, or the store, is not the one that was opened first, or is gone.
            StoreError: a file cannot be read.
        """
        digest, stamps = self._found(shard)
        self._bind(shard, digest)
        if (stamps != self._stamps[shard]).any():
            self.is_sound[shard] = False
            self._stamps[shard] = stamps

    def settled(self, shard: int, names: Sequence[str], get: Callable[[], _Read]) -> _Read:
        """What `get` reads of some of a shard's files, which are those that were checked; raises as `check` does."""
        if not self._stamps[shard].all():
            if self._shards.files.cache is not None and not set(names) & set(MAPPED):
                # Small reads of a shard are copies of the whole: that waits until the first of its maps is read.
                self.refresh()
                self._bind(shard, self._told(shard))
                return get()
            self.check(shard)
        places = [self._places[name] for name in names]
        for _ in range(_TRIES):
            fault, read = None, None
            try:
                read = get()
            except DamagedStoreError as error:
                fault = error
            # Only now: what was opened by its name was then no other file.
            if [self._shards.stamp(name, shard) for name in names] == self._stamps[shard, places].tolist():
                if fault is not None:
                    raise fault
                return read  # type: ignore[return-value]
            self.check(shard)
        raise self._replaced(f"shard {shard} changes all the time")

    def refresh(self, shards: Iterable[int] | None = None, *, anew: bool = False) -> None:
        """Have some shards, or all, copied again from their URL if they are others there; each is asked for once.

        Raises:
            StoreError: the URL does not answer.
        """
        chosen = range(len(self._is_fresh)) if shards is None else shards
        if stale := [shard for shard in chosen if anew or not self._is_fresh[shard]]:
            self._is_fresh[stale] = self._shards.refresh(stale, anew=anew)

    def is_kept(self, shard: int) -> bool:
        """Whether the mapped files of a shard are those that were checked, as far as their names tell.

        A name that is gone tells nothing, and what is mapped stays as it was; and copies are only ever renamed.
        """
        if self._shards.files.cache is not None:
            return True
        stamps = self._stamps[shard].tolist()
        for place, before, after in self._looked_at:
            if stamp_of(f"{before}{shard}{after}") not in (0, stamps[place]):
                return False
        return True

    def digest(self) -> str:
        """The store's digest; every shard is bound to it from here on. Raises as `check` does."""
        self.refresh()
        for shard in np.flatnonzero(~self._digests.any((1, 2))).tolist():
            self._bind(shard, self._told(shard))
        return store_digest(self.identity, self._digests)

    def _found(self, shard: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """A shard's digest, which says what its files are, and their stamps."""
        before, cache, again = None, self._shards.files.cache, False
        for _ in range(_TRIES):
            digest = self._told(shard)
            try:
                ends = {name: self._shards.ends(name, shard) for name in self._places}
            except LostFileError as error:
                if cache is None:
                    raise self._lacking(shard, error) from error
                # A copy that another process just replaces.
                continue
            files = [(name, end.length, end.data) for name, end in ends.items() if name != "digest"]
            if ends_digest(self.identity, shard, files) == digest[1].tobytes():
                if again and self._digests[shard].any():
                    # Its keys may have been read from them.
                    raise self._replaced(f"the copies of shard {shard} in {cache} were of several stores")
                return digest, np.array([end.stamp for end in ends.values()], np.int64)
            if cache is not None and not again:
                again = True
                self._require_same_store()
                self.refresh([shard], anew=True)
                if self._digests[shard].any():
                    self._bind(shard, self._told(shard))
                continue
            if ends == before:
                self._require_same_store()
                raise self._shards.foreign(shard)
            before = ends
        raise self._replaced(f"shard {shard} changes all the time")

    def _told(self, shard: int) -> NDArray[np.uint8]:
        """(2, 32): what a shard's `digest` says."""
        self.refresh([shard])
        try:
            digest: NDArray[np.uint8] = self._shards.column("digest", shard)[0]
        except LostFileError as error:
            raise self._lacking(shard, error) from error
        return digest

    def _bind(self, shard: int, digest: NDArray[np.uint8]) -> None:
        """Remember a shard's digest, if it is of the store that was opened, and the one that it had."""
        if stamp_of(self._shards.files.local("zarr.json")) != self._root:
            self._require_same_store()
        if self._digests[shard].any() and (digest != self._digests[shard]).any():
            raise self._replaced(f"shard {shard} was labelled again")
        self._digests[shard] = digest

    def _require_same_store(self) -> None:
        """Refuse a store that took the place of the one that was opened.

        One that says the same, as a copy on another machine does, and what a backup restores, must have every shard
        that was read before.
        """
        try:
            files = store_files(self._shards.files.where)
            root = stamp_of(files.local("zarr.json"))
            same = root == self._root or load_manifest(files).identity() == self.identity
        except StoreError as error:
            if isinstance(error, ScarceError) or isinstance(error.__cause__, ConnectionError):
                raise
            raise self._replaced(f"the store is gone, or no store any more ({error})") from error
        if not same:
            raise self._replaced("the store was replaced by another")
        known = np.flatnonzero(self._digests.any((1, 2))) if root != self._root else ()
        for shard in map(int, known):
            try:
                is_same = (self._shards.column("digest", shard)[0] == self._digests[shard]).all()
            except DamagedStoreError:
                is_same = False
            if not is_same:
                raise self._replaced(f"the store was made anew, or shard {shard} labelled again")
        self._root = root

    def _lacking(self, shard: int, error: LostFileError) -> StoreError:
        """The error for a file that is not there, to be raised: it was lost before, or is gone since it was opened."""
        self._require_same_store()
        # What was listed then, and leads nowhere, was lost, too.
        if shard in self._lost or any(self._shards.path(name, shard).is_symlink() for name in self._places):
            return error
        return self._replaced(f"a file of shard {shard} is gone, as while it is labelled again ({error})")

    def _replaced(self, what: str) -> ReplacedStoreError:
        return ReplacedStoreError(f"{self._shards.files.where}: {what}, since it was opened. {_AGAIN}")
