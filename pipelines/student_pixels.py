"""What happens to a student's pixels: a worker crops, flips and recolours them, the device makes numbers of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision import transforms

from pipelines.recipe import Recipe
from pipelines.starting import validation_interpolation

# The principal components of the colours of ImageNet's training images (AlexNet, section 4.1).
_COLOUR_VALUES = (0.2175, 0.0188, 0.0045)
_COLOUR_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def train_transform(recipe: Recipe) -> transforms.Compose:
    """The recipe's random crop, flip and colours, up to uint8 (3, s, s): a quarter of the bytes that floats would be.

    Labels follow all of it, also where RandAugment turns, shears and shifts.
    """
    size = recipe.image_size
    steps: list[Any] = [
        RandomResizedCropAndInterpolation(size, recipe.crop_scale, recipe.crop_ratio, recipe.interpolation),
        transforms.RandomHorizontalFlip(recipe.flip_probability),
    ]
    if recipe.randaugment is not None:
        mean = tuple(round(255 * value) for value in recipe.mean or IMAGENET_DEFAULT_MEAN)
        settings = {"translate_const": int(size * 0.45), "img_mean": mean}
        steps.append(_posterizing(rand_augment_transform(recipe.randaugment, settings)))
    elif recipe.color_jitter:
        steps.append(transforms.ColorJitter(*[recipe.color_jitter] * 3))
    return transforms.Compose([*steps, transforms.PILToTensor()])


def validation_transform(recipe: Recipe) -> transforms.Compose:
    """The centred crop of the recipe, uint8 (3, s, s)."""
    name = validation_interpolation(recipe)
    return transforms.Compose(
        [
            transforms.Resize(math.floor(recipe.image_size / recipe.validation_crop), str_to_interp_mode(name)),
            transforms.CenterCrop(recipe.image_size),
            transforms.PILToTensor(),
        ]
    )


class Pixels:
    """Batches of uint8 (B, 3, h, w) to normalised float32 on a device, which nothing waits for.

    Args:
        recipe: its mean and deviation, its noise of colours, along the principal components of ImageNet's, and its
            erasing are used.
        device: where the student is.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._device = device
        self._mean, self._std = (
            255 * torch.tensor(values, device=device)[:, None, None]
            for values in (recipe.mean or IMAGENET_DEFAULT_MEAN, recipe.std or IMAGENET_DEFAULT_STD)
        )
        self._colours = 255 * recipe.lighting * torch.tensor(_COLOUR_VECTORS) * torch.tensor(_COLOUR_VALUES)
        self._has_noise = recipe.lighting > 0
        erased = recipe.random_erasing
        self._erase = RandomErasing(erased, mode="pixel", device=str(device)) if erased else None

    def __call__(self, pixels: Tensor, *, trains: bool) -> Tensor:
        """The batch; where it is one to train with, with colours and erasing."""
        moved = pixels.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        images = moved.float()
        if trains and self._has_noise:
            # Drawn on the CPU, so that a run on any device draws the same.
            noise = torch.randn(len(pixels), 3) @ self._colours.T
            images += noise[:, :, None, None].to(self._device, non_blocking=True)
        images = images.sub_(self._mean).div_(self._std)
        return self._erase(images) if trains and self._erase is not None else images


def _posterizing(augment: RandAugment) -> RandAugment:
    """timm's strongest posterizing keeps 0 bits of a colour, which Pillow refuses from version 13 on: 1 then."""
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_one_bit_at_least, operation.level_fn)
    return augment


def _one_bit_at_least(level_fn: Callable[[float, Any], tuple[int]], level: float, settings: Any) -> tuple[int]:
    return (max(1, level_fn(level, settings)[0]),)
