"""Hugging Face's Trainer, and accelerate: the lines that their pages show, in loops as the examples have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from accelerate.utils import DataLoaderConfiguration
from transformers import ViTConfig, ViTForImageClassification

import relabel


def vit(num_classes: int) -> ViTForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=32, patch_size=16, num_labels=num_classes, **sizes)
    return ViTForImageClassification(config)


@pytest.fixture(scope="module")
def data_dir(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as training and as validation data."""
    root = tmp_path_factory.mktemp("imagefolder")
    for split in ("train", "validation"):
        training.write_photographs(root / split)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(data_dir: Path, cache: Path, workplace: Path) -> Callable[..., Any]:
    """Run a script, as its page changes it."""

    def run(trainer: str, *titles: str, **own: Any) -> Any:
        args = {"data_dir": str(data_dir), "cache_dir": str(cache), "make_model": vit}
        return training.run(trainer, *titles, args=args | own)

    return run


# Each ticket is an array of numpy, of which torch.tensor(list) warns that it could be faster.
_SLOW = pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")


@_SLOW
@pytest.mark.parametrize("config", [{}, {"dispatch_batches": True}, {"split_batches": True}])
def test_accelerate_trains_with_the_labels_of_its_crops(train: Callable[..., Any], config: dict[str, bool]) -> None:
    with training.watching((relabel, "soft_cross_entropy")) as seen:
        accelerator = {"cpu": True, "dataloader_config": DataLoaderConfiguration(**config)}
        own = {"gradient_accumulation_steps": 2, "accelerator": accelerator, "per_device_train_batch_size": 8}
        train("accelerate", "labels", **own)
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.05
