"""Hugging Face's Trainer, and accelerate: the lines that their pages show, in loops as the examples have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training
import transformers
from accelerate.utils import DataLoaderConfiguration
from packaging.version import Version
from transformers import ViTConfig, ViTForImageClassification

import relabel
from relabel.loader import hf


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


def trainer_arguments(workplace: Path, **own: Any) -> dict[str, Any]:
    quiet = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}
    steps = {"max_steps": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 16}
    return {"output_dir": str(workplace), "remove_unused_columns": False, **quiet, **steps, **own}


@_SLOW
def test_the_trainer_trains_with_labels_and_evaluates_with_classes(train: Callable[..., Any], workplace: Path) -> None:
    with training.watching((hf, "soft_cross_entropy")) as seen:
        metrics = train("transformers", "labels", training=trainer_arguments(workplace))
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.05
    assert 0 <= metrics["eval_accuracy"] <= 1
    assert metrics["eval_loss"] > 0


@_SLOW
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.5.4"),
    reason="its Trainer divides every loss once more, as was known",
)
def test_a_step_of_the_trainer_is_the_same_at_once_and_by_accumulation(
    train: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    original = hf.HFLoss.__call__

    def noting(self: hf.HFLoss, outputs: Any, labels: torch.Tensor, **named: Any) -> torch.Tensor:
        loss = original(self, outputs, labels, **named)
        losses.extend([loss.item()] if labels.ndim == 2 else [])
        return loss

    monkeypatch.setattr(hf.HFLoss, "__call__", noting)

    def stepped(batch: int, accumulated: int) -> tuple[float, torch.Tensor]:
        """The loss of one step, and its gradient, by which plain descent moves the weights."""
        models: list[ViTForImageClassification] = []
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 1}
        plain = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        arguments = trainer_arguments(workplace, **sizes, **plain)
        train(
            "transformers",
            "labels",
            training=arguments,
            make_model=lambda count: models.append(vit(count)) or models[0],
        )
        before, after = (
            torch.nn.utils.parameters_to_vector(m.parameters()) for m in (vit(training.CLASSES), models[0])
        )
        loss = sum(losses)
        losses.clear()
        return loss, before - after

    (loss, gradient), (accumulated_loss, accumulated_gradient) = stepped(16, 1), stepped(4, 4)
    assert loss == pytest.approx(accumulated_loss, rel=1e-5)
    assert loss > 2
    assert torch.allclose(gradient, accumulated_gradient, atol=1e-5)
    assert gradient.norm() > 0.1
