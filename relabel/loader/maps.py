"""`LabelMaps`: a store as a trainer sees it, from keys to rows, and from tickets to labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry.cells import checked_boxes
from relabel.geometry.views import Views
from relabel.labels import SparseLabels
from relabel.loader.framed import FramedMaps, Rows
from relabel.reading import Reading
from relabel.score_map import How, ScoreMap, Size
from relabel.tickets import STORE_BITS, Tickets, device_of, store_name

_Device = torch.device | str | None
_Given = Tensor | NDArray[np.int64]


class LabelMaps(FramedMaps):
    """The score maps of a store, by row. Picklable, and safe in forked and spawned workers.

    Nothing but the manifest is read when a store is opened: keys when the first one is asked for, maps row by row.

    Args:
        path: the store's folder, or a URL that fsspec opens.
        partial: whether to open a store whose shards are not all published; the others' images have no label.
        digest: the store's, as ``relabel inspect STORE --digest`` prints it: any other store is refused.
        reading: how pooled scores become labels: "stored" is as the store's reading.json says, where there is one;
            None is as they are.

    Raises:
        StoreError: not a store, or not finished, or another than that of `digest`.
        DamagedStoreError: a file is missing or was changed, or reading.json is of another store.
    """

    def __repr__(self) -> str:
        scores = self.manifest.scores
        return (
            f"LabelMaps({self.where}, {scores.planes} planes + {scores.profile} profile classes of "
            f"{self.num_classes}, grid {self.grid}, teacher {self.manifest.teacher.name})"
        )

    def keys(self) -> Iterator[str]:
        """Every key of the store, failed images included, in the order of the rows; read shard by shard."""
        for shard in sorted(self._reader.published):
            yield from (key for key in self._reader.keys(shard) if key)

    def rows(self, keys: Sequence[str]) -> Tensor:
        """The rows of keys, int64 (B,): what `__getitem__` takes.

        The first call reads every key of the store, a second for a million. Call it once before workers are started,
        and they share the outcome.

        Raises:
            LabelError: keys that the store does not have; they are listed.
        """
        return torch.from_numpy(self._facts.rows(keys))

    def find(self, keys: Sequence[str]) -> Tensor:
        """As `rows`, with -1 for a key that the store does not have."""
        return torch.from_numpy(self._facts.find(keys))

    def rows_of(self, images: Sequence[bytes]) -> Tensor:
        """The rows (B,) int64 of encoded images, as the files are: for data that has no key, as Hugging Face's.

        The first call reads the hash of every image of the store. Of rows of one and the same file any serves.

        Raises:
            LabelError: images that the store does not have; says which.
        """
        return torch.from_numpy(self._facts.rows_of(images))

    def find_images(self, images: Sequence[bytes]) -> Tensor:
        """As `rows_of`, with -1 for an image that the store does not have."""
        return torch.from_numpy(self._facts.find_images(images))

    @cached_property
    def ticket_id(self) -> int:
        """What the tickets of this store's images hold of it: the first 60 bits of the manifest's identity."""
        return int.from_bytes(self._reader.identity[:8]) >> 64 - STORE_BITS

    def tickets(
        self, rows: Rows, boxes_xyxy: Tensor, flip: Tensor | None = None, ground_truth: Tensor | None = None
    ) -> Tensor:
        """The tickets (B, 11) int64 of crops, for a loader that says itself what it has cropped (DALI, FFCV).

        Args:
            rows: (B,).
            boxes_xyxy: (B, 4) floating, fractions of the whole image in this frame.
            flip: (B,) bool, which were mirrored left to right afterwards.
            ground_truth: (B,) integers, -1 where unknown.

        Raises:
            LabelError: what is no row.
            InvalidValueError: an empty box, or a wrong shape.
        """
        numbers = torch.from_numpy(self._numbers(rows))
        views = Views.of_boxes(checked_boxes(boxes_xyxy).cpu(), None if flip is None else flip.cpu().bool())
        truth = torch.full_like(numbers, -1) if ground_truth is None else ground_truth.cpu().long()
        upright = torch.full_like(numbers, self._frame == "upright", dtype=torch.bool)
        if len({len(each) for each in (numbers, views.boxes, views.flips, truth)}) != 1:
            raise InvalidValueError(
                f"rows, boxes, flip and ground truth are one an image; got {len(numbers)}, {len(views.boxes)}, "
                f"{len(views.flips)} and {len(truth)}"
            )
        return Tickets(self.ticket_id, numbers, views, upright, truth).pack()

    @overload
    def pool(
        self,
        tickets: _Given,
        size: Size | None = ...,
        *,
        sparse: Literal[False] = ...,
        device: _Device = ...,
        **how: Unpack[How],
    ) -> Tensor: ...

    @overload
    def pool(
        self,
        tickets: _Given,
        size: Size | None = ...,
        *,
        sparse: Literal[True],
        device: _Device = ...,
        **how: Unpack[How],
    ) -> SparseLabels: ...

    def pool(
        self,
        tickets: _Given,
        size: Size | None = None,
        *,
        sparse: bool = False,
        device: _Device = None,
        **how: Unpack[How],
    ) -> Tensor | SparseLabels:
        """The soft labels of a batch of tickets, (B, C), or (B, C, h, w) of tokens: one read of the store.

        Args:
            tickets: (B, 11) int64, on any device. Those on a GPU are waited for: on the CPU they cost it no time.
            size: None for image labels, (h, w) for the labels of h x w tokens, n for (n, n).
            sparse: return `SparseLabels`, without the dense target.
            device: where to pool, and where the labels are; None is where the tickets are.
            how: see `ScoreMap.pool`.

        Raises:
            LabelError: what is no ticket of this store; a ticket of a view that is not exact, with `size`.
        """
        maps, views = self.maps_of(tickets, device)
        if sparse:
            return maps.pool(views, size, sparse=True, **how)
        return maps.pool(views, size, **how)

    def maps_of(self, tickets: _Given, device: _Device = None) -> tuple[ScoreMap, Views]:
        """What `pool` pools, read once for several labels of a batch: ``maps.pool(views)``, ``maps.pool(views, 14)``.

        Args:
            tickets: (B, 11) int64, on any device.
            device: where the maps are to be; None is where the tickets are.

        Raises:
            LabelError: as `pool`.
        """
        read = Tickets.read(tickets)
        if read.store != self.ticket_id:
            raise LabelError(
                f"the tickets are of another store, that of the identity {store_name(read.store)}, and {self.where} is "
                f"{store_name(self.ticket_id)}: pool them with the LabelMaps that the data set was made with"
            )
        maps, device = self.read(read.rows, read.upright), torch.device(device or device_of(tickets))
        if device.type == "cuda":
            maps = maps.pin_memory()
        return maps.to(device, non_blocking=True), read.views


def open(
    path: str | Path,
    *,
    partial: bool = False,
    digest: str | None = None,
    reading: Reading | Literal["stored"] | None = "stored",
) -> LabelMaps:
    """Open a store, to ask for labels; see `LabelMaps`."""
    return LabelMaps(path, partial=partial, digest=digest, reading=reading)
