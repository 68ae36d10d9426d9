"""Classifiers out of transformers: ``transformers:owner/name`` of the hub, or ``transformers:FOLDER`` on disk."""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing
from relabel.paths import expanded
from relabel.teacher import weights
from relabel.teacher.blame import blaming
from relabel.teacher.checkpoints import Checkpoint, Told, read_checkpoint
from relabel.teacher.sources.fetched import Fetched, chosen, split_place
from relabel.teacher.spec import TeacherSpec

PREFIX = "transformers:"

_BILINEAR = 2
"""As Pillow numbers it."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fetch(spec: TeacherSpec) -> Fetched:
    """Build and load an image classifier of transformers; code that comes with a model is never run.

    Raises:
        TeacherError: transformers is not installed, an unknown name, weights that cannot be had or do not fit, or a
            model that takes more than images.
    """
    transformers = _transformers()
    wanted = spec.name.removeprefix(PREFIX)
    wanted = str(expanded(wanted)) if wanted.startswith("~") else wanted
    name, place = (wanted, "") if Path(wanted).is_dir() else split_place(wanted)
    with blaming(
        f"the configuration of {spec.name} cannot be had",
        "Expected the owner/name of a model on the Hugging Face hub, or a folder with config.json, "
        "preprocessor_config.json and model.safetensors",
    ):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    checkpoint = None if spec.checkpoint is None else read_checkpoint(spec.checkpoint)
    own, is_bgr = _own_preprocessing(transformers, spec, name, config)
    model, class_names = _model(transformers.AutoModelForImageClassification, spec, name, config, checkpoint)
    if model.main_input_name != "pixel_values":
        raise TeacherError(
            f"{spec.name} takes {model.main_input_name}, not images alone, so it cannot be a teacher. Take another"
        )
    return Fetched(
        digest=weights.digest_of(model),
        model=_plain(model, is_bgr),
        preprocessing=chosen(spec, own, checkpoint.told if checkpoint else Told()),
        place=place,
        class_names=class_names,
        way_out=f"Its own size is {own.image_size_hw[0]} x {own.image_size_hw[1]}; give another --image-size",
    )


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise TeacherError(
            f"teachers of transformers need transformers, which cannot be imported ({error}). "
            "Install the extra: pip install '.[transformers]' in the clone"
        ) from error


def _model(
    auto: Any, spec: TeacherSpec, name: str, config: Any, checkpoint: Checkpoint | None
) -> tuple[Any, tuple[str, ...] | None]:
    """The model with its weights in float32, and the names of its classes where they are known."""

    def create(num_classes: int | None) -> Any:
        if num_classes is not None:
            config.num_labels = num_classes
        with blaming(f"transformers cannot build an image classifier of {spec.name}", "Take another --teacher"):
            return auto.from_config(config, dtype=torch.float32)

    if spec.random_weights is not None:
        return weights.with_random_weights(create, spec.random_weights), None
    if checkpoint is not None:
        model = weights.with_classes_of(checkpoint.tensors, create(None), create)
        weights.load_weights(model, checkpoint.tensors, spec.name)
        return model, checkpoint.told.class_names
    with blaming(
        f"the pretrained weights of {spec.name} cannot be had",
        "Download the model where there is a network and give its folder, or --random-weights SEED for a benchmark",
    ):
        model, report = auto.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    if report["missing_keys"]:
        raise TeacherError(
            f"the weights of {spec.name} lack {', '.join(sorted(report['missing_keys'])[:5])}, ...: it was not trained "
            "to classify, or as another model. Take one that was, or give --checkpoint FILE with all weights"
        )
    return model, _class_names(model.config)


def _plain(model: Any, is_bgr: bool) -> nn.Module:
    """The same model from images alone to logits alone, by hooks, so that its submodules keep their names."""
    config = getattr(model.config, "vision_config", model.config)
    own = getattr(config, "image_size", None)
    own_hw = (own, own) if isinstance(own, int) else own and tuple(own)
    takes = inspect.signature(model.forward).parameters
    can_interpolate = "interpolate_pos_encoding" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())

    def named(_model: nn.Module, inputs: tuple[Tensor], _named: object) -> tuple[tuple[()], dict[str, object]]:
        images = inputs[0].flip(1) if is_bgr else inputs[0]
        is_other = own_hw is not None and images.shape[2:] != own_hw
        return (), {"pixel_values": images} | (
            {"interpolate_pos_encoding": True} if is_other and can_interpolate else {}
        )

    def logits(_model: nn.Module, _inputs: object, output: Any) -> object:
        # Of the classifiers, PP-LCNet alone calls its logits otherwise.
        return output.get("logits", output[0])

    model.register_forward_pre_hook(named, with_kwargs=True)
    model.register_forward_hook(logits)
    return model  # type: ignore[no-any-return]


def _own_preprocessing(transformers: Any, spec: TeacherSpec, name: str, config: Any) -> tuple[Preprocessing, bool]:
    """What the model's processor makes of images, and whether the model takes their channels in reversed order."""
    try:
        with blaming("its processor cannot be had", ""):
            processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except TeacherError as error:
        if spec.random_weights is None and (spec.mean is None or spec.std is None):
            raise TeacherError(
                f"what {spec.name} takes is not known: {error}Give its folder a preprocessor_config.json, or give "
                "--mean and --std"
            ) from error
        size_hw = _size_hw(getattr(config, "image_size", None))
        return Preprocessing(image_size_hw=size_hw, mean=_IMAGENET_MEAN, std=_IMAGENET_STD), False
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size_hw = _size_hw(crop or getattr(processor, "size", None) or getattr(config, "image_size", None))
    with blaming(f"the processor of {spec.name} is not understood", "Take another model"):
        mean, std, is_bgr = _asked(processor)
    return (
        Preprocessing(
            image_size_hw=size_hw,
            mean=mean,
            std=std,
            interpolation="bilinear" if getattr(processor, "resample", None) == _BILINEAR else "bicubic",
        ),
        is_bgr,
    )


def _asked(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and deviation of RGB pixels in [0, 1], and whether the order is reversed.

    By what the processor makes of a black, a white and a red image: some rescale, normalise twice or not at all, and
    some turn RGB into BGR, each told by options of its own.
    """
    colours = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    colours[1], colours[2, 0] = 255, 255
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    black, white, red = processor(images=list(colours), **options)["pixel_values"].double().mean((2, 3))
    is_bgr = bool((red - black).abs().argmax() == 2)
    std = 1 / (white - black)
    found = {"mean": (-black * std).tolist(), "std": std.tolist()}
    for which, values in found.items():
        said = getattr(processor, f"image_{which}", None) or ()
        # What it says has no rounding error.
        if len(said) == 3 and all(math.isclose(*pair, abs_tol=1e-5) for pair in zip(values, said, strict=True)):
            found[which] = list(map(float, said))
    mean, std_of = (tuple(reversed(v)) if is_bgr else tuple(v) for v in found.values())
    return mean, std_of, is_bgr


def _size_hw(size: Any) -> tuple[int, int]:
    """(height, width) of what a processor or a configuration calls size; 224 x 224 where it says nothing."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (tuple, list)):
        return int(size[0]), int(size[-1])
    sides = dict(size or {})
    edge = sides.get("shortest_edge") or sides.get("longest_edge") or 224
    return int(sides.get("height") or edge), int(sides.get("width") or edge)


def _class_names(config: Any) -> tuple[str, ...] | None:
    """The classes' names, if the model has any."""
    names = tuple(str(config.id2label.get(number, "")) for number in range(config.num_labels))
    return None if all(name in ("", f"LABEL_{number}") for number, name in enumerate(names)) else names
