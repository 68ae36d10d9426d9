"""What a store knows of its rows beside their maps: whose they are and what they show; read when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import LabelError
from relabel.images import image_hash
from relabel.store import LABELED, StoreReader
from relabel.store.keys import ImageIndex, KeyIndex

_SHOWN = 8


class RowFacts:
    """Columns of all rows, number ``shard * rows_per_shard + row``. Forked workers share what was asked for before.

    Raises:
        DamagedStoreError, ReplacedStoreError: whatever is asked for, as `StoreReader.table`.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    def prepare(self) -> None:
        """Read all that finding rows by keys takes, before workers are started."""
        _ = self.keys, self.is_labeled, self.sizes_hw, self.orientations

    @cached_property
    def keys(self) -> KeyIndex:
        """Rows by key."""
        reader = self._reader
        return KeyIndex((shard * reader.rows_per_shard, reader.keys(shard)) for shard in sorted(reader.published))

    @cached_property
    def images(self) -> ImageIndex:
        """Rows by hash of the encoded image."""
        return ImageIndex(self._column("image_hash"), self.is_labeled)

    @cached_property
    def is_labeled(self) -> NDArray[np.bool_]:
        """(n,) whether a row has a map."""
        is_labeled: NDArray[np.bool_] = self._column("status") == LABELED
        return is_labeled

    @cached_property
    def sizes_hw(self) -> NDArray[np.uint32]:
        """(n, 2) heights and widths of images as decoded, 0 where not known."""
        return self._column("size_hw")

    @cached_property
    def orientations(self) -> NDArray[np.uint8]:
        """(n,) EXIF orientations, 0 where not known."""
        return self._column("orientation")

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """See `LabelMaps.find`."""
        if isinstance(keys, str):
            raise LabelError(f"keys are a sequence of strings, one an image; got the one string {keys!r}")
        keys = list(keys)
        other = next((key for key in keys if not isinstance(key, str)), None)
        if other is not None:
            raise LabelError(f"keys are strings, as {self._example()!r}; got {other!r}, a {type(other).__name__}")
        return self.keys.rows(keys)

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """See `LabelMaps.rows`."""
        rows = self.find(keys)
        if (rows < 0).any():
            unknown = [repr(key) for key, row in zip(keys, rows.tolist(), strict=True) if row < 0]
            raise LabelError(
                f"{self._where} has no image of {len(unknown)} of {len(keys)} keys: {_listed(unknown)}. Its keys look "
                f"like {self._example()!r}: the path below the folder that was labelled, with extension, or a tar's "
                "__key__; give Labeled(..., key=) to make the one of the other"
            )
        return rows

    def find_images(self, images: Sequence[bytes]) -> NDArray[np.int64]:
        """See `LabelMaps.find_images`."""
        if isinstance(images, bytes) or not all(isinstance(image, bytes) for image in images):
            raise LabelError("images are a sequence of bytes, one an image, as their files hold them")
        return self.images.rows(np.array([image_hash(image) for image in images], np.uint64))

    def image_hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(B,) `image_hash` of the files that rows (B,) were made of, 0 where not known: of the shards asked for."""
        shards, places = np.divmod(rows, self._reader.rows_per_shard)
        found = np.zeros(len(rows), np.uint64)
        for shard in np.unique(shards).tolist():
            own = shards == shard
            found[own] = self._reader.columns(shard, "image_hash")["image_hash"][places[own]]
        return found

    def rows_of(self, images: Sequence[bytes]) -> NDArray[np.int64]:
        """See `LabelMaps.rows_of`."""
        rows = self.find_images(images)
        if (rows < 0).any():
            unknown = list(map(str, np.flatnonzero(rows < 0).tolist()))
            raise LabelError(
                f"{self._where} has no image of the bytes of {len(unknown)} of {len(images)} images, numbers "
                f"{_listed(unknown)}. It knows {len(self.images)} different images, by the bytes of their files: give "
                "those unchanged (never of an image encoded anew), or use keys"
            )
        return rows

    @property
    def _where(self) -> str:
        return self._reader.files.where

    def _example(self) -> str:
        return next((key for shard in sorted(self._reader.published) for key in self._reader.keys(shard) if key), "")

    def _column(self, name: str) -> NDArray[Any]:
        """Zeros where a shard is not published."""
        reader, spec = self._reader, self._reader.arrays[name]
        found = np.zeros((reader.num_shards, reader.rows_per_shard, *spec.tail), spec.dtype)
        for shard in reader.published:
            found[shard] = reader.columns(shard, name)[name]
        return found.reshape(-1, *spec.tail)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
