"""Datasets whose items say what was cropped, so that a batch can be given its soft labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.data import Dataset, Subset

from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.loader.frames import check_size, frame_of_dataset
from relabel.loader.maps import LabelMaps
from relabel.manifest import Frame
from relabel.tracking import tracked

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class CropLabel:
    """Which label a crop has.

    Attributes:
        row: of the store.
        view: what the crop shows of the whole image.
        ground_truth: the image's class, -1 where unknown.
        maps: the store that `row` counts in, in the frame of `view`: the label is ``maps[[row]].pool(...)``.
    """

    row: int
    view: View
    ground_truth: int
    maps: LabelMaps = field(repr=False)

    @property
    def box(self) -> Box:
        """The crop box, in fractions of the whole image; of a view that turns or shears the bounding box."""
        return self.view.box

    @property
    def flip(self) -> bool:
        """Whether the crop was mirrored left to right."""
        return self.view.flip


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

    Whether the dataset's loader turns photographs upright by their EXIF orientation is found out here, from a few that
    have one; `maps` are then in that frame. An item whose image has not the shape of the one that was labelled raises.

    Args:
        dataset: images on the disk, as torchvision's ``ImageFolder`` keeps them, or a ``Subset`` of such.
        maps: the store.
        transform: from a loaded image to what the trainer takes; None keeps the image. A `TrackedTransform` may say
            which steps are not to be followed.
        key: from a sample's path to its key; None is the path below the dataset's folder, with forward slashes.
        unlabeled: what to do with samples that the store has no label for: "raise", or "drop" them.
        frame: "decoded" or "upright", the frame in which the loader gives images, where it cannot be found out.

    Raises:
        LabelError: samples without a label, with `unlabeled` "raise", some are listed; or labels that cannot be had in
            the loader's frame. When an item is asked for, an image of another shape than was labelled.
        InvalidValueError: the dataset or the transform is of a kind that is not understood; or the loader gives images
            in both frames or in neither, or that cannot be told.
        ImageError: when an item is asked for whose image cannot be read.
    """

    def __init__(  # noqa: PLR0913 - its keywords are the public way to say what cannot be found out
        self,
        dataset: ImageDataset | Subset[Any],
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        key: Callable[[str], str] | None = None,
        unlabeled: Literal["raise", "drop"] = "raise",
        frame: Frame | None = None,
    ) -> None:
        folder, samples = _folder_and_samples(dataset)
        check_unlabeled(unlabeled)
        self._load = folder.loader
        self._transform = tracked(transform)
        root = getattr(folder, "split_folder", folder.root)
        keys = [key(path) if key else os.path.relpath(path, root).replace(os.sep, "/") for path, _ in samples]
        rows = maps.rows(keys) if unlabeled == "raise" else maps.find(keys)
        labeled = maps.has_label(rows)
        if unlabeled == "raise" and not bool(labeled.all()):
            raise without_label(maps, [keys[i] for i in (~labeled).nonzero()[:, 0].tolist()], len(keys))
        self.indices = labeled.nonzero()[:, 0]
        self._samples = samples if bool(labeled.all()) else [samples[i] for i in self.indices.tolist()]
        self._rows = rows[self.indices]
        self.maps = maps.in_frame(frame or frame_of_dataset(maps, self._rows.numpy(), self._samples, self._load))
        # Here, and not in a worker an hour later: whether all can be had in this frame.
        self.maps.turns(self._rows)
        self._sizes_hw = self.maps.sizes_hw(self._rows)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, CropLabel]:
        path, label = self._samples[index]
        try:
            image = self._load(path)
        except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
            raise ImageError(f"{path} cannot be read: {error}. Mend it, or leave it out of the dataset") from error
        height, width = self._sizes_hw[index].tolist()
        check_size(path, image, (height, width))
        output, view = self._transform(image)
        return output, CropLabel(int(self._rows[index]), view, label, self.maps)


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


def check_unlabeled(unlabeled: str) -> None:
    """Refuse what is neither of the two things that may be done with images without a label."""
    if unlabeled not in ("raise", "drop"):
        raise InvalidValueError(f"unlabeled must be 'raise' or 'drop'; got {unlabeled!r}")


def without_label(maps: LabelMaps, keys: list[str], count: int) -> LabelError:
    """Of those of `count` images that the store knows, and failed to label."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return LabelError(
        f"{len(keys)} of {count} images failed when {maps.where} was made and have no label: "
        f"{', '.join(map(repr, keys[:_SHOWN]))}{more}. Drop them with unlabeled='drop'; or mend them "
        "and run the same relabel generate again with --retry-failed"
    )
