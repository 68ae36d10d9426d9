"""What a store knows of its rows beside their maps, each read when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.store import LABELED, StoreReader
from relabel.store.keys import ImageIndex, KeyIndex


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

    def _column(self, name: str) -> NDArray[Any]:
        """Zeros where a shard is not published."""
        reader, spec = self._reader, self._reader.arrays[name]
        found = np.zeros((reader.num_shards, reader.rows_per_shard, *spec.tail), spec.dtype)
        for shard in reader.published:
            found[shard] = reader.columns(shard, name)[name]
        return found.reshape(-1, *spec.tail)
