"""Random crops, drawn by torchvision as trainers draw them."""

from __future__ import annotations

import random

import torch
from torchvision.transforms import RandomResizedCrop

_SCALE, _RATIO = [0.08, 1.0], [3 / 4, 4 / 3]


def random_crops(image_size_hw: tuple[int, int], count: int, seed: str) -> list[tuple[int, int, int, int]]:
    """`count` crops (top, left, height, width) in pixels of RandomResizedCrop(scale=(0.08, 1)), by the seed alone.

    torch's own random state is left as it was.
    """
    canvas = torch.empty(3, *image_size_hw, device="meta")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every GPU too.
        torch.default_generator.manual_seed(random.Random(seed).getrandbits(63))
        return [RandomResizedCrop.get_params(canvas, _SCALE, _RATIO) for _ in range(count)]
