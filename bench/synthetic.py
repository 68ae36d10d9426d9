"""Logits and photographs that no data set is needed for, alike to real ones in what costs bytes and time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from relabel import ScoreMap
from relabel.progress import Progress

CLASSES = 1000
GRID_HW = (15, 15)
_BATCH = 64


def logits(count: int, seed: int) -> Tensor:
    """(B, C, H, W) logits of images with one to four objects each, smooth over the grid.

    An object is a blob of one class and, fainter, of a dozen that resemble it. Every class besides has a level of its
    own in the image and an unrest of its own over the cells. The unrest is so strong that 16 planes weigh what they
    weigh for EfficientNet-Lite2 on photographs at this grid, 2.9 kB; `bench/RESULTS.md` has both.
    """
    random = torch.Generator().manual_seed(seed)
    height, width = GRID_HW
    level = 1.5 * torch.randn(count, CLASSES, 1, 1, generator=random)
    unrest = 0.9 * torch.randn(count * CLASSES, 1, 5, 5, generator=random)
    smooth = torch.nn.functional.interpolate(unrest, size=GRID_HW, mode="bilinear", align_corners=True)
    maps = level + smooth.reshape(count, CLASSES, height, width)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    for image in range(count):
        for _ in range(int(torch.randint(1, 5, (), generator=random))):
            cx, cy, size, strength = torch.rand(4, generator=random).tolist()
            blob = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (0.12 + 0.3 * size) ** 2))
            alike = torch.randint(0, CLASSES, (13,), generator=random)
            fade = torch.linspace(1, 0.35, 13) * (6 + 6 * strength)
            maps[image].index_add_(0, alike, fade[:, None, None] * blob)
    return maps


def score_maps(count: int, planes: int, profile: int) -> ScoreMap:
    """Coded score maps of `count` images of `logits`."""
    parts: list[ScoreMap] = []
    with Progress("making score maps", count, unit="maps") as progress:
        for first in range(0, count, _BATCH):
            batch = logits(min(_BATCH, count - first), seed=first)
            parts.append(ScoreMap.from_logits(batch, planes, profile).coded())
            progress.advance(len(batch))
    profiles = [part.profile for part in parts if part.profile is not None]
    return ScoreMap(
        torch.cat([part.classes for part in parts]),
        torch.cat([part.planes for part in parts]),
        torch.cat([part.rest for part in parts]),
        torch.cat(profiles) if profiles else None,
        num_classes=CLASSES,
    )


def write_photographs(root: Path, count: int) -> list[str]:
    """JPEGs of 500 x 375 in class folders, about as large as a photograph's; returns their keys."""
    random = np.random.default_rng(0)
    keys = [f"class{i % 10}/{i:05d}.jpg" for i in range(count)]
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # Detail at every size, falling off towards the fine ones, is what a JPEG of a photograph spends its bytes on.
        pixels = np.zeros((375, 500, 3), np.float32)
        for cells, strength in ((4, 60.0), (16, 30.0), (64, 15.0), (250, 22.0)):
            noise = random.normal(0, strength, (cells * 3 // 4, cells, 3)).astype(np.float32)
            layers = [Image.fromarray(noise[:, :, c]).resize((500, 375), Image.Resampling.BICUBIC) for c in range(3)]
            pixels += np.stack([np.asarray(layer) for layer in layers], axis=2)
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return keys


def crop_boxes(count: int, seed: int) -> Tensor:
    """(B, 4) xyxy fractions: boxes of 8 to 100 % of the image, as RandomResizedCrop draws them."""
    random = np.random.default_rng(seed)
    area, ratio = random.uniform(0.08, 1, count), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), count))
    size = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1).clip(max=1)
    start = random.uniform(size=(count, 2)) * (1 - size)
    return torch.from_numpy(np.concatenate([start, start + size], axis=1)).float()
