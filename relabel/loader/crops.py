"""Datasets and streams whose items say what was cropped, so that a batch can be given its soft labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.data import Dataset

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.loader.maps import LabelMaps
from relabel.tracking import tracked

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class CropLabel:
    """Which label a crop has: ``row, box, flip = crop_label``.

    Attributes:
        row: of the store.
        box: the crop box, in fractions of the whole image.
        flip: whether the crop was mirrored left to right.
        label: the image's ground truth class, -1 where unknown.
        maps: the store that `row` counts in.
    """

    row: int
    box: Box
    flip: bool
    label: int
    maps: LabelMaps = field(repr=False)

    def __iter__(self) -> Iterator[int | Box | bool]:
        return iter((self.row, self.box, self.flip))


class ImageDataset(Protocol):
    """What `LabeledCrops` asks of a dataset; torchvision's ``ImageFolder`` and ``ImageNet`` have it.

    `samples` lists (path, class), `root` is the folder that keys are relative to, `loader` opens a path.
    """

    root: str | Path
    samples: Sequence[tuple[str, int]]
    loader: Callable[[str], Any]


class LabeledCrops(Dataset[tuple[Any, CropLabel]]):
    """A dataset of crops that know their label: item i is ``(transform(image), CropLabel)``, for `collate`.

    The transform runs unchanged; its crop box and flip are read off, see `relabel.tracking.TrackedTransform`. The
    dataset must have none of its own. An item's number is that of the dataset's sample, unless images without a
    label are dropped: then `indices` lists the samples that remain.

    Args:
        dataset: images on the disk, as torchvision's ``ImageFolder`` keeps them.
        maps: the store.
        transform: from a loaded image to what the trainer takes; None keeps the image. A `TrackedTransform` may say
            which steps are not to be followed.
        key: from a sample's path to its key; None is the path below the dataset's root, with forward slashes.
        unlabeled: what to do with samples that the store has no label for: "raise", or "drop" them.

    Raises:
        LabelError: samples without a label, with `unlabeled` "raise"; some are listed.
        InvalidValueError: the dataset or the transform is of a kind that is not understood.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        key: Callable[[str], str] | None = None,
        unlabeled: Literal["raise", "drop"] = "raise",
    ) -> None:
        missing = [name for name in ("root", "samples", "loader") if not hasattr(dataset, name)]
        if missing:
            raise InvalidValueError(
                f"{type(dataset).__name__} has no {', '.join(missing)}; expected a dataset like torchvision's "
                "ImageFolder. For another, give each item a CropLabel of your own, or use LabeledSample"
            )
        inner = [name for name in ("transform", "target_transform", "transforms") if getattr(dataset, name, None)]
        if inner:
            raise InvalidValueError(
                f"the dataset has its own {', '.join(inner)}, which would not be followed; make it without, and "
                "give the whole transform to LabeledCrops"
            )
        if unlabeled not in ("raise", "drop"):
            raise InvalidValueError(f"unlabeled must be 'raise' or 'drop'; got {unlabeled!r}")
        self.maps = maps
        self._load = dataset.loader
        self._transform = tracked(transform)
        keys = [(key or _KeyBelow(dataset.root))(path) for path, _ in dataset.samples]
        rows = maps.rows(keys) if unlabeled == "raise" else maps.find(keys)
        labelled = (rows >= 0) & maps.has_label(rows.clamp(min=0))
        if unlabeled == "raise" and not bool(labelled.all()):
            raise _failed(maps, [keys[i] for i in (~labelled).nonzero()[:, 0].tolist()], len(keys))
        self.indices = labelled.nonzero()[:, 0]
        every = bool(labelled.all())
        self._samples = dataset.samples if every else [dataset.samples[i] for i in self.indices.tolist()]
        self._rows = rows[self.indices]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, CropLabel]:
        path, label = self._samples[index]
        output, view = self._transform(self._load(path))
        return output, CropLabel(int(self._rows[index]), view.box, view.flip, label, self.maps)


class LabeledSample:
    """The same for streams: from a sample's mapping (webdataset's, images decoded) to ``(image, CropLabel)``.

    ``WebDataset(urls).decode("pil").map(LabeledSample(maps, transform))``. Picklable if the transform is.

    Args:
        maps: the store.
        transform: as for `LabeledCrops`.
        image_suffixes: the names under which a sample may hold its image.
    """

    def __init__(
        self,
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        image_suffixes: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
    ) -> None:
        self.maps = maps
        self._suffixes = tuple(image_suffixes)
        self._transform = tracked(transform)
        # Read here, so that forked workers share the keys and spawned ones receive them.
        maps.find([])

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Any, CropLabel]:
        """The transformed image of a sample, and which label it has; its ground truth is what ``cls`` says."""
        image = next((sample[name] for name in self._suffixes if name in sample), None)
        if image is None or "__key__" not in sample:
            raise InvalidValueError(
                f"a sample needs __key__ and an image under one of {', '.join(self._suffixes)}; got {sorted(sample)}"
            )
        row = int(self.maps.rows([sample["__key__"]])[0])
        output, view = self._transform(image)
        return output, CropLabel(row, view.box, view.flip, int(sample.get("cls", -1)), self.maps)


@dataclass(frozen=True, slots=True)
class _KeyBelow:
    root: str | Path

    def __call__(self, path: str) -> str:
        return os.path.relpath(path, self.root).replace(os.sep, "/")


def _failed(maps: LabelMaps, keys: list[str], count: int) -> LabelError:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return LabelError(
        f"{len(keys)} of {count} images failed when {maps.where} was made and have no label: "
        f"{', '.join(map(repr, keys[:_SHOWN]))}{more}. Drop them with unlabeled='drop'; or mend them, "
        "delete the status files of their shards (status/c.SHARD.0) and generate again"
    )
