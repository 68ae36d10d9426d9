"""The maps of a store by row, in the frame in which a trainer loads images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Grid
from relabel.geometry.frames import is_transposing, undoing
from relabel.images import image_hash
from relabel.loader.facts import RowFacts
from relabel.manifest import Frame, Manifest
from relabel.reading import Reading
from relabel.score_map import ScoreMap
from relabel.score_map.turning import refuse_turned_grid
from relabel.store import StoreReader
from relabel.store.readings import stored_reading

Rows = Tensor | NDArray[np.int64] | Sequence[int]


class FramedMaps:
    """See `LabelMaps`, which also finds rows."""

    def __init__(
        self,
        path: str | Path,
        *,
        partial: bool = False,
        digest: str | None = None,
        reading: Reading | Literal["stored"] | None = "stored",
    ) -> None:
        self._reader = StoreReader(path, partial=partial, digest=digest)
        self._reading = stored_reading(self._reader) if reading == "stored" else reading
        if self._reading is not None and not isinstance(self._reading, Reading):
            raise InvalidValueError(
                f"reading must be a relabel.Reading, None for labels as they are, or 'stored'; got {reading!r}"
            )
        self._facts = RowFacts(self._reader)
        self._frame = self.manifest.frame
        self._other: Self | None = None

    def __len__(self) -> int:
        """How many images have a label."""
        return int(self._facts.is_labeled.sum())

    @property
    def where(self) -> str:
        """The store's folder or URL."""
        return self._reader.files.where

    @property
    def manifest(self) -> Manifest:
        """What made the store."""
        return self._reader.manifest

    @property
    def num_classes(self) -> int:
        """C, the classes of a label."""
        return self.manifest.scores.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """C names, as the teacher calls its classes; None where they are not known."""
        return self.manifest.class_names

    @property
    def grid(self) -> Grid:
        """The size of a map in cells."""
        return Grid(*self.manifest.scores.grid_hw)

    @property
    def reading(self) -> Reading | None:
        """How labels are read; None is as they are."""
        return self._reading

    @property
    def frame(self) -> Frame:
        """What boxes are fractions of: the image "decoded", without EXIF rotation, or turned "upright" by it."""
        return self._frame

    def in_frame(self, frame: Frame) -> Self:
        """The same labels for a trainer that loads images in a frame: one object a frame, sharing what they know.

        Maps of photographs that EXIF turns are turned with them, so that boxes, flips and tokens are as the trainer has
        them. All other rows are the same in either frame.

        Raises:
            InvalidValueError: no such frame.
        """
        if frame not in ("decoded", "upright"):
            raise InvalidValueError(f"frame must be 'decoded' or 'upright'; got {frame!r}")
        if frame == self._frame:
            return self
        if self._other is None:
            self._other = copy.copy(self)
            self._other._frame, self._other._other = frame, self
        return self._other

    def prepare(self) -> None:
        """Read keys, sizes and orientations now, so that forked workers share them and spawned ones receive them."""
        self._facts.prepare()

    def has_label(self, rows: Rows) -> Tensor:
        """(B,) bool: whether rows (B,) have a map; a failed image's row has none, nor has -1, `find`'s unknown key."""
        numbers, is_labeled = self._numbers(rows), self._facts.is_labeled
        inside = (numbers >= 0) & (numbers < len(is_labeled))
        return torch.from_numpy(inside & is_labeled[np.where(inside, numbers, 0)])

    def __getitem__(self, rows: Rows | slice) -> ScoreMap:
        """The score maps of rows (B,), in their order, as the codes that the store keeps, on the CPU.

        Raises:
            LabelError: a row without a label; says why. Or what is no row: a key, a mask. In another frame than the
                store's, an image whose orientation is not known, or whose map cannot be turned.
            DamagedStoreError: a file was changed or cut, or does not belong there.
            ReplacedStoreError: the store was replaced, a shard labelled again, or either is gone, since it was opened.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._reader.num_shards * self._reader.rows_per_shard))
        numbers = self._numbers(rows)
        maps = self._reader.read(numbers).maps(self.manifest.scores, self._reading)
        turns = self.turns(numbers)
        return maps if turns is None else maps.turned(turns)

    def read(self, rows: Tensor, upright: Tensor) -> ScoreMap:
        """The maps of rows (B,), each in a frame of its own: of the upright image, or of the one that is decoded.

        Raises:
            LabelError: as ``[rows]``.
        """
        own: Frame = self.manifest.frame
        stored, other = self.in_frame(own), self.in_frame("decoded" if own == "upright" else "upright")
        is_other = upright != (own == "upright")
        turns = other.turns(rows[is_other]) if bool(is_other.any()) else None
        if turns is None:
            return stored[rows]
        return stored[rows].turned(torch.ones_like(rows).masked_scatter(is_other, turns))

    def sizes_hw(self, rows: Rows) -> NDArray[np.uint32]:
        """(B, 2): heights and widths of images in this frame, in pixels, 0 where the store does not know them.

        Raises:
            LabelError: as `orientations`.
        """
        numbers = self._numbers(rows)
        sizes_hw, orientations = self._facts.sizes_hw[numbers], self.orientations(numbers)
        if self._frame == "decoded":
            return sizes_hw
        return np.where(is_transposing(orientations)[:, None], sizes_hw[:, ::-1], sizes_hw)

    def orientations(self, rows: Rows) -> NDArray[np.uint8]:
        """(B,): images' EXIF orientations, 1 to 8, 0 where the store does not know them.

        Raises:
            LabelError: what is no row, as -1 of `find`.
        """
        numbers = self._numbers(rows)
        if len(numbers) and numbers.min() < 0:
            raise LabelError(f"{numbers.min()} is no row; take rows from LabelMaps.rows, which names unknown keys")
        return self._facts.orientations[numbers]

    def are_files(self, rows: Rows, files: Sequence[bytes | None]) -> NDArray[np.bool_]:
        """(B,): whether files may be those that labelled rows (B,) were made of: None, or of a row of which the store
        does not know the file, may."""
        hashes = self._facts.image_hashes(self._numbers(rows))
        pairs = zip(files, hashes.tolist(), strict=True)
        return np.array([file is None or not of_row or image_hash(file) == of_row for file, of_row in pairs], np.bool_)

    def turns(self, rows: Rows) -> Tensor | None:
        """(B,) the orientations by which maps are turned for this frame; None where none is.

        Raises:
            LabelError: one is not known, or a map cannot be turned by it.
        """
        if self._frame == self.manifest.frame:
            return None
        wanted = self.orientations(rows)
        moved = np.unique(wanted[wanted != 1]).tolist()
        if not moved:
            return None
        if not moved[0]:
            raise LabelError(
                f"{self.where} does not know how {int((wanted == 0).sum())} of {len(wanted)} images were held (it was "
                f"written without them), so their maps cannot be had in the frame {self._frame!r}. Load images in its "
                f"own, {self.manifest.frame!r}, or write it again with images="
            )
        refuse_turned_grid(self.grid, moved)
        return torch.from_numpy(wanted.astype(np.int64) if self._frame == "upright" else undoing(wanted))

    def _numbers(self, rows: Rows) -> NDArray[np.int64]:
        # Never converted: a mask, a fraction, and a key of digits would all become the number of some row.
        numbers = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise LabelError(
                f"rows are whole numbers (B,), what LabelMaps.rows(keys) answers; got {numbers.dtype} of shape "
                f"{numbers.shape}. For keys maps[maps.rows(keys)], for a mask maps[mask.nonzero()[:, 0]]"
            )
        return numbers.astype(np.int64, copy=False)
