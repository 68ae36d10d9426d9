"""Data sets whose items say which label they have: a trainer's own, wrapped, with the transform that they have."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from relabel.errors import InvalidValueError
from relabel.loader.crops import Shown, check_unlabeled, crop_label_of, ticket_of, without_label
from relabel.loader.datasets import Images, Key, Transform
from relabel.loader.frames import check_size, frame_of_dataset, spread
from relabel.loader.kinds import taken_apart
from relabel.loader.maps import LabelMaps
from relabel.loader.rows import refuse_other_files, rows_of_items
from relabel.loader.streams import is_pipeline, labeled_pipeline, proved
from relabel.manifest import Frame
from relabel.tracking import TrackedTransform
from relabel.tracking.proof import undisturbed

Unlabeled = Literal["raise", "drop"]

_LOOKED_AT = 8
"""Images of a data set whose loading is the user's: a third of a second for photographs."""


class _Keep(Enum):
    KEEP = "the data set's own"


_KEEP: Final = _Keep.KEEP
_OWN = frozenset({"dataset", "maps", "indices", "stand_in", "transform"})
_TRANSFORMS = frozenset({"transforms", "target_transform"})


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the data sets that a data set is made of.

    Attributes:
        images: its images.
        maps: the store, in the frame in which they are loaded.
        given: its transform, as its owner knows it.
        transform: the same, tracked.
    """

    images: Images
    maps: LabelMaps
    given: Transform | None
    transform: TrackedTransform


class Labeled(Dataset[Any]):
    """A data set whose items say which label they have: ``(output, ticket)`` in place of ``(output, class)``.

    Wraps what a trainer has, with the transform that it has, which runs unchanged: torchvision's ``ImageFolder`` and
    ``ImageNet``, timm's ``ImageDataset``, Hugging Face's ``Dataset``, any other map-style data set with ``key``, and
    ``Subset`` or ``ConcatDataset`` of such. The data set itself is not changed, and all its attributes are found here
    too (`classes`, `targets`, `samples`, ...); `num_classes` is the teacher's. Items keep their form, a row of Hugging
    Face's its columns; the output and the ticket stand where image and class stood. Of a webdataset pipeline comes the
    same pipeline with a `LabeledSample` at its end.

    A ticket is int64 (11,), which any collate stacks, and `LabelMaps.pool` answers the labels of a batch. A transform
    that makes n views of an image gives a list of them, and a ticket (n, 11).

    An item is never another image's: one that cannot be read raises, and so does a data set of other files than were
    labelled, see `same_bytes`; where no files can be had, as of most data sets of your own, `key` is believed. Whether
    photographs are loaded upright by their EXIF orientation is found out here, from a few that have one. An image of
    another shape than was labelled raises.

    Args:
        dataset: the data set.
        maps: the store.
        transform: for a data set that has none: from an image as it is loaded to what the trainer takes.
        key: from what the data set knows an image by to its key in the store: its path where there is one, its row of
            Hugging Face's, else its index. None is the path below the data set's folder, with forward slashes; images
            of Hugging Face are then known by their bytes, all of which are read once.
        unlabeled: what to do with images that the store has no label for: "raise", or "drop" them.
        frame: "decoded" or "upright", the frame in which images are loaded, where it cannot be found out.
        geometry: what to do with steps that no view can tell: "ignore" or "refuse" them, see `TrackedTransform`.
        columns: the names of image and class, in items that are mappings; ("image", "label") where none are known.
        check: whether the transform is proved, as by `relabel.check_views`, now and whenever it is set: it takes a
            tenth of a second, about half of one for each step that is not known, and two to four where a transform
            makes several views or noise. Steps that are not known are refused without; see `TrackedTransform`. And
            whether code of yours that loads images is asked a few times for one, and refused if it does not load it the
            same, or crops, shifts or mirrors what its file shows.
        same_bytes: whether the data set's files are the very ones that were labelled: 16 of them are then compared, of
            each data set that this one is made of, where it has files and the store knows theirs. Another split whose
            files have the same names is so refused. False accepts pictures that were encoded anew, or made smaller.

    Attributes:
        dataset: the data set.
        maps: the store; in the frame of the images where all have one.
        indices: (n,) int64, which of the data set's items are left.
        transform: may be set later, as timm's ``create_loader`` does; it is then followed, or refused.

    Raises:
        LabelError: images without a label, with `unlabeled` "raise", some are listed; or other files than were
            labelled, with `same_bytes`; or labels that cannot be had in
            the frame of the images. When an item is asked for, an image of another shape than was labelled.
        InvalidValueError: the data set or its transform is of a kind that is not understood; or images are loaded in
            both frames or in neither, or that cannot be told. When an item is asked for, a transform that was set on
            the data set itself afterwards.
        ImageError: when an item is asked for whose image cannot be read.
    """

    _label: Callable[[LabelMaps, int, Shown, int], Any] = staticmethod(ticket_of)

    def __new__(cls, dataset: Any = None, *given: Any, **options: Any) -> Any:
        """The data set; of a webdataset pipeline the same pipeline, with a `LabeledSample` at its end."""
        if is_pipeline(dataset):
            return labeled_pipeline(dataset, *given, **options, tickets=cls._label is ticket_of)
        return super().__new__(cls)

    def __init__(  # noqa: PLR0913 - its keywords are the public way to say what cannot be found out
        self,
        dataset: Any,
        maps: LabelMaps,
        *,
        transform: Transform | _Keep | None = _KEEP,
        key: Key | None = None,
        unlabeled: Unlabeled = "raise",
        frame: Frame | None = None,
        geometry: Literal["ignore", "refuse"] = "ignore",
        columns: tuple[str, str] | None = None,
        check: bool = True,
        same_bytes: bool = True,
    ) -> None:
        check_unlabeled(unlabeled)
        if not isinstance(maps, LabelMaps):
            raise InvalidValueError(f"maps is relabel.open(path); got {maps!r}, a {type(maps).__name__}")
        items = taken_apart(dataset, columns)
        given = [_transform_of(images, transform) for images in items.every]
        self._track = partial(proved, geometry=geometry, check=check)
        # Before keys are read, which takes longer.
        follow = [self._track(each) for each in given]
        self.dataset = dataset
        rows = rows_of_items(items, maps, key, unlabeled)
        labeled = maps.has_label(rows).numpy()
        if unlabeled == "raise" and not labeled.all():
            raise without_label(maps, items.names(np.flatnonzero(~labeled)), len(rows))
        self.indices = torch.from_numpy(np.flatnonzero(labeled))
        items, rows = items[labeled], rows[labeled]
        #: For `relabel.check_views`: from a row and its image to what is taken for that.
        self.stand_in: Callable[[int, Any], Any] | None = None
        self._parts: tuple[_Part, ...] = ()
        sizes_hw = np.zeros((len(rows), 2), np.int64)
        for number, images in enumerate(items.every):
            own = items.parts == number
            if same_bytes:
                refuse_other_files(images, items.indices[own], maps, rows[own])
            in_frame = maps.in_frame(frame or frame_of_dataset(maps, rows[own], items.indices[own], images))
            if check and own.any() and not images.is_known_to_load:
                with undisturbed():
                    images.refuse_changed(spread(items.indices[own], _LOOKED_AT).tolist())
            # Here, and not in a worker an hour later: whether all can be had in this frame.
            in_frame.turns(rows[own])
            sizes_hw[own] = in_frame.sizes_hw(rows[own])
            images.release()
            self._parts += (_Part(images, in_frame, given[number], follow[number]),)
        self.maps = self._parts[0].maps if len(self._parts) == 1 else maps
        # One tensor, so that spawned workers share it.
        table = np.column_stack([items.parts, items.indices, rows, sizes_hw]).astype(np.int32)
        self._table, self._items = torch.from_numpy(table), table

    @property
    def num_classes(self) -> int:
        """C, the classes of a label: the teacher's, which may be others than the data set's."""
        return self.maps.num_classes

    @property
    def transform(self) -> Transform | None:
        """From an image as it is loaded to what the trainer takes."""
        given = self._parts[0].given
        if any(part.given is not given for part in self._parts):
            raise AttributeError("the data sets that this one is made of have transforms of their own")
        return given

    @transform.setter
    def transform(self, transform: Transform | None) -> None:
        follow = self._track(transform)
        self._parts = tuple(replace(part, given=transform, transform=follow) for part in self._parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items of {type(self.dataset).__name__}, {self.maps!r})"

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise InvalidValueError(f"an item is asked for by a whole number; got {index!r}. Several: a Subset")
        number, place, row, height, width = self._items[operator.index(index)].tolist()
        part = self._parts[number]
        images = part.images
        images.refuse_changes(place)
        image, truth, rest = images.load(place)
        check_size(partial(images.name, place), image, (height, width))
        if self.stand_in is not None:
            image = self.stand_in(row, image)
        output, shown = part.transform(image)
        if isinstance(shown, tuple):
            output = list(output)
        return images.item(output, self._label(part.maps, row, shown, truth), rest)

    def __getattr__(self, name: str) -> Any:
        dataset = self.__dict__.get("dataset")
        # What a copy or a pickle asks for is never the data set's own.
        if dataset is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(dataset, name)
        if callable(value) and type(dataset).__module__.startswith("datasets."):
            instead = "set labeled.transform = ..." if "transform" in name else "call it before Labeled is made of it"
            raise AttributeError(f"{name} would give a data set without labels: {instead}")
        is_dropped = len(self.indices) != len(dataset)
        if is_dropped and isinstance(value, (list, tuple, np.ndarray, Tensor)) and len(value) == len(dataset):
            left = self.indices.tolist()
            return value[left] if isinstance(value, (np.ndarray, Tensor)) else type(value)(value[i] for i in left)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        is_own = name in _OWN or name.startswith("_")
        if name in _TRANSFORMS or not (is_own or "dataset" not in self.__dict__ or not hasattr(self.dataset, name)):
            raise InvalidValueError(
                f"{name} is the data set's: set it there before Labeled is made of it. Of Labeled only the transform "
                "may be set"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        for part in self._parts:
            part.images.release()
        return self.__dict__ | {"_items": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _items=state["_table"].numpy())


class LabeledCrops(Labeled):
    """As `Labeled`, for loops that are short of time in the main process: item i is ``(output, CropLabel)``.

    `relabel.collate` makes batches of them, and reads their maps in the workers.

    Args:
        dataset: as for `Labeled`; without a transform of its own.
        maps: the store.
        transform: from an image as it is loaded to what the trainer takes; None keeps the image. A `TrackedTransform`
            may say which steps are not to be followed.
        options: keywords as for `Labeled`.
    """

    _label = staticmethod(crop_label_of)

    def __init__(self, dataset: Any, maps: LabelMaps, transform: Transform | None, **options: Any) -> None:
        super().__init__(dataset, maps, transform=transform, **options)


def _transform_of(images: Images, transform: Transform | _Keep | None) -> Transform | None:
    """What an image is given to: the data set's own transform, or another where it has none."""
    if isinstance(transform, _Keep):
        return images.transform
    if images.transform is not None:
        raise InvalidValueError(
            f"{type(images.dataset).__name__} has its own transform, and another is given: give none, or make the data "
            "set without, or set labeled.transform afterwards"
        )
    return transform
