"""Batches for train_student.py: folders or tars of images, and the tickets of the labels that its target needs."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset, get_worker_info
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

import relabel
from pipelines.recipe import Recipe
from pipelines.student_pixels import train_transform, validation_transform
from relabel.errors import ImageError, InvalidValueError, SourceError
from relabel.manifest import class_spaces

_log = logging.getLogger(__name__)

KEYS: dict[str, Callable[[str], str] | None] = {"path": None, "stem": lambda path: Path(path).stem}
"""What a folder's image is called in the store: its path below the folder, or its file's name, as in tars of it."""
_SHUFFLED = 512
"""Images that a worker of tars draws the next one from, 50 MB of photographs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things lie.

    Attributes:
        images: to learn from: a folder of class folders, or webdataset tars as `relabel generate` takes them.
        validation: a folder of the same class folders.
        labels: the store, if the target needs one.
        keys: one of `KEYS`.
    """

    images: str
    validation: Path
    labels: str | None
    keys: str = "path"


@dataclass(frozen=True, slots=True)
class Share:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Both loaders of one process; images are uint8 (b, 3, s, s).

    Attributes:
        train: (images, tickets (b, 11)) or, without a store, (images, classes (b,)).
        validation: (images, classes) of this process's part of the validation images.
        class_names: of the C class folders, in their order.
        steps: batches of an epoch.
        maps: what pools the tickets.
        order: has `set_epoch`, after which the order is that epoch's.
    """

    train: DataLoader[Any]
    validation: DataLoader[Any]
    class_names: tuple[str, ...]
    steps: int
    maps: relabel.LabelMaps | None
    order: Any

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch; equal numbers give equal order."""
        self.order.set_epoch(number)
        return itertools.islice(self.train, self.steps)


class TarStream(IterableDataset[tuple[Tensor, Any]]):
    """The images of tars over and over, with their tickets, in another order each epoch; each worker has its own tars.

    Args:
        images: the tars, as `relabel generate` takes them.
        sample: what makes an item of a sample.
        share: this process, each of whose workers takes its part of the tars.
        seed: of the order.
    """

    def __init__(self, images: str, sample: relabel.LabeledSample, share: Share, seed: int) -> None:
        self._source, self._sample, self._share, self._seed = relabel.open_source(images), sample, share, seed
        self._epoch = 0

    def set_epoch(self, number: int) -> None:
        """Which order comes next."""
        self._epoch = number

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        worker, share = get_worker_info(), self._share
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        number, readers = share.rank * workers + number, share.world_size * workers
        spans = [span for spans in self._source.spans(self._sample.maps.manifest.data.class_names) for span in spans]
        if len(spans) < readers:
            raise SourceError(f"{readers} loader processes cannot share {len(spans)} tars: lower --workers")
        # The same order in all of them.
        draw = random.Random(f"{self._seed} {self._epoch}")
        while True:
            draw.shuffle(spans)
            yield from self._shuffled(spans[number::readers], random.Random(draw.random() + number))

    def _shuffled(self, spans: list[Any], draw: random.Random) -> Iterator[tuple[Tensor, Any]]:
        held: list[Any] = []
        for image in itertools.chain.from_iterable(self._source.read(*span) for span in spans):
            held.append(image)
            if len(held) >= _SHUFFLED:
                yield self._item(held, draw)
        while held:
            yield self._item(held, draw)

    def _item(self, held: list[Any], draw: random.Random) -> Any:
        place = draw.randrange(len(held))
        held[place], held[-1] = held[-1], held[place]
        image = held.pop()
        # Any suffix of an image: what it is, its bytes say.
        return self._sample({"__key__": image.key, "jpg": image.encoded(), "cls": image.label})


def load_data(recipe: Recipe, places: Places, share: Share, device: torch.device) -> Data:
    """Open images and store, and see that they belong together.

    Raises:
        SourceError: a folder without class folders of images, or other classes for validation than for training.
        InvalidValueError: a target that needs labels without a store, a store of other classes than the folder's,
            tars for a target that needs none, or a batch that the processes cannot share or the images cannot fill.
        LabelError: images that the store has no label for.
    """
    if recipe.batch_size % share.world_size:
        raise InvalidValueError(f"{share.world_size} processes cannot share a batch of {recipe.batch_size} evenly")
    validation = _folder(places.validation, validation_transform(recipe))
    dataset, count, maps = _training(recipe, places, share, validation.classes)
    if count < recipe.batch_size:
        raise InvalidValueError(f"{count} images cannot fill a batch of {recipe.batch_size}; lower --batch-size")
    order: Any = dataset
    if not isinstance(dataset, TarStream):
        order = DistributedSampler(dataset, share.world_size, share.rank, seed=recipe.seed, drop_last=True)
    options: dict[str, Any] = {
        "batch_size": recipe.batch_size // share.world_size,
        "num_workers": recipe.workers,
        "pin_memory": device.type == "cuda",
    }
    part = Subset(validation, range(share.rank, len(validation), share.world_size))
    return Data(
        train=DataLoader(dataset, sampler=None if order is dataset else order, drop_last=True, **options),
        validation=DataLoader(part, **options),
        class_names=tuple(validation.classes),
        steps=count // recipe.batch_size,
        maps=maps,
        order=order,
    )


def _training(
    recipe: Recipe, places: Places, share: Share, classes: list[str]
) -> tuple[Any, int, relabel.LabelMaps | None]:
    """The images to learn from, how many they are, and what their tickets are pooled with."""
    transform = train_transform(recipe)
    maps = _maps(recipe, places, classes) if recipe.uses_store else None
    if not Path(places.images).is_dir() and ".tar" in places.images:
        if maps is None:
            raise InvalidValueError(f"target {recipe.target} reads no tars: give a folder of class folders")
        sample = relabel.LabeledSample(maps, transform)
        return TarStream(places.images, sample, share, recipe.seed), len(maps), maps
    folder = _folder(Path(places.images), transform)
    if folder.classes != classes:
        raise SourceError(
            f"{places.images} and {places.validation} must hold the same class folders; only in one of them: "
            f"{', '.join(sorted(set(folder.classes) ^ set(classes))[:8])}"
        )
    if maps is None:
        return folder, len(folder), None
    return relabel.Labeled(folder, maps, key=KEYS[places.keys]), len(folder), maps


def _folder(path: Path, transform: Callable[[Any], Any]) -> ImageFolder:
    try:
        return ImageFolder(path, transform, loader=_load)
    except OSError as error:
        # torchvision's message names the folder and what it lacks.
        raise SourceError(f"{path} is no folder of class folders of images: {error}") from error


def _load(path: str) -> Any:
    try:
        return default_loader(path)
    except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
        raise ImageError(f"{path} cannot be read: {error}. Mend it, or remove it") from error


def _maps(recipe: Recipe, places: Places, classes: list[str]) -> relabel.LabelMaps:
    if places.labels is None:
        raise InvalidValueError(
            f"target {recipe.target} needs the labels of {places.images}: make them with relabel generate, and give "
            "--labels STORE; or take --target one-hot"
        )
    maps = relabel.open(places.labels)
    if recipe.published and not maps.manifest.scores.has_holes:
        raise InvalidValueError(
            f"--published is for the labels of the papers' archives, as relabel import makes a store of them; "
            f"{places.labels} is none: leave it out"
        )
    if maps.num_classes != len(classes):
        raise InvalidValueError(
            f"{places.labels} has labels of {maps.num_classes} classes, and {places.validation} has {len(classes)} "
            f"class folders ({', '.join(classes[:3])} ...). They must be the same classes in the same order, the "
            "teacher's: relabel generate --classes keeps some of a teacher's"
        )
    check_classes(maps.manifest.class_names, classes, places.labels)
    return maps


def check_classes(names: Sequence[str] | None, classes: Sequence[str], who: str) -> None:
    """That targets over classes called `names` (None: unknown) are over a student's, as many, which are its folders'.

    Other names are told and taken, since classes may be called otherwise elsewhere.

    Raises:
        InvalidValueError: they are the same names in another order.
    """
    spaces = class_spaces(names, len(classes), classes)
    if spaces.are_reordered:
        raise InvalidValueError(
            f"{who}: {spaces.why}. Class by class they must be the same: bring the teacher's into the folders' order, "
            "with relabel generate --classes FILE"
        )
    if spaces.are_same is False:
        _log.warning("%s: %s. They are taken to be the same classes in the same order", who, spaces.why)
