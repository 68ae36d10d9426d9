"""Datasets and streams whose items say what was cropped, so that a batch can be given its soft labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.data import Dataset, Subset

from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.loader.maps import LabelMaps
from relabel.tracking import tracked

_SHOWN = 8
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "pgm", "ppm", "tif", "tiff")


@dataclass(frozen=True, slots=True)
class CropLabel:
    """Which label a crop has: ``row, box, flip = crop_label``.

    Attributes:
        row: of the store.
        box: the crop box, in fractions of the whole image.
        flip: whether the crop was mirrored left to right.
        ground_truth: the image's class, -1 where unknown.
        maps: the store that `row` counts in.
    """

    row: int
    box: Box
    flip: bool
    ground_truth: int
    maps: LabelMaps = field(repr=False)

    def __iter__(self) -> Iterator[int | Box | bool]:
        return iter((self.row, self.box, self.flip))


class ImageDataset(Protocol):
    """What `LabeledCrops` asks of a dataset; torchvision's ``ImageFolder`` and ``ImageNet`` have it.

    `samples` lists (path, class), `root` is the folder that keys are relative to (or `split_folder`, of a dataset that
    has one, as ``ImageNet``), `loader` opens a path.
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
        dataset: images on the disk, as torchvision's ``ImageFolder`` keeps them, or a ``Subset`` of such.
        maps: the store.
        transform: from a loaded image to what the trainer takes; None keeps the image. A `TrackedTransform` may say
            which steps are not to be followed.
        key: from a sample's path to its key; None is the path below the dataset's folder, with forward slashes.
        unlabeled: what to do with samples that the store has no label for: "raise", or "drop" them.

    Raises:
        LabelError: samples without a label, with `unlabeled` "raise"; some are listed.
        InvalidValueError: the dataset or the transform is of a kind that is not understood.
        ImageError: when an item is asked for whose image cannot be read.
    """

    def __init__(
        self,
        dataset: ImageDataset | Subset[Any],
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        key: Callable[[str], str] | None = None,
        unlabeled: Literal["raise", "drop"] = "raise",
    ) -> None:
        folder, samples = _folder_and_samples(dataset)
        _check_unlabeled(unlabeled)
        self.maps = maps
        self._load = folder.loader
        self._transform = tracked(transform)
        root = getattr(folder, "split_folder", folder.root)
        keys = [key(path) if key else os.path.relpath(path, root).replace(os.sep, "/") for path, _ in samples]
        rows = maps.rows(keys) if unlabeled == "raise" else maps.find(keys)
        labeled = maps.has_label(rows)
        if unlabeled == "raise" and not bool(labeled.all()):
            raise _failed(maps, [keys[i] for i in (~labeled).nonzero()[:, 0].tolist()], len(keys))
        self.indices = labeled.nonzero()[:, 0]
        self._samples = samples if bool(labeled.all()) else [samples[i] for i in self.indices.tolist()]
        self._rows = rows[self.indices]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, CropLabel]:
        path, label = self._samples[index]
        try:
            image = self._load(path)
        except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
            raise ImageError(f"{path} cannot be read: {error}. Mend it, or leave it out of the dataset") from error
        output, view = self._transform(image)
        return output, CropLabel(int(self._rows[index]), view.box, view.flip, label, self.maps)


class LabeledSample:
    """The same for streams: from a sample's mapping (webdataset's, images decoded) to ``(image, CropLabel)``.

    ``WebDataset(urls).decode("pil").map(LabeledSample(maps, transform))``. Picklable if the transform is.

    Args:
        maps: the store.
        transform: as for `LabeledCrops`.
        image_suffixes: the names under which a sample may hold its image; the first that it has is taken.
        unlabeled: what to do with a sample that the store has no label for: "raise", or "drop", that is, answer None,
            which webdataset's ``map`` leaves out.
    """

    def __init__(
        self,
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        image_suffixes: Sequence[str] = _IMAGE_SUFFIXES,
        unlabeled: Literal["raise", "drop"] = "raise",
    ) -> None:
        _check_unlabeled(unlabeled)
        self.maps = maps
        self._suffixes = tuple(image_suffixes)
        self._drop = unlabeled == "drop"
        self._transform = tracked(transform)
        # Read here, so that forked workers share them and spawned ones receive them.
        maps.has_label(maps.find([]))

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Any, CropLabel] | None:
        """The transformed image of a sample, and which label it has; its ground truth is what ``cls`` says.

        Raises:
            LabelError: the store has no label for it, with `unlabeled` "raise".
            InvalidValueError: the sample is no mapping, has no key or no decoded image, or a ``cls`` that is no number.
        """
        if not isinstance(sample, Mapping):
            raise InvalidValueError(
                f"a sample is a mapping of names to values, with __key__; got a {type(sample).__name__}. Map "
                "LabeledSample before to_tuple and batched, or in their place"
            )
        image = next((sample[name] for name in self._suffixes if name in sample), None)
        if image is None or "__key__" not in sample:
            raise InvalidValueError(
                f"a sample needs __key__ and an image under one of {', '.join(self._suffixes)}; got {sorted(sample)}. "
                "Give image_suffixes if it has another name"
            )
        if isinstance(image, bytes):
            raise InvalidValueError('the image is still encoded; put .decode("pil") before .map(LabeledSample(...))')
        rows = self.maps.find([sample["__key__"]]) if self._drop else self.maps.rows([sample["__key__"]])
        if not self.maps.has_label(rows):
            if self._drop:
                return None
            raise _failed(self.maps, [sample["__key__"]], 1)
        output, view = self._transform(image)
        return output, CropLabel(int(rows[0]), view.box, view.flip, _class_of(sample), self.maps)


def _folder_and_samples(dataset: ImageDataset | Subset[Any]) -> tuple[ImageDataset, Sequence[tuple[str, int]]]:
    """The dataset below any subsets, and the samples that they leave."""
    if isinstance(dataset, Subset):
        below: Any = dataset.dataset
        folder, every = _folder_and_samples(below)
        return folder, [every[int(i)] for i in dataset.indices]
    missing = [name for name in ("root", "samples", "loader") if not hasattr(dataset, name)]
    if missing:
        raise InvalidValueError(
            f"{type(dataset).__name__} has no {', '.join(missing)}; expected a dataset like torchvision's "
            "ImageFolder, or a Subset of one. For another, give each item a CropLabel of your own, or use LabeledSample"
        )
    inner = [name for name in ("transform", "target_transform", "transforms") if getattr(dataset, name, None)]
    if inner:
        raise InvalidValueError(
            f"the dataset has its own {', '.join(inner)}, which would not be followed; make it without, and "
            "give the whole transform to LabeledCrops"
        )
    return dataset, dataset.samples


def _class_of(sample: Mapping[str, Any]) -> int:
    """What ``cls`` says, -1 where there is none."""
    said = sample.get("cls", -1)
    try:
        return int(said)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"the cls of sample {sample['__key__']!r} is no class number: {said!r}. Map it to one first, or rename it"
        ) from error


def _check_unlabeled(unlabeled: str) -> None:
    if unlabeled not in ("raise", "drop"):
        raise InvalidValueError(f"unlabeled must be 'raise' or 'drop'; got {unlabeled!r}")


def _failed(maps: LabelMaps, keys: list[str], count: int) -> LabelError:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return LabelError(
        f"{len(keys)} of {count} images failed when {maps.where} was made and have no label: "
        f"{', '.join(map(repr, keys[:_SHOWN]))}{more}. Drop them with unlabeled='drop'; or mend them "
        "and run the same relabel generate again with --retry-failed"
    )
