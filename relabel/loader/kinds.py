"""From a data set to the data sets that it is made of, each of its own kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from relabel.errors import InvalidValueError
from relabel.loader.datasets import FolderImages, Images, TimmImages
from relabel.loader.hf_datasets import HuggingFaceImages
from relabel.loader.others import OtherImages

_KINDS: dict[str, type[Images]] = {
    "torchvision.datasets.folder.DatasetFolder": FolderImages,
    "timm.data.dataset.ImageDataset": TimmImages,
}
"""By the class that gives the items."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The n items of a data set, as those of the data sets that it is made of.

    Attributes:
        every: the images of each of these.
        parts: (n,) in which of them an item is.
        indices: (n,) at which index.
    """

    every: Sequence[Images]
    parts: NDArray[np.int64]
    indices: NDArray[np.int64]

    def __getitem__(self, mask: NDArray[np.bool_]) -> Items:
        """Some of the items, by a mask (n,)."""
        return replace(self, parts=self.parts[mask], indices=self.indices[mask])

    def names(self, places: NDArray[np.int64]) -> list[str]:
        """What the images of some items are called in errors."""
        return [self.every[self.parts[place]].name(int(self.indices[place])) for place in places]


def taken_apart(dataset: Any, columns: tuple[str, str] | None) -> Items:
    """The items of a data set, below any ``Subset`` and ``ConcatDataset``.

    Raises:
        InvalidValueError: one is no map-style data set, or was labeled already.
    """
    every: list[Images] = []
    return Items(every, *_items(dataset, every, columns))


def _items(
    dataset: Any, every: list[Images], columns: tuple[str, str] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    giver = _giver(dataset)
    if giver is Subset:
        parts, indices = _items(dataset.dataset, every, columns)
        chosen = np.asarray(dataset.indices, np.int64)
        return parts[chosen], indices[chosen]
    if giver is ConcatDataset:
        pairs = [_items(each, every, columns) for each in dataset.datasets]
        parts, indices = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        return parts, indices
    known = next((i for i, images in enumerate(every) if images.dataset is dataset), len(every))
    if known == len(every):
        every.append(_images_of(dataset, giver, columns))
    return np.full(len(every[known]), known), np.arange(len(every[known]))


def _giver(dataset: Any) -> type | None:
    """The class that gives a data set's items."""
    return next((kind for kind in type(dataset).__mro__ if "__getitem__" in vars(kind)), None)


def _images_of(dataset: Any, giver: type | None, columns: tuple[str, str] | None) -> Images:
    name = "" if giver is None else f"{giver.__module__}.{giver.__qualname__}"
    if name.startswith("relabel."):
        raise InvalidValueError(f"{type(dataset).__name__} gives labels already: wrap the data set that it was made of")
    if name == "datasets.arrow_dataset.Dataset":
        return HuggingFaceImages(dataset, columns)
    if name in _KINDS:
        return _KINDS[name](dataset)
    if type(dataset).__name__ == "DatasetDict":
        raise InvalidValueError(f'got DatasetDict, of {", ".join(dataset)}: give one of them, as dataset["train"]')
    if not name or isinstance(dataset, (IterableDataset, Mapping)) or not hasattr(dataset, "__len__"):
        raise InvalidValueError(
            f"a map-style data set is needed, with __getitem__ and __len__; got {type(dataset).__name__}. The samples "
            "of a stream are labeled by relabel.LabeledSample, which needs their __key__"
        )
    return OtherImages(dataset, columns or ("image", "label"))
