"""What a student is told of a batch, by the recipe: its targets, mixed or not, and the loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import relabel
from pipelines.lvvit import TokenAnswer
from pipelines.published_targets import shipped_targets
from pipelines.recipe import Recipe
from relabel.errors import InvalidValueError
from relabel.labels import Labels, SparseLabels
from relabel.losses import TokenLabelingLoss, soft_cross_entropy
from relabel.mixing import CutMix, Mixup
from relabel.score_map.filling import Fill

_MIXERS = {"cutmix": CutMix, "mixup": Mixup}


class Objective:
    """The loss of a recipe: ``objective(student, images, labels)``, a scalar with a gradient.

    Labels are pooled on the device of the images, and no dense target of all classes and tokens is made. Nothing waits
    for the device.

    Args:
        recipe: its target, smoothing, pooling, mixing and loss are used.
        num_classes: C.
        grid_hw: (h, w) of the student's tokens, for target "token".
        maps: what pools the tickets, for targets that need a store.
        seed: of the mixing; processes that train together need different ones.

    Raises:
        InvalidValueError: target "token" without a grid, or a correction by the ground truth that is not defined.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        grid_hw: tuple[int, int] | None = None,
        *,
        maps: relabel.LabelMaps | None = None,
        seed: int | None = None,
    ) -> None:
        self._recipe, self._num_classes, self._grid_hw, self._maps = recipe, num_classes, grid_hw, maps
        if recipe.target == "token" and grid_hw is None:
            raise InvalidValueError(f"target token needs a student that answers tokens; {recipe.model} does not")
        if recipe.ground_truth is not None and (recipe.target != "token" or recipe.mixing in _MIXERS):
            raise InvalidValueError(
                "ground_truth corrects the image labels of target token, without cutmix and mixup; "
                f"got target {recipe.target} and mixing {recipe.mixing}"
            )
        mixer = _MIXERS.get(recipe.mixing)
        self._mixer = mixer(recipe.mixing_alpha, recipe.mixing_probability, seed=seed) if mixer else None
        self._token_loss = TokenLabelingLoss(token_weight=recipe.token_weight, correction=recipe.ground_truth)

    def __call__(self, student: nn.Module, images: Tensor, labels: Tensor, *, mixes: bool = True) -> Tensor:
        """The loss of a batch, float32.

        Args:
            student: as `student_models.build_student` makes it, in training; may be wrapped for many devices.
            images: (B, 3, h, w) floating, normalised.
            labels: tickets (B, 11), or classes (B,) for the targets that need no store; int64, best on the CPU. For
                target "teacher", and wherever they are known by other means, the soft labels (B, C) floating.
            mixes: whether the recipe's mixing happens (not in its last epochs).
        """
        classes: Tensor | None = None
        targets: list[Labels] = [labels]
        if not labels.is_floating_point():
            if self._recipe.target == "teacher":
                raise InvalidValueError(f"target teacher needs soft labels (B, C); got {tuple(labels.shape)} integers")
            classes = labels if labels.ndim == 1 else relabel.ground_truth(labels)
            classes = classes.to(images.device, non_blocking=True)
            targets = self._targets(labels, classes)
        if mixes and self._mixer is not None:
            images, *targets = self._mixer(images, *targets)
        answer = student(images)
        if not isinstance(answer, TokenAnswer):
            return soft_cross_entropy(answer, targets[0])
        share = None if answer.box is None else answer.share
        ground_truth = None if self._recipe.ground_truth is None else classes
        logits = (answer.image_logits, answer.token_logits)
        loss: Tensor = self._token_loss(logits, *targets, share=share, ground_truth=ground_truth)
        return loss

    def _targets(self, labels: Tensor, classes: Tensor) -> list[Labels]:
        """The image labels, and for target "token" those of the tokens."""
        recipe = self._recipe
        if not recipe.uses_store:
            one_hot = torch.zeros(len(classes), self._num_classes, device=classes.device)
            one_hot.scatter_(1, classes.unsqueeze(1), 1)
            return [one_hot * (1 - recipe.smoothing) + recipe.smoothing / self._num_classes]
        if self._maps is None:
            raise InvalidValueError(f"target {recipe.target} needs the maps of a store, and got none")
        maps, views = self._maps.maps_of(labels, classes.device)
        if recipe.published == "as-shipped":
            grid_hw = self._grid_hw if recipe.target == "token" else None
            return list(shipped_targets(maps, views, grid_hw, recipe.smoothing))
        # What a cell does not list has logit 0 in both; only boxes are widened to a cell as published.
        fill: Fill = "zero" if recipe.published and not bool(views.is_affine.any()) else "rest"
        sizes = (None, self._grid_hw) if recipe.target == "token" else (None,)
        image_labels, *token_labels = [
            _smoothed(
                maps.pool(
                    views, size, sparse=True, space=recipe.space, temperature=recipe.temperature, uncovered="nearest",
                    fill=fill,
                ),
                recipe.smoothing,
            )
            for size in sizes
        ]  # fmt: skip
        return [image_labels, *map(_weighed, token_labels)]


def _weighed(labels: SparseLabels) -> SparseLabels:
    """Token labels that count as much as their token shows of the image; all that is shown counts as before.

    Where RandAugment shifts, turns or shears a crop, some tokens show nothing but its fill, of which no teacher said
    anything: of the published recipe 3 %, in every sixth image. A cross-entropy is linear in its target, so that what
    a label is multiplied by is what its token counts.
    """
    # Not of 0 where a batch shows nothing at all.
    weights = labels.covered / labels.covered.mean().clamp(min=1e-3)
    return replace(labels, probabilities=labels.probabilities * weights.unsqueeze(1), other=labels.other * weights)


def _smoothed(labels: SparseLabels, smoothing: float) -> SparseLabels:
    """Labels of which a part is spread evenly over all classes; they sum to 1 as before."""
    if not smoothing:
        return labels
    evenly = smoothing / labels.num_classes
    return replace(
        labels,
        probabilities=labels.probabilities * (1 - smoothing) + evenly,
        other=labels.other * (1 - smoothing) + evenly,
    )
