"""The whole path: images of known content, a teacher that reads it, a store, a trainer's own crops, their labels.

The published systems send the crop box to RoIAlign with x and y swapped. Here an image's red says x and its green says
y, so a label says where the teacher believes its crop to be, and that must be where the crop was.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour_teacher
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

import relabel
from relabel.generate import GenerateOptions, generate
from relabel.loader import CropLabels
from relabel.teacher import TeacherSpec
from relabel.verify import verify_shards

SIZES_HW = ((150, 200), (150, 200), (150, 200), (200, 150))
PIPELINES: dict[str, Callable[[], Any]] = {
    "torchvision v1": lambda: v1.Compose([v1.RandomResizedCrop(32), v1.RandomHorizontalFlip(), v1.ToTensor()]),
    "torchvision v2": lambda: v2.Compose(
        [v2.ToImage(), v2.RandomResizedCrop(32), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "timm": lambda: create_transform(
        32, is_training=True, color_jitter=None, auto_augment=None, mean=(0, 0, 0), std=(1, 1, 1)
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, (height, width) in enumerate(SIZES_HW * 4):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([(x + 0.5) / width, (y + 0.5) / height, np.full(x.shape, 0.5)], 2) * 255
        path = root / f"class{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.round().astype(np.uint8)).save(path, quality=95, subsampling=0)
    return root


@pytest.fixture(scope="module", params=["squash", "center", "letterbox"])
def store(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / f"{request.param}.zarr"
    spec = TeacherSpec(name="colour_teacher:make", fit=request.param, device="cpu")
    options = GenerateOptions(planes=48, profile=0, samples_per_shard=6, show_progress=False)
    assert generate(str(photos), path, spec, options).is_good
    assert verify_shards(path, str(photos), show_progress=False).is_clean
    return path


def batches(photos: Path, store: Path, pipeline: str, epochs: int) -> list[tuple[Tensor, CropLabels]]:
    """Crops as a trainer draws them, through a loader, and their labels before pooling."""
    dataset = relabel.LabeledCrops(ImageFolder(photos), relabel.open(store), PIPELINES[pipeline]())
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=relabel.collate)
    torch.manual_seed(0)
    # timm draws its crops by Python's own.
    random.seed(0)
    return [batch for _ in range(epochs) for batch in loader]


def correlations(labels: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> tuple[float, float, float, float]:
    """Of the label's x with the true x, y with y, x with the true y, and y with the true x."""

    def one(a: Tensor, b: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])

    (x, y), (true_x, true_y) = labels, true
    return one(x, true_x), one(y, true_y), one(x, true_y), one(y, true_x)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_crops_label_says_where_the_crop_was(photos: Path, store: Path, pipeline: str) -> None:
    crops = batches(photos, store, pipeline, epochs=60)
    covered = torch.cat([labels.maps.covered(labels.views) for _, labels in crops])
    kept = covered > 0.98
    images = torch.cat([images for images, _ in crops])[kept]
    pooled = torch.cat([labels.pool(uncovered="nearest") for _, labels in crops])[kept]
    # The crop's own colours are the truth: nothing here depends on the box that the loader tells.
    true = images[:, 0].mean((1, 2)), images[:, 1].mean((1, 2))
    xx, yy, xy, yx = correlations(colour_teacher.place(pooled), true)
    assert len(images) > 150
    assert min(xx, yy) >= 0.99
    assert max(abs(xy), abs(yx)) < 0.1


@pytest.mark.parametrize("store", ["squash"], indirect=True)
def test_token_labels_say_where_each_token_was_also_in_a_mirrored_crop(photos: Path, store: Path) -> None:
    images, labels = batches(photos, store, "torchvision v2", epochs=1)[0]
    assert 0 < int(labels.views.flips.sum()) < 16
    tokens = labels.pool((4, 4))
    colours = torch.nn.functional.adaptive_avg_pool2d(images, (4, 4))
    x, y = colour_teacher.place(tokens)
    assert (x - colours[:, 0]).abs().max() < 0.06
    assert (y - colours[:, 1]).abs().max() < 0.06


@pytest.mark.parametrize("store", ["squash"], indirect=True)
def test_a_swapped_box_as_the_published_codes_crop_is_seen_by_this_measure(photos: Path, store: Path) -> None:
    crops = batches(photos, store, "torchvision v1", epochs=30)
    swapped = torch.cat([labels.maps.pool(labels.views.boxes[:, [1, 0, 3, 2]]) for _, labels in crops])
    images = torch.cat([images for images, _ in crops])
    true = images[:, 0].mean((1, 2)), images[:, 1].mean((1, 2))
    xx, yy, xy, yx = correlations(colour_teacher.place(swapped), true)
    assert max(abs(xx), abs(yy)) < 0.2
    assert min(xy, yx) > 0.9
