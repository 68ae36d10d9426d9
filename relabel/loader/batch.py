"""Batches: images, and their crops' labels as far as a worker can make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor
from torch.utils.data import default_collate

from relabel.errors import InvalidValueError
from relabel.geometry.views import Views
from relabel.labels import SparseLabels
from relabel.loader.crops import CropLabel
from relabel.score_map import How, ScoreMap, Size


@dataclass(frozen=True, slots=True, eq=False)
class CropLabels:
    """The labels of a batch of crops, before they are pooled: about 5 kB a crop, where a dense label of 1,000 is 4 kB.

    Attributes:
        maps: B score maps, on any device.
        views: what the crops show of their images; `Views.of_boxes` makes them of boxes.
        ground_truth: (B,) int64, the images' classes, -1 where unknown; on the device of the maps.
    """

    maps: ScoreMap
    views: Views
    ground_truth: Tensor

    def __len__(self) -> int:
        return len(self.maps)

    @overload
    def pool(self, size: Size | None = ..., *, sparse: Literal[False] = ..., **how: Unpack[How]) -> Tensor: ...

    @overload
    def pool(self, size: Size | None = ..., *, sparse: Literal[True], **how: Unpack[How]) -> SparseLabels: ...

    def pool(self, size: Size | None = None, *, sparse: bool = False, **how: Unpack[How]) -> Tensor | SparseLabels:
        """The soft labels (B, C), or (B, C, h, w) of tokens with `size` (h, w) or n for (n, n); see `ScoreMap.pool`.

        With `sparse`, the same as `SparseLabels`, without the dense target.
        """
        if sparse:
            return self.maps.pool(self.views, size, sparse=True, **how)
        return self.maps.pool(self.views, size, **how)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CropLabels:
        """The same with maps and ground truth on another device."""
        truth = self.ground_truth.to(device, non_blocking=non_blocking)
        return replace(self, maps=self.maps.to(device, non_blocking=non_blocking), ground_truth=truth)

    def pin_memory(self) -> CropLabels:
        """The same in page-locked memory; a ``DataLoader`` with ``pin_memory=True`` calls this."""
        return replace(self, maps=self.maps.pin_memory(), ground_truth=self.ground_truth.pin_memory())


def collate(items: Sequence[tuple[Any, CropLabel]]) -> tuple[Any, CropLabels]:
    """A ``DataLoader``'s ``collate_fn`` for `LabeledCrops`: stack the images, and read the crops' maps in the worker.

    Returns:
        images as torch's default collate stacks them (B, ...), and `CropLabels`.

    Raises:
        InvalidValueError: items of several stores, or images that cannot be stacked.
        LabelError: an image without a label.
    """
    images = [image for image, _ in items]
    crops = [crop for _, crop in items]
    other = next((crop for crop in crops if not isinstance(crop, CropLabel)), None)
    if other is not None:
        raise InvalidValueError(
            f"relabel.collate takes items with a CropLabel; got one with a {type(other).__name__}. Tickets are stacked "
            "by any collate, leave this one out; or make the items with LabeledCrops, or LabeledSample(tickets=False)"
        )
    if not crops or _stores(crops) != 1:
        stores = sorted({crop.maps.where for crop in crops})
        raise InvalidValueError(
            f"a batch needs items of one LabelMaps; got {len(items)} items of {', '.join(stores) or 'none'}"
            + (". Open the store once, and give it to every dataset" if len(stores) == 1 else "")
        )
    try:
        stacked = default_collate(images)
    except (TypeError, RuntimeError) as error:
        raise InvalidValueError(
            f"the images of a batch cannot be stacked: {str(error).partition(chr(10))[0]}. "
            "Let the transform end in tensors of one size, (3, height, width)"
        ) from error
    labels = CropLabels(
        maps=_maps_of(crops),
        views=Views.of([crop.view for crop in crops]),
        ground_truth=torch.tensor([crop.ground_truth for crop in crops]),
    )
    return stacked, labels


def _stores(crops: Sequence[CropLabel]) -> int:
    """How many there are; the two frames of one are one."""
    if all(crop.maps is crops[0].maps for crop in crops):
        return 1
    return len({id(crop.maps.in_frame(crop.maps.manifest.frame)) for crop in crops})


def _maps_of(crops: Sequence[CropLabel]) -> ScoreMap:
    """The maps of crops of one store, each in the frame of its crop: a stream tells that image by image."""
    upright = torch.tensor([crop.maps.frame == "upright" for crop in crops])
    return crops[0].maps.read(torch.tensor([crop.row for crop in crops]), upright)
