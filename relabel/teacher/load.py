"""From a `TeacherSpec` to a proved `Teacher`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import InvalidValueError, TeacherError
from relabel.geometry import Grid
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.dense import DenseClassifier, find_layout
from relabel.teacher.proof import Proof, prove
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.teacher import Teacher
from relabel.teacher.weights import digest_of, load_weights, randomise, read_state_dict


def load_teacher(spec: TeacherSpec) -> Teacher:
    """Build, load and prove a teacher.

    Raises:
        TeacherError: unknown name, weights that cannot be had or do not fit, an input size it does not take, or a head
            that cannot be proved; says what to do.
    """
    device = _device(spec.device)
    return _given(spec, device) if ":" in spec.name else _from_timm(spec, device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(
            f"no device {name!r} here: {str(error).partition(chr(10))[0]}. Use --device cpu or cuda"
        ) from error
    return device


def _from_timm(spec: TeacherSpec, device: torch.device) -> Teacher:
    import timm.data

    model = _timm_model(spec)
    config = timm.data.resolve_model_data_config(model)
    default_hw = tuple(config["input_size"][1:])
    preprocessing = Preprocessing(
        image_size_hw=spec.image_size_hw or default_hw,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        fit=spec.fit,
    )
    if preprocessing.image_size_hw != default_hw and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=preprocessing.image_size_hw)
    digest = digest_of(model)
    model = model.to(device)
    # A fixed pattern, so that a proof never fails or passes by chance.
    noise = torch.randn(2, 3, *preprocessing.image_size_hw, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        layout = find_layout(model, spec.name, noise)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if isinstance(error, InvalidValueError):
            raise
        height, width = preprocessing.image_size_hw
        raise TeacherError(
            f"{spec.name} does not take images of {height} x {width} pixels: {str(error).partition(chr(10))[0]}. "
            f"Its own size is {default_hw[0]} x {default_hw[1]}"
        ) from error
    dense = DenseClassifier(model, layout)
    proof = prove(dense, spec.name, noise)
    return _teacher(spec, dense, preprocessing, proof, digest)


def _timm_model(spec: TeacherSpec) -> Any:
    import timm

    if not timm.is_model(spec.name.partition(".")[0]):
        close = difflib.get_close_matches(spec.name, timm.list_models(), n=5, cutoff=0.5)
        raise TeacherError(
            f"timm has no model {spec.name!r}"
            + (f"; did you mean {', '.join(close)}?" if close else "")
            + " A teacher is a timm model name or package.module:function"
        )
    if spec.checkpoint is not None:
        model = _with_checkpoint(spec)
    elif spec.random_weights is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_weights)
            model = timm.create_model(spec.name)
            randomise(model)
    else:
        try:
            model = timm.create_model(spec.name, pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise TeacherError(
                f"the pretrained weights of {spec.name} cannot be had: {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}. Download them where there is a network and give "
                "--checkpoint FILE, or --random-weights SEED for a benchmark"
            ) from error
    if not getattr(model, "num_classes", 0):
        raise TeacherError(
            f"{spec.name} has no classifier, so it has nothing to say of classes; take a variant with one"
        )
    return model.eval().requires_grad_(False)


def _with_checkpoint(spec: TeacherSpec) -> Any:
    import timm

    tensors = read_state_dict(spec.checkpoint) if spec.checkpoint else {}
    classes = _classes_in(timm.create_model(spec.name), tensors)
    model = timm.create_model(spec.name, **classes)
    try:
        load_weights(model, tensors, spec.name)
    except TeacherError:
        if spec.image_size_hw is None or not hasattr(model, "set_input_size"):
            raise
        # Weights of a model that was trained at the size asked for have position embeddings of that size.
        model.set_input_size(img_size=spec.image_size_hw)
        load_weights(model, tensors, f"{spec.name} at {spec.image_size_hw[0]} x {spec.image_size_hw[1]}")
    return model


def _classes_in(model: Any, tensors: dict[str, Tensor]) -> dict[str, int]:
    """The number of classes that a checkpoint was made for, by the shape of its classifier."""
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    name = classifier[0] if isinstance(classifier, (tuple, list)) else classifier
    weight = tensors.get(f"{name}.weight")
    return {} if weight is None else {"num_classes": weight.shape[0]}


def _given(spec: TeacherSpec, device: torch.device) -> Teacher:
    """A user's own ``package.module:function``; what it returns answers (B, C, H, W) by itself."""
    if spec.checkpoint is not None or spec.random_weights is not None:
        raise TeacherError(f"{spec.name} brings its own weights; leave --checkpoint and --random-weights out")
    module_name, _, function_name = spec.name.partition(":")
    try:
        model = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError) as error:
        raise TeacherError(f"cannot take the teacher {spec.name}: {error}. Expected package.module:function") from error
    preprocessing = Preprocessing(
        image_size_hw=spec.image_size_hw or tuple(getattr(model, "image_size_hw", (224, 224))),
        mean=tuple(getattr(model, "mean", (0.0, 0.0, 0.0))),
        std=tuple(getattr(model, "std", (1.0, 1.0, 1.0))),
        fit=spec.fit,
    )
    if isinstance(model, nn.Module):
        model = model.to(device).eval().requires_grad_(False)
    return _teacher(spec, model, preprocessing, Proof("given", 0.0, 0.0, True), digest_of(model))


def _teacher(
    spec: TeacherSpec, model: Callable[[Tensor], Tensor], preprocessing: Preprocessing, proof: Proof, digest: str
) -> Teacher:
    device = _device(spec.device)
    with torch.inference_mode():
        blank = model(torch.zeros(1, 3, *preprocessing.image_size_hw, device=device))
    if not isinstance(blank, Tensor) or blank.ndim != 4 or not blank.is_floating_point():
        shape = tuple(blank.shape) if isinstance(blank, Tensor) else type(blank).__name__
        raise TeacherError(f"{spec.name} answers {shape} for one image; expected floating logits (1, C, H, W)")
    if spec.channels_last and isinstance(model, nn.Module):
        # torch's stubs lack the overload that takes a memory format alone.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = "given" if proof.kind == "given" else "pretrained"
    if spec.random_weights is not None:
        weights = f"random:{spec.random_weights}"
    elif spec.checkpoint is not None:
        weights = "checkpoint"
    return Teacher(
        forward=torch.compile(model) if spec.compile else model,
        num_classes=blank.shape[1],
        grid=Grid(*blank.shape[2:]),
        preprocessing=preprocessing,
        record=TeacherRecord(
            name=spec.name, weights=weights, weights_digest=digest, head=proof.kind, precision=spec.precision
        ),
        proof=proof,
        device=device,
        channels_last=spec.channels_last,
    )
