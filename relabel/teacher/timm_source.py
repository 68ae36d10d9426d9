"""Teachers out of timm: by name, with its own, a file's or random weights, through the model's own head."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.blame import blaming
from relabel.teacher.candidate import Candidate, answer_of, noise_of
from relabel.teacher.dense import WAY_OUT, find_layout
from relabel.teacher.families import adapted
from relabel.teacher.preprocessing import chosen
from relabel.teacher.proof import proved
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.weights import digest_of, load_weights, randomise, read_state_dict, seeded

_log = logging.getLogger(__name__)

_HUB = ("hf-hub:", "hf_hub:")


def is_timm_name(name: str) -> bool:
    """Whether a teacher's name is timm's: anything without a colon, or a model of the hub."""
    return ":" not in name or name.startswith(_HUB)


def timm_candidate(spec: TeacherSpec, device: torch.device) -> Candidate:
    """Build, load and prove a timm classifier.

    Raises:
        TeacherError: an unknown name, weights that cannot be had or do not fit, an input that the model does not take,
            or a head that cannot be proved.
    """
    _check_name(spec.name)
    model, weights = _model(spec)
    if not getattr(model, "num_classes", 0):
        raise TeacherError(
            f"{spec.name} has no classifier, so it has nothing to say of classes; take a variant with one, or give "
            "--checkpoint FILE with weights that have one"
        )
    # Before the input size is set, so that one checkpoint is the same teacher at every size.
    digest = digest_of(model)
    preprocessing, own_hw = _preprocessing(spec, model)
    height, width = preprocessing.image_size_hw
    with blaming(f"{spec.name} cannot be moved to {device}", "Use another --device"):
        model = model.to(device).eval().requires_grad_(False)
    noise = noise_of(preprocessing, device)
    with blaming(
        f"{spec.name} does not take images of {height} x {width} pixels",
        f"Its own size is {own_hw[0]} x {own_hw[1]}; give another --image-size",
    ):
        _check_patches(model, height, width)
        if (height, width) != own_hw and hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(height, width))
        model = adapted(model)
        layout = find_layout(model, spec.name, noise)
    with blaming(f"the head of {spec.name} cannot be proved", WAY_OUT):
        dense, proof = proved(model, layout, spec.name, noise)
        answer = answer_of(dense, spec.name, noise[:1])
    record = TeacherRecord(
        name=spec.name, weights=weights, weights_digest=digest, head=proof.kind, precision=spec.precision
    )
    return Candidate(forward=dense, preprocessing=preprocessing, record=record, proof=proof, answer=answer)


def _check_patches(model: Any, height: int, width: int) -> None:
    """Refuse an input that patches do not divide: its last pixels would not be seen, and every cell be misplaced."""
    embedding: Any = getattr(model, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if not isinstance(patch, tuple) or len(patch) != 2 or getattr(embedding, "dynamic_img_pad", False):
        return
    if any(isinstance(m, nn.Conv2d) and m.kernel_size == patch != m.stride for m in embedding.modules()):
        # Patches that overlap (PVTv2) do not tile the image.
        return
    if height % patch[0] or width % patch[1]:
        raise ValueError(f"its patches of {patch[0]} x {patch[1]} pixels do not divide them")


def _check_name(name: str) -> None:
    import timm

    if name.startswith(_HUB):
        return
    if name and Path(name).is_dir():
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


def _model(spec: TeacherSpec) -> tuple[Any, str]:
    """The model with its weights, and what a manifest calls them."""
    if spec.checkpoint is not None:
        return _with_checkpoint(spec, read_state_dict(spec.checkpoint)), "checkpoint"
    if spec.random_weights is not None:
        return _with_random_weights(spec.name, spec.random_weights), f"random:{spec.random_weights}"
    import timm

    with blaming(
        f"the pretrained weights of {spec.name} cannot be had",
        "Download them where there is a network and give --checkpoint FILE, or --random-weights SEED for a benchmark",
    ):
        return timm.create_model(spec.name, pretrained=True), "pretrained"


def _create(name: str, num_classes: int | None = None) -> Any:
    import timm

    # timm leaves out what is None.
    with blaming(f"timm cannot build {name}", "Take another teacher"):
        return timm.create_model(name, num_classes=num_classes)


def _with_random_weights(name: str, seed: int) -> Any:
    with seeded(seed):
        model = _create(name)
        randomise(model)
    return model


def _with_checkpoint(spec: TeacherSpec, tensors: dict[str, Tensor]) -> Any:
    model = _create(spec.name)
    tensors = _in_timms_names(model, tensors)
    classes = _classes_in(model, tensors)
    if classes is not None and classes != model.num_classes:
        model = _create(spec.name, classes)
    try:
        load_weights(model, tensors, spec.name)
    except TeacherError:
        if spec.image_size_hw is None or not hasattr(model, "set_input_size"):
            raise
        # Weights of a model that was trained at the size asked for have position embeddings of that size.
        height, width = spec.image_size_hw
        with blaming(f"{spec.name} does not take images of {height} x {width} pixels", "Give another --image-size"):
            model.set_input_size(img_size=spec.image_size_hw)
        load_weights(model, tensors, f"{spec.name} at {height} x {width}")
    return model


def _in_timms_names(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint in its authors' names as timm renames it; as it was, if timm does not, or has to make up numbers."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = (name for name in model.state_dict() if not name.endswith("num_batches_tracked"))
    if convert is None or all(name in tensors for name in own):
        return tensors
    try:
        renamed: dict[str, Tensor] = convert(dict(tensors), model)
    except Exception as error:
        # It knows the names of one publication, and what it makes of others is an error of any kind.
        _log.debug("timm does not rename these weights: %r", error)
        return tensors
    # Resampled position embeddings, or a classifier out of a projection of CLIP, are not the teacher that was trained.
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return renamed if all(tensor.untyped_storage().data_ptr() in given for tensor in renamed.values()) else tensors


def _classes_in(model: nn.Module, tensors: dict[str, Tensor]) -> int | None:
    """The number of classes that a checkpoint was made for, by the shape of its classifier; None if it has none."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("classifier")
    weight = tensors.get(f"{name[0] if isinstance(name, (tuple, list)) and name else name}.weight")
    return None if weight is None or weight.ndim == 0 else weight.shape[0]


def _preprocessing(spec: TeacherSpec, model: nn.Module) -> tuple[Preprocessing, tuple[int, int]]:
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
    return chosen(spec, own), (height, width)
