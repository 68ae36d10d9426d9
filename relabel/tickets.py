"""Tickets: which label an item has, as eleven whole numbers that any collate stacks and any loader carries.

Version 1, int64, in this order; a batch is (B, 11):

====== ==========================================================================================================
column content
====== ==========================================================================================================
0      header: 0x72656C62 in the upper 32 bits, the version in the next 16, then bits: 1 the box is of the upright
       image, 2 mirrored left to right, 4 mirrored top to bottom, 8 an affine map, 16 a step was ignored
1      the store, `LabelMaps.ticket_id`: 60 bits of its manifest's identity
2      the row
3 to 8 the bits of six float64: x0, y0, x1, y1, 0, 0 of a box, or a, b, c, d, e, f of a map; see `geometry.views`
9      the ground truth, -1 where unknown
10     a check of all the others
====== ==========================================================================================================

A blended, rounded, truncated or summed ticket is none, and says so. As class ids they are out of every range, so that
no loss or mixer of classes takes them; what takes them for the soft labels of 11 classes answers a loss of 10 to the
power of 18.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import LabelError
from relabel.geometry.moves import bounding_boxes, matrix_of, moved_views
from relabel.geometry.views import View, Views

COLUMNS = 11
VERSION = 1
STORE_BITS = 60
"""Of the manifest's identity: its first 15 hexadecimal digits, by which a user finds it in a zarr.json."""
_MARK = 0x72656C62
_HEADER = _MARK << 32 | VERSION << 16
_UPRIGHT, _FLIP, _FLIP_VERTICAL, _AFFINE, _IGNORED = 1, 2, 4, 8, 16
_FLAGS = 31
_PACKED = struct.Struct("<3q6dq")
_WORDS = struct.Struct("<10Q")
_MASK = 2**64 - 1
_START, _FACTOR, _SHIFT = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 32


def ticket(store: int, row: int, view: View, ground_truth: int = -1, upright: bool = False) -> NDArray[np.int64]:
    """The ticket of an item, (11,) int64.

    Args:
        store: `LabelMaps.ticket_id`.
        row: of the store.
        view: what the item shows.
        ground_truth: its class; any below 0, as -100 of a loss to ignore, is -1, unknown.
        upright: whether `view` is of the upright image, rather than of the one that is decoded.
    """
    # Never -100: transformers' Trainer counts the items of a batch as what is not.
    ground_truth = max(ground_truth, -1)
    flags = upright | view.flip << 1 | view.flip_vertical << 2 | (not view.is_exact) << 4
    if view.matrix is None:
        packed = _PACKED.pack(_HEADER | flags, store, row, *view.box.xyxy, 0.0, 0.0, ground_truth)
    else:
        packed = _PACKED.pack(_HEADER | flags | _AFFINE, store, row, *view.matrix[0], *view.matrix[1], ground_truth)
    check = _START
    for word in _WORDS.unpack(packed):
        check = (check ^ word) * _FACTOR & _MASK
        check ^= check >> _SHIFT
    return np.frombuffer(packed + check.to_bytes(8, "little"), np.int64).copy()


