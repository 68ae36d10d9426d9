"""Batches for train_student.py: image folders, the recipe's augmentation, and the labels that its target needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import relabel
from pipelines.recipe import Recipe
from relabel.errors import ImageError, InvalidValueError, SourceError
from relabel.tracking import TrackedTransform

# The principal components of the colours of ImageNet's training images (AlexNet, section 4.1).
_COLOUR_VALUES = (0.2175, 0.0188, 0.0045)
_COLOUR_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of class folders to learn from and to be tested on, and the store of labels, if the target needs one."""

    images: Path
    validation: Path
    labels: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Both loaders of one process.

    Attributes:
        train: (images (b, 3, s, s), labels), labels being `relabel.CropLabels` or, without a store, classes (b,).
        validation: (images, classes) of this process's part of the validation images.
        num_classes: C.
        sampler: of `train`; None for one process.
    """

    train: DataLoader[Any]
    validation: DataLoader[Any]
    num_classes: int
    sampler: DistributedSampler[Any] | None = field(repr=False)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, relabel.CropLabels | Tensor]]:
        """The batches of an epoch; equal numbers give equal order."""
        if self.sampler is not None:
            self.sampler.set_epoch(number)
        return iter(self.train)


class Lighting(nn.Module):
    """AlexNet's colour noise: a tensor image (3, h, w) in [0, 1], moved along the principal components of colour."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, image: Tensor) -> Tensor:
        """The image with one random colour added to all of its pixels."""
        drawn = torch.randn(3) * self.deviation * torch.tensor(_COLOUR_VALUES)
        return image + (torch.tensor(_COLOUR_VECTORS) @ drawn)[:, None, None]


def train_transform(recipe: Recipe) -> TrackedTransform:
    """The recipe's random crop, flip, RandAugment and colours, up to a normalised tensor (3, s, s)."""
    size = recipe.image_size
    steps: list[Any] = [
        RandomResizedCropAndInterpolation(size, recipe.crop_scale, recipe.crop_ratio, recipe.interpolation),
        transforms.RandomHorizontalFlip(recipe.flip_probability),
    ]
    if recipe.randaugment is not None:
        mean = tuple(round(255 * value) for value in IMAGENET_DEFAULT_MEAN)
        settings = {"translate_const": int(size * 0.45), "img_mean": mean}
        steps.append(_posterizing(rand_augment_transform(recipe.randaugment, settings)))
    elif recipe.color_jitter:
        steps.append(transforms.ColorJitter(*[recipe.color_jitter] * 3))
    steps.append(transforms.ToTensor())
    if recipe.lighting:
        steps.append(Lighting(recipe.lighting))
    steps.append(transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    if recipe.random_erasing:
        steps.append(RandomErasing(recipe.random_erasing, mode="pixel", device="cpu"))
    return TrackedTransform(transforms.Compose(steps), untracked=(Lighting,))


def validation_transform(recipe: Recipe) -> transforms.Compose:
    """The centred crop of the recipe."""
    name = "bicubic" if recipe.interpolation == "random" else recipe.interpolation
    return transforms.Compose(
        [
            transforms.Resize(math.floor(recipe.image_size / recipe.validation_crop), str_to_interp_mode(name)),
            transforms.CenterCrop(recipe.image_size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )


def load_data(recipe: Recipe, places: Places, share: Share, device: torch.device) -> Data:
    """Open the folders and the store, and see that they belong together.

    Raises:
        SourceError: a folder without class folders of images, or other classes for validation than for training.
        InvalidValueError: a target that needs labels without a store, a store of other classes than the folder's, or
            a batch that the processes cannot share or the images cannot fill.
        LabelError: images that the store has no label for.
    """
    if recipe.batch_size % share.world_size:
        raise InvalidValueError(f"{share.world_size} processes cannot share a batch of {recipe.batch_size} evenly")
    train, validation = _folder(places.images), _folder(places.validation)
    if train.classes != validation.classes:
        raise SourceError(
            f"{places.images} and {places.validation} must hold the same class folders; only in one of them: "
            f"{', '.join(sorted(set(train.classes) ^ set(validation.classes))[:8])}"
        )
    dataset: Any = _Plain(train, train_transform(recipe))
    if recipe.uses_store:
        dataset = relabel.LabeledCrops(train, _maps(recipe, places, train), train_transform(recipe))
    if len(dataset) < recipe.batch_size:
        raise InvalidValueError(f"{len(dataset)} images cannot fill a batch of {recipe.batch_size}; lower --batch-size")
    sampler: DistributedSampler[Any] | None = None
    if share.world_size > 1:
        sampler = DistributedSampler(
            dataset, share.world_size, share.rank, shuffle=True, seed=recipe.seed, drop_last=True
        )
    part = Subset(validation, range(share.rank, len(validation), share.world_size))
    validation.transform = validation_transform(recipe)
    options: dict[str, Any] = {
        "batch_size": recipe.batch_size // share.world_size,
        "num_workers": recipe.workers,
        "pin_memory": device.type == "cuda",
    }
    return Data(
        train=DataLoader(
            dataset, sampler=sampler, shuffle=sampler is None, drop_last=True,
            collate_fn=relabel.collate if recipe.uses_store else None, **options,
        ),
        validation=DataLoader(part, **options),
        num_classes=len(train.classes),
        sampler=sampler,
    )  # fmt: skip


def _posterizing(augment: RandAugment) -> RandAugment:
    """timm's strongest posterizing keeps 0 bits of a colour, which Pillow refuses from version 13 on: 1 then."""
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_one_bit_at_least, operation.level_fn)
    return augment


def _one_bit_at_least(level_fn: Callable[[float, Any], tuple[int]], level: float, settings: Any) -> tuple[int]:
    return (max(1, level_fn(level, settings)[0]),)


class _Plain(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A folder's images through a tracked transform, whose crop box nobody needs; with the one class of each."""

    def __init__(self, folder: ImageFolder, transform: TrackedTransform) -> None:
        self._folder, self._transform = folder, transform

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._folder.samples[index]
        try:
            image = self._folder.loader(path)
        except (OSError, SyntaxError) as error:
            raise ImageError(f"{path} cannot be read: {error}. Mend it, or remove it") from error
        return self._transform(image)[0], label


def _folder(path: Path) -> ImageFolder:
    try:
        return ImageFolder(path)
    except OSError as error:
        # torchvision's message names the folder and what it lacks.
        raise SourceError(f"{path} is no folder of class folders of images: {error}") from error


def _maps(recipe: Recipe, places: Places, folder: ImageFolder) -> relabel.LabelMaps:
    if places.labels is None:
        raise InvalidValueError(
            f"target {recipe.target} needs the labels of {places.images}: make them with relabel generate, and give "
            "--labels STORE; or take --target one-hot"
        )
    maps = relabel.open(places.labels)
    if maps.num_classes != len(folder.classes):
        some = ", ".join(itertools.islice(folder.classes, 3))
        raise InvalidValueError(
            f"{places.labels} has labels of {maps.num_classes} classes, and {places.images} has {len(folder.classes)} "
            f"class folders ({some} ...). They must be the same classes in the same order, the teacher's: "
            "relabel generate --classes keeps some of a teacher's"
        )
    return maps
