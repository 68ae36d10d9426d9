"""The optimizer of a recipe and its learning rate at every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from pipelines.recipe import Recipe


def make_optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer of a student. Weights decay; biases and norms do so for SGD and AdamP."""
    # As its authors' package has it: with timm's 0.01 the weights before a norm would decay at a tenth of that.
    options: dict[str, Any] = {"wd_ratio": 0.1} if recipe.optimizer == "adamp" else {}
    return create_optimizer_v2(
        student,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        filter_bias_and_bn=recipe.optimizer == "adamw",
        **options,
    )


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a point of the run, in epochs and fractions of one: step / steps of an epoch.

    It stays while the classifier alone learns, then rises in a straight line over the warm-up, falls along half a
    cosine until `epochs`, and stays there.
    """
    if epoch < recipe.head_epochs:
        return recipe.head_learning_rate
    epoch -= recipe.head_epochs
    lowest, highest = recipe.min_learning_rate, recipe.learning_rate
    if epoch < recipe.warmup_epochs:
        start = recipe.warmup_learning_rate
        return start + (highest - start) * epoch / recipe.warmup_epochs
    passed = min(1.0, (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs))
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * passed)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give all groups of parameters a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