@dataclass(frozen=True, slots=True, eq=False)
class Tickets:
    """A batch of tickets, read.

    Attributes:
        store: the `LabelMaps.ticket_id` that all are of.
        rows: (B,) int64.
        views: of B items.
        upright: (B,) bool, whether a view is of the upright image.
        ground_truth: (B,) int64, -1 where unknown.
    """

    store: int
    rows: Tensor
    views: Views
    upright: Tensor
    ground_truth: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, tickets: Tensor | NDArray[np.int64]) -> Tickets:
        """Read a batch (B, 11), of any device.

        Raises:
            LabelError: they are no tickets, were changed, or are of several stores.
        """
        numbers = _checked(tickets)
        flags = numbers[:, 0] & _FLAGS
        store = int(numbers[0, 1])
        if (numbers[:, 1] != store).any():
            stores = ", ".join(map(store_name, np.unique(numbers[:, 1]).tolist()))
            raise LabelError(
                f"a batch's tickets are pooled by the LabelMaps of one store; got those of the identities {stores}: "
                "pool each store's by itself"
            )
        values = np.ascontiguousarray(numbers[:, 3:9]).view(np.float64)
        views = _views(values, flags)
        rows, ground_truth = (torch.from_numpy(numbers[:, column].copy()) for column in (2, 9))
        return cls(store, rows, views, torch.from_numpy(flags & _UPRIGHT != 0), ground_truth)

    def pack(self) -> Tensor:
        """The tickets (B, 11) int64, on the CPU."""
        views = self.views
        numbers = np.zeros((len(self), COLUMNS), np.int64)
        flags = self.upright * _UPRIGHT + views.flips * _FLIP + views.flips_vertical * _FLIP_VERTICAL
        flags = flags + ~views.is_exact * _IGNORED
        values = np.zeros((len(self), 6))
        values[:, :4] = views.boxes.numpy()
        if views.matrices is not None:
            matrices = views.matrices.reshape(-1, 6).numpy()
            is_affine = ~np.isnan(matrices[:, 0])
            values[is_affine] = matrices[is_affine]
            flags = flags + torch.from_numpy(is_affine) * _AFFINE
        numbers[:, 0] = _HEADER | flags.numpy()
        numbers[:, 1] = self.store
        numbers[:, 2] = self.rows.numpy()
        numbers[:, 3:9] = values.view(np.int64)
        numbers[:, 9] = self.ground_truth.clamp(min=-1).numpy()
        numbers[:, 10] = _check(numbers)
        return torch.from_numpy(numbers)


def ground_truth(tickets: Tensor | NDArray[np.int64]) -> Tensor:
    """The classes (B,) int64 that a batch of tickets (B, 11) holds, -1 where unknown, on their device.

    Raises:
        LabelError: they are no tickets, or were changed.
    """
    return torch.from_numpy(_checked(tickets)[:, 9].copy()).to(device_of(tickets))


def device_of(tickets: Tensor | NDArray[np.int64]) -> torch.device:
    """Where tickets are: a stream's collate may have left them to numpy."""
    return tickets.device if isinstance(tickets, Tensor) else torch.device("cpu")


def moved(
    tickets: Tensor | NDArray[np.int64], matrix: Any, size_hw: tuple[int, int], output_hw: tuple[int, int]
) -> Tensor:
    """The tickets (B, 11) of a batch of images whose pixels a step on the device has moved since, on their device.

    Args:
        tickets: (B, 11).
        matrix: (B, 3, 3) floating, from pixels (x, y, 1) of the images that came in to pixels of those that go out, the
            centre of the first pixel at (0, 0). Or the augmentation of kornia that has moved them, whose
            ``transform_matrix`` is taken, and which is refused where a member's moves are not in it.
        size_hw: of the images that came in, in pixels.
        output_hw: of those that go out.

    A perspective counts as what it is around the centre, for image labels: token labels of such tickets are refused.

    Raises:
        LabelError: they are no tickets.
        InvalidValueError: another shape or number of maps; one that has no inverse; an augmentation some of whose
            moves are in no map.
    """
    read = Tickets.read(tickets)
    views = moved_views(read.views, matrix_of(matrix), size_hw, output_hw)
    return replace(read, views=views).pack().to(device_of(tickets))


def softening(labels: Tensor) -> str:
    """How what was given in place of soft labels becomes such, for a message."""
    if labels.dtype == torch.int64 and labels.shape[1:] == (COLUMNS,):
        return "Of tickets: maps.pool(tickets)"
    return "From class ids: F.one_hot(ids, C).float()"


def store_name(store: int) -> str:
    """What a store is called that is not at hand: the digits that its manifest's identity begins with."""
    return f"{store:0{STORE_BITS // 4}x}"


