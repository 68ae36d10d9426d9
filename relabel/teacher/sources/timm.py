"""Classifiers out of timm: by name, with its own, a file's or random weights."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing
from relabel.teacher import weights
from relabel.teacher.blame import blaming
from relabel.teacher.checkpoints import Checkpoint, Told, read_checkpoint
from relabel.teacher.classes import imagenet_classes
from relabel.teacher.sources.fetched import Fetched, chosen
from relabel.teacher.spec import TeacherSpec

_log = logging.getLogger(__name__)


def fetch(spec: TeacherSpec) -> Fetched:
    """Build and load a timm classifier.

    Raises:
        TeacherError: an unknown name, weights that cannot be had or do not fit, or an input that the model does not
            take.
    """
    _check_name(spec.name)
    checkpoint = None if spec.checkpoint is None else read_checkpoint(spec.checkpoint)
    told = checkpoint.told if checkpoint else Told()
    _check_architecture(spec, told)
    model, class_names = _model(spec, checkpoint)
    if not getattr(model, "num_classes", 0):
        raise TeacherError(
            f"{spec.name} has no classifier, so it has nothing to say of classes; take a variant with one, or give "
            "--checkpoint FILE with weights that have one"
        )
    digest = weights.digest_of(model)
    preprocessing, own_hw = _preprocessing(spec, model, told)
    way_out = f"Its own size is {own_hw[0]} x {own_hw[1]}; give another --image-size"
    size_hw = preprocessing.image_size_hw
    if size_hw != own_hw and hasattr(model, "set_input_size"):
        with blaming(f"{spec.name} does not take images of {size_hw[0]} x {size_hw[1]} pixels", way_out):
            model.set_input_size(img_size=size_hw)
    return Fetched(
        model=model,
        digest=digest,
        preprocessing=preprocessing,
        class_names=class_names,
        is_imagenet=True,
        way_out=way_out,
    )


def _check_name(name: str) -> None:
    import timm

    if ":" in name:
        return
    if os.path.isdir(name):  # noqa: PTH112 - Path's raises for a name that is too long for one
        raise TeacherError(f"{name} is a folder. One that transformers saved is given as transformers:{name}")
    architecture, _, tag = name.partition(".")
    known = timm.is_model(architecture)
    tagged = timm.list_models(f"{architecture}.*", include_tags=True) if known and tag else []
    if known and (not tag or name in tagged):
        return
    close = difflib.get_close_matches(name.lower(), tagged if known else timm.list_models(), n=5, cutoff=0.5)
    raise TeacherError(
        f"timm has no {f'weights {tag!r} of {architecture}' if known else f'model {name!r}'}. "
        + (f"Did you mean {', '.join(close)}? " if close else "")
        + "A teacher is a timm model name, hf-hub:owner/name, torchvision:NAME, transformers:NAME_OR_FOLDER, or "
        "package.module:function"
    )


def _check_architecture(spec: TeacherSpec, told: Told) -> None:
    import timm

    asked, trained = spec.name.partition(".")[0], told.architecture.partition(".")[0]
    # Names that timm has given up stand for models of today, and those of other libraries for nothing that it knows.
    if trained and ":" not in asked and asked != trained and trained in timm.list_models(trained):
        raise TeacherError(
            f"{spec.checkpoint} says that its weights are of {trained}, and --teacher is {asked}: leave --teacher out. "
            "Where the file is wrong, save its state dict alone"
        )


def _model(spec: TeacherSpec, checkpoint: Checkpoint | None) -> tuple[Any, tuple[str, ...] | None]:
    """The model with its weights, and the names of its classes where they are known."""
    import timm

    def create(num_classes: int | None) -> Any:
        # timm leaves out what is None.
        arguments = checkpoint.told.model_args if checkpoint else {}
        with blaming(f"timm cannot build {spec.name}", "Take another teacher"):
            return timm.create_model(spec.name, num_classes=num_classes, **arguments)

    if spec.random_weights is not None:
        return weights.with_random_weights(create, spec.random_weights), None
    if checkpoint is not None:
        model: Any = create(None)
        tensors = in_timms_names(model, checkpoint.tensors)
        model = weights.with_classes_of(tensors, model, create)
        load_at_sizes(model, tensors, spec.name, (checkpoint.told.image_size_hw, spec.image_size_hw))
        return model, checkpoint.told.class_names
    with blaming(
        f"the pretrained weights of {spec.name} cannot be had",
        "Download them where there is a network and give --checkpoint FILE, or --random-weights SEED for a benchmark",
    ):
        model = timm.create_model(spec.name, pretrained=True)
    said = model.pretrained_cfg.get("label_names")
    if not isinstance(said, (list, tuple)):
        said = (imagenet_classes(model.num_classes) or {}).values()
    return model, tuple(map(str, said)) or None


def load_at_sizes(
    model: Any, tensors: dict[str, Tensor], name: str, sizes_hw: Sequence[tuple[int, int] | None]
) -> None:
    """Load weights into a timm model of its own size, or else of the first of some sizes (height, width) that fits.

    Weights of a model that was trained at another size have position embeddings of that size.

    Raises:
        TeacherError: they fit at none; says what differs at the last.
    """
    what = name
    for size_hw in (None, *dict.fromkeys(size for size in sizes_hw if size and hasattr(model, "set_input_size"))):
        if size_hw is not None:
            what = f"{name} at {size_hw[0]} x {size_hw[1]}"
            with blaming(f"{name} does not take images of {what[len(name) + 4 :]} pixels", "Give another --image-size"):
                model.set_input_size(img_size=size_hw)
        try:
            weights.load_weights(model, tensors, what)
        except TeacherError as error:
            refused = error
        else:
            return
    raise refused


def in_timms_names(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint in its authors' names as timm renames it; as it was, if timm does not, or has to make up numbers."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = (name for name in model.state_dict() if not name.endswith("num_batches_tracked"))
    if convert is None or all(name in tensors for name in own):
        return tensors
    try:
        renamed: dict[str, Tensor] = convert(dict(tensors), model)
    except Exception as error:  # noqa: BLE001
        # It knows the names of one publication, and what it makes of others is an error of any kind.
        _log.debug("timm does not rename these weights: %r", error)
        return tensors
    # Resampled position embeddings, or a classifier out of a projection of CLIP, are not the teacher that was trained.
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return renamed if all(tensor.untyped_storage().data_ptr() in given for tensor in renamed.values()) else tensors


def _preprocessing(spec: TeacherSpec, model: nn.Module, told: Told) -> tuple[Preprocessing, tuple[int, int]]:
    """The images that the model takes, and its own (height, width)."""
    import timm.data.config

    resolve: Callable[[nn.Module], dict[str, Any]] = timm.data.config.resolve_model_data_config
    config = resolve(model)
    channels, *own_hw = config["input_size"]
    if channels != 3:
        raise TeacherError(f"{spec.name} takes images of {channels} channels; a teacher takes 3. Take another")
    height, width = own_hw
    own = Preprocessing(
        image_size_hw=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
    return chosen(spec, own, told), (height, width)
