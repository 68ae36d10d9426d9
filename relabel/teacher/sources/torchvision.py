"""Classifiers out of torchvision: ``torchvision:resnet50``, ``torchvision:resnet50.IMAGENET1K_V1``."""

from __future__ import annotations

import difflib
import re
from typing import Any

from torch import nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing
from relabel.teacher import weights
from relabel.teacher.blame import blaming
from relabel.teacher.checkpoints import Checkpoint, Told, read_checkpoint
from relabel.teacher.sources.fetched import Fetched, chosen, split_place
from relabel.teacher.spec import TeacherSpec

PREFIX = "torchvision:"

_AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")
"""Classifiers of GoogLeNet and Inception that only training asks."""

_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_2\."), r"\g<1>3."),
)
"""How the weights that torchvision publishes still call layers that it has since renamed."""


def fetch(spec: TeacherSpec) -> Fetched:
    """Build and load a torchvision classifier.

    Raises:
        TeacherError: an unknown name, weights that cannot be had or do not fit, or an input that the model does not
            take.
    """
    name, place = split_place(spec.name.removeprefix(PREFIX))
    architecture, _, tag = name.partition(".")
    published: Any = _published(architecture, tag)
    transforms = published.transforms()
    own = Preprocessing(
        image_size_hw=(_size(published), _size(published)),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation="bilinear" if transforms.interpolation.value == "bilinear" else "bicubic",
    )
    checkpoint = None if spec.random_weights is not None else _checkpoint(spec, published)
    preprocessing = chosen(spec, own, checkpoint.told if checkpoint else Told())
    model = _model(spec, architecture, published, preprocessing, checkpoint)
    return Fetched(
        digest=weights.digest_of(model),
        model=_for_size(model, architecture, preprocessing.image_size_hw),
        preprocessing=preprocessing,
        place=place,
        class_names=checkpoint.told.class_names if checkpoint else None,
        is_imagenet=True,
        way_out=f"Its own size is {_size(published)} x {_size(published)}; give another --image-size",
    )


def _published(architecture: str, tag: str) -> Any:
    """One of torchvision's published weights of an architecture."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    if architecture not in names:
        close = difflib.get_close_matches(architecture.lower(), names, n=5, cutoff=0.5)
        raise TeacherError(
            f"torchvision has no classifier {architecture!r}. "
            + (f"Did you mean {', '.join(close)}? " if close else "")
            + "A teacher of torchvision's is torchvision:MODEL or torchvision:MODEL.WEIGHTS"
        )
    weights: dict[str, Any] = models.get_model_weights(architecture).__members__
    if (tag or "DEFAULT") not in weights:
        raise TeacherError(f"torchvision has no weights {tag!r} of {architecture}; it has {', '.join(weights)}")
    return weights[tag or "DEFAULT"]


def _size(published: Any) -> int:
    return int(published.transforms().crop_size[0])


def _model(
    spec: TeacherSpec, architecture: str, published: Any, images: Preprocessing, checkpoint: Checkpoint | None
) -> nn.Module:
    """The model with its weights, the random ones of the spec's seed without a checkpoint, for images of their size."""
    options: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    if architecture.startswith("maxvit"):
        options["input_size"] = images.image_size_hw

    def create(num_classes: int | None) -> nn.Module:
        return _create(architecture, options if num_classes is None else {**options, "num_classes": num_classes})

    if checkpoint is None:
        if architecture.startswith("vit"):
            options["image_size"] = _size(published)
        return weights.with_random_weights(create, spec.random_weights or 0)
    if (embedding := checkpoint.tensors.get("encoder.pos_embedding")) is not None and embedding.ndim == 3:
        patch = int(architecture.rpartition("_")[2])
        options["image_size"] = patch * round((embedding.shape[1] - 1) ** 0.5)
    model = weights.with_classes_of(checkpoint.tensors, create(None), create)
    weights.load_weights(model, checkpoint.tensors, spec.name)
    return model


def _create(architecture: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    with blaming(f"torchvision cannot build {architecture}", "Take another --teacher or --image-size"):
        return models.get_model(architecture, weights=None, **options)  # type: ignore[no-any-return]


def _checkpoint(spec: TeacherSpec, published: Any) -> Checkpoint:
    """A file's or the published tensors by the names that torchvision now gives them."""
    if spec.checkpoint is not None:
        found = read_checkpoint(spec.checkpoint)
    else:
        with blaming(
            f"the pretrained weights of {spec.name} cannot be had",
            f"Download {published.url} where there is a network and give it as --checkpoint, or give --random-weights "
            "SEED for a benchmark",
        ):
            tensors = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        found = Checkpoint(tensors, Told(class_names=tuple(published.meta["categories"])))
    tensors = found.tensors
    for pattern, now in _RENAMED:
        tensors = {pattern.sub(now, own): tensor for own, tensor in tensors.items()}
    tensors = {own: tensor for own, tensor in tensors.items() if not _AUXILIARY.match(own)}
    return Checkpoint(tensors, found.told)


def _for_size(model: Any, architecture: str, size_hw: tuple[int, int]) -> nn.Module:
    """The model for images of another size, its position embeddings resampled where it has them."""
    from torchvision.models import vision_transformer

    if not isinstance(model, vision_transformer.VisionTransformer) or size_hw == (model.image_size,) * 2:
        return model  # type: ignore[no-any-return]
    height, width = size_hw
    if height != width or height % model.patch_size:
        raise TeacherError(
            f"{PREFIX}{architecture} takes square images of whole patches of {model.patch_size} pixels; got "
            f"--image-size {height} {width}. Give such a size, or a vision transformer of timm's"
        )
    tensors = vision_transformer.interpolate_embeddings(height, model.patch_size, model.state_dict())
    resized = _create(architecture, {"image_size": height, "num_classes": model.num_classes})
    resized.load_state_dict(tensors)
    return resized