def _checked(tickets: Tensor | NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers (B, 11) of what are tickets."""
    numbers = _numbers(tickets)
    if numbers.ndim != 2 or numbers.shape[1] != COLUMNS or numbers.dtype != np.int64 or not len(numbers):
        raise LabelError(
            f"tickets are a batch of int64 (B, {COLUMNS}), as Labeled's items hold them; got {numbers.dtype} of shape "
            f"{numbers.shape}: {_strangeness(numbers)}"
        )
    is_header = numbers[:, 0] & ~_FLAGS == _HEADER
    if not is_header.all():
        raise LabelError(_misheaded(numbers, int((~is_header).argmax())))
    is_changed = _check(numbers) != numbers[:, 10]
    if is_changed.any():
        raise LabelError(
            f"ticket {int(is_changed.argmax())} of {len(numbers)} was changed on its way (rounded, sorted, made of "
            "others' columns): its check is not that of its other numbers. Give tickets as Labeled's items hold them"
        )
    return numbers


def _numbers(tickets: Any) -> NDArray[Any]:
    """What was given as an array, whatever it is."""
    if isinstance(tickets, Tensor):
        return tickets.detach().cpu().numpy()
    if isinstance(tickets, Mapping | str):
        raise LabelError(f"got a {type(tickets).__name__}, a batch of rows: give its column, batch['label']")
    if tickets is None:
        raise LabelError("got None in place of tickets: the batch has no labels, or something on the way drops them")
    if hasattr(tickets, "pool"):
        raise LabelError(f"got {type(tickets).__name__}, labels whose maps were read before: call labels.pool()")
    try:
        return np.asarray(tickets)
    except (ValueError, TypeError, RuntimeError) as error:
        raise LabelError(
            f"got a {type(tickets).__name__} of things of several shapes, as images and their tickets: give the "
            "tickets alone"
        ) from error


def _strangeness(numbers: NDArray[Any]) -> str:
    """What such a dtype and shape come from, and what to do."""
    if numbers.size == 0:
        return "no ticket. Leave out empty batches"
    if numbers.dtype.kind == "f" and numbers.shape[-1:] != (COLUMNS,):
        return "these are labels already, or images: give tickets"
    if numbers.dtype.kind == "f":
        return (
            "a mixer blended them, or they were averaged or cast. Pool first, labels = maps.pool(tickets), and mix the "
            "labels"
        )
    if numbers.dtype != np.int64:
        return "they were cast, which cuts them. Leave them as they are, int64"
    if numbers.shape == (COLUMNS,):
        return "one ticket. Give a batch, tickets[None]"
    if numbers.ndim == 1:
        return "class ids. Make the items of relabel.Labeled, or take these to a loss of classes"
    if numbers.ndim > 2 and numbers.shape[-1] == COLUMNS:
        return "several views of each image. Pool each by itself, tickets[:, i]"
    return f"columns were cut or added, or these are labels. Give all {COLUMNS} columns"


def _misheaded(numbers: NDArray[np.int64], index: int) -> str:
    """Why a row does not begin as tickets of this version do."""
    header = int(numbers[index, 0])
    what = f"ticket {index} of {len(numbers)} "
    if header >> 32 == _MARK:
        return (
            f"{what}is of version {header >> 16 & 0xFFFF}, or was changed; this relabel reads version {VERSION}. Let "
            "one relabel make and pool tickets"
        )
    return (
        f"{what}is none, it begins with {header}: tickets were summed, averaged, or cast to a shorter type and back, "
        "or these are labels of another kind. Give tickets as Labeled's items hold them"
    )


def _views(values: NDArray[np.float64], flags: NDArray[np.int64]) -> Views:
    """Views of six numbers each, (B, 6)."""
    is_affine, numbers = flags & _AFFINE != 0, torch.from_numpy(values)
    boxes, matrices = numbers[:, :4], None
    if is_affine.any():
        is_affine, maps = torch.from_numpy(is_affine), numbers.reshape(-1, 2, 3)
        matrices = torch.where(is_affine[:, None, None], maps, torch.nan)
        boxes = torch.where(is_affine[:, None], bounding_boxes(maps), boxes)
    return Views(
        boxes=boxes.float(),
        flips=torch.from_numpy(flags & _FLIP != 0),
        flips_vertical=torch.from_numpy(flags & _FLIP_VERTICAL != 0),
        matrices=matrices,
        is_exact=torch.from_numpy(flags & _IGNORED == 0),
    )


def _check(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) what column 10 must hold; not linear, so that a mean of tickets does not have the mean of their checks."""
    check = np.full(len(numbers), _START, np.uint64)
    for word in np.ascontiguousarray(numbers[:, :10].T).view(np.uint64):
        check = (check ^ word) * np.uint64(_FACTOR)
        check ^= check >> np.uint64(_SHIFT)
    return check.view(np.int64)
