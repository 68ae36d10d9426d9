"""What a process holds of a store's shards: mappings and open files, many but not too many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from relabel.paths import regular_descriptor
from relabel.store.files import ScarceError

_Mapped = TypeVar("_Mapped")
_Made = TypeVar("_Made")
MOST_MAPPED = 4096
"""Shards. Each takes 4 mappings, so all take a quarter of what Linux gives a process (vm.max_map_count, 65,530)."""
_MOST_OPENED = 512
LOOK_SECONDS = 1.0
"""Between two looks at whether a shard's files were written into, which are four `stat` calls."""
_HAVE_PREAD = hasattr(os, "pread")
_seeking = threading.Lock()


class OpenFile:
    """A file to read from; it closes with its last reference, so that a read that still holds it can end."""

    def __init__(self, path: Path) -> None:
        self.descriptor = regular_descriptor(path)

    def read(self, length: int, offset: int) -> bytes:
        """Some bytes, fewer where the file ends; for threads at once."""
        if _HAVE_PREAD:
            return os.pread(self.descriptor, length, offset)
        # Windows: a descriptor has one place. The lock is never copied locked, for nothing forks there.
        with _seeking:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, length)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class OpenShards(Generic[_Mapped]):
    """Shards by number, mapped and with a file open, as many as a process may well hold; the oldest make room.

    Used by threads at once, and no lock: a fork would copy it locked. The worst of a race is a shard opened twice.

    Args:
        mapped: maps a shard.
        opened: opens its file of score maps; both may raise `ScarceError`, and are called again once half is let go of.
        is_kept: whether a shard's files are those that were checked when it was mapped.
    """

    def __init__(
        self, mapped: Callable[[int], _Mapped], opened: Callable[[int], OpenFile], is_kept: Callable[[int], bool]
    ) -> None:
        self._make_mapped, self._make_opened, self._is_kept = mapped, opened, is_kept
        self._looked: dict[int, float] = {}
        self.mapped: dict[int, _Mapped] = {}
        self.opened: dict[int, OpenFile] = {}
        self.most_opened = _most_descriptors()

    def map(self, shard: int) -> _Mapped:
        """What a shard's mapping made."""
        found = self.mapped.get(shard)
        return self._added(self.mapped, shard, MOST_MAPPED, self._make_mapped) if found is None else found

    def file(self, shard: int) -> OpenFile:
        """Its file of score maps."""
        found = self.opened.get(shard)
        return self._added(self.opened, shard, self.most_opened, self._make_opened) if found is None else found

    def sparing(self, make: Callable[[], _Made]) -> _Made:
        """What `make` answers; where it lacks what is held here, half of that is let go of.

        Raises:
            ScarceError: it lacks it still.
        """
        try:
            return make()
        except ScarceError:
            for held in (self.mapped, self.opened):
                _drop(held, len(held) // 2 + 1)
            return make()

    def forget_changed(self, shards: Iterable[int], *, at_once: bool = False) -> bool:
        """Let go of those of some shards whose files are not what they were; answers whether there are any.

        What is written into a file, as `cp` over it does, shows in its mapping and its descriptor. So it is asked after
        the reading: of each shard again once `LOOK_SECONDS` have passed, or `at_once`.
        """
        now, changed = time.monotonic(), []
        last = now if at_once else now - LOOK_SECONDS
        for shard in shards:
            if self._looked.get(shard, last) <= last:
                if self._is_kept(shard):
                    # Only now: until then another thread that has read of it looks for itself.
                    self._looked[shard] = now
                else:
                    changed.append(shard)
        for shard in changed:
            self.mapped.pop(shard, None)
            self.opened.pop(shard, None)
        return bool(changed)

    def _added(self, held: dict[int, _Made], shard: int, most: int, make: Callable[[int], _Made]) -> _Made:
        if len(held) >= most:
            # A few at once, for going through all of them takes time.
            _drop(held, len(held) - most + 1 + most // 16)
        made = held[shard] = self.sparing(lambda: make(shard))
        return made


def _drop(held: dict[int, Any], count: int) -> None:
    for shard in list(held)[:count]:
        held.pop(shard, None)


def _most_descriptors() -> int:
    try:
        import resource
    except ImportError:  # Windows, where 8,192 may be open
        return _MOST_OPENED
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # A quarter leaves room for a trainer's own files, and for a second store.
    return _MOST_OPENED if limit == resource.RLIM_INFINITY else max(1, min(_MOST_OPENED, limit // 4))
