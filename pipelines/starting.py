"""Where a student's first weights come from, and what its checkpoint says so that it can be a teacher, or go on.

``init`` of a recipe is "none" (random), "pretrained" (timm's own) or a file of weights: train_student.py's, a published
one, any state dict. Mean and deviation of the images, and what the model is built with, are then those of the weights.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from pipelines.recipe import Recipe
from relabel.errors import InvalidValueError, TeacherError
from relabel.paths import expanded
from relabel.teacher.blame import blaming
from relabel.teacher.checkpoints import Checkpoint, Told, read_checkpoint
from relabel.teacher.sources.timm import in_timms_names, load_at_sizes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A recipe that says all of its images, and the file of its first weights, None where it names none.

    `is_whole`: the file must have the classifier, too, which may not start anew.
    """

    recipe: Recipe
    checkpoint: Checkpoint | None
    is_whole: bool = False


def start_of(recipe: Recipe) -> Start:
    """Read what a recipe starts from.

    Raises:
        InvalidValueError: the file is of another model than the recipe's.
        TeacherError: the file is none of weights.
    """
    file = None if recipe.init in ("none", "pretrained") else read_checkpoint(expanded(recipe.init))
    told = file.told if file else Told()
    if told.architecture and _plain(told.architecture) != _plain(recipe.model):
        raise InvalidValueError(
            f"{recipe.init} says that its weights are of {told.architecture}, and --model is {recipe.model}: they must "
            "be the same"
        )
    own: Any = None
    if recipe.init != "none" and timm.is_model(_plain(recipe.model)):
        own = timm.get_pretrained_cfg(recipe.model)
    mean = recipe.mean or told.mean or (own.mean if own else IMAGENET_DEFAULT_MEAN)
    std = recipe.std or told.std or (own.std if own else IMAGENET_DEFAULT_STD)
    options = {**told.model_args, **recipe.model_options}
    return Start(dataclasses.replace(recipe, mean=tuple(mean), std=tuple(std), model_options=options), file)


def created(recipe: Recipe, **options: Any) -> Any:
    """timm's model of a recipe, with random or pretrained weights.

    Raises:
        TeacherError: the pretrained ones cannot be had.
    """
    if recipe.init != "pretrained":
        return timm.create_model(recipe.model, **options)
    with blaming(
        f"the pretrained weights of {recipe.model} cannot be had",
        "Download them where there is a network and give --init FILE",
    ):
        model: Any = timm.create_model(recipe.model, pretrained=True, **options)
    if model.num_classes != model.pretrained_cfg["num_classes"]:
        model.load_state_dict(_fresh(model, model.state_dict()), strict=False)
    return model


def load_first(model: Any, start: Start, class_names: Sequence[str]) -> None:
    """Put a file's weights into a timm model that has random ones; its classifier only where it is of these classes.

    Position embeddings of another size are taken as they are: `set_input_size` resamples them afterwards.

    Raises:
        InvalidValueError: the weights do not fit the model, or lack the classifier where it must be theirs.
    """
    file, name = start.checkpoint, start.recipe.model
    if file is None:
        return
    tensors = in_timms_names(model, file.tensors)
    heads, own = head_names(model), model.state_dict()
    is_same = file.told.class_names is None or file.told.class_names == tuple(class_names)
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(heads) or (is_same and key in own and own[key].shape == tensor.shape)
    }
    fresh = _fresh(model, {key: tensor for key, tensor in own.items() if key not in kept})
    if fresh and start.is_whole:
        raise InvalidValueError(
            f"{start.recipe.init} has no classifier ({', '.join(fresh)}) of its {len(class_names)} classes: what would "
            "be judged is a random one. Give a file of all its weights, with as many class_names as they answer"
        )
    if fresh:
        _log.warning("%s: the classifier (%s) starts anew, for other classes", start.recipe.init, ", ".join(fresh))
    try:
        load_at_sizes(model, kept | fresh, name, (file.told.image_size_hw, (start.recipe.image_size,) * 2))
    except TeacherError as error:
        reason = str(error).partition(". Give")[0]
        raise InvalidValueError(f"--init {start.recipe.init}: {reason}. Give the --model that it is of") from error


def _fresh(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a classifier, as it starts on features that are learned: small, so that it answers nothing at first.

    timm starts some families' by the number of classes, 0.3 for ten: on 1,280 features that is a loss of 8 nats.
    """
    heads = head_names(model)
    start = {key: torch.zeros_like(tensor) for key, tensor in tensors.items() if key.startswith(heads)}
    for tensor in start.values():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=0.01)
    return start


def head_names(model: Any) -> tuple[str, ...]:
    """How the names of a timm model's classifying parameters begin: one layer, or several."""
    said = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((said,) if isinstance(said, str) else said))


def learn_heads(student: nn.Module, *, alone: bool) -> None:
    """Let only a student's classifiers learn, and the rest stand as in evaluation; or let all of it learn.

    Raises:
        InvalidValueError: its classifier is not known.
    """
    inner: Any = getattr(student, "model", student)
    heads = head_names(inner)
    if not heads:
        raise InvalidValueError(f"which layer of {type(inner).__name__} classifies is not known: give --head-epochs 0")
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(not alone or name.startswith(heads))
    if alone:
        # Statistics of norms, and dropped paths, are those of the weights that stand; what it answers is training's.
        for module in student.modules():
            module.training = module is student


def facts_of(recipe: Recipe, class_names: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says beside its weights, under timm's names: plain values of numbers, words and lists."""
    size = recipe.image_size
    return {
        "arch": recipe.model,
        "model_args": {name: list(v) if isinstance(v, tuple) else v for name, v in recipe.model_options.items()},
        "class_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "num_classes": len(class_names),
            "mean": list(recipe.mean or IMAGENET_DEFAULT_MEAN),
            "std": list(recipe.std or IMAGENET_DEFAULT_STD),
            "interpolation": validation_interpolation(recipe),
            "crop_pct": recipe.validation_crop,
        },
    }


def validation_interpolation(recipe: Recipe) -> str:
    """Of images that are not drawn at random."""
    return "bicubic" if recipe.interpolation == "random" else recipe.interpolation


def _plain(name: str) -> str:
    return name.partition(".")[0]
