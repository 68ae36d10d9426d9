"""A user's own teacher, ``package.module:function``.

What it returns is a module that answers (B, C) and is made dense, or one or a callable that answers (B, C, H, W).
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from relabel.ambient import same_place, torch_defaults
from relabel.errors import TeacherError
from relabel.manifest import Preprocessing
from relabel.teacher import weights
from relabel.teacher.blame import blaming
from relabel.teacher.checkpoints import Told
from relabel.teacher.sources.fetched import Fetched, chosen, split_place
from relabel.teacher.spec import TeacherSpec

_log = logging.getLogger(__name__)


def fetch(spec: TeacherSpec) -> Fetched:
    """Call the user's function.

    Raises:
        TeacherError: it cannot be imported or called, raises, or returns what is no teacher.
    """
    if spec.checkpoint is not None or spec.random_weights is not None:
        raise TeacherError(f"{spec.name} brings its own weights; leave --checkpoint and --random-weights out")
    name, place = split_place(spec.name)
    model = _called(name)
    return Fetched(
        model=model,
        digest=weights.digest_of(model),
        preprocessing=_preprocessing(spec, model),
        place=place,
        class_names=_class_names(spec.name, model),
        way_out="Mend it, or give its --image-size",
    )


def _called(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    with (
        blaming(
            f"cannot import the teacher {name}",
            "Expected package.module:function, its folder being on PYTHONPATH, or torchvision:MODEL or "
            "transformers:MODEL",
        ),
        torch_defaults(),
        same_place(),
    ):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise TeacherError(
            f"{module_name} has no function {function_name!r} for the teacher {name}; expected package.module:function"
        )
    with (
        blaming(f"{name}() fails", "It must return a module or callable, and takes no arguments"),
        torch_defaults(),
        same_place(),
    ):
        model = function()
    if not callable(model):
        raise TeacherError(
            f"{name} returns a {type(model).__name__}; expected a module or callable from normalised images "
            "(B, 3, h, w) to logits (B, C, H, W)"
        )
    return model


def _class_names(name: str, model: object) -> tuple[str, ...] | None:
    """What the model says of its classes: ``class_names``, optional."""
    said = getattr(model, "class_names", None)
    if said is None:
        return None
    if isinstance(said, str) or not all(isinstance(each, str) for each in said):
        raise TeacherError(f"{name} has class_names that are not strings; expected one for each class, in their order")
    return tuple(said)


def _preprocessing(spec: TeacherSpec, model: object) -> Preprocessing:
    """What the model says of its images: ``image_size_hw``, ``mean``, ``std``, ``interpolation``, all optional."""
    unsaid = [name for name in ("mean", "std") if not hasattr(model, name) and getattr(spec, name) is None]
    if unsaid:
        _log.warning(
            "%s does not say its %s: it is given pixels in [0, 1]. If it was trained otherwise, let what it returns "
            "have these attributes, or give --mean and --std",
            spec.name,
            " and ".join(unsaid),
        )
    with blaming(
        f"{spec.name} says of its images what cannot be used",
        "Expected image_size_hw = (height, width), mean and std of three numbers, interpolation bilinear or bicubic",
    ):
        height, width = getattr(model, "image_size_hw", (224, 224))
        mean, std = (
            tuple(float(v) for v in getattr(model, name, default))
            for name, default in (("mean", (0.0,) * 3), ("std", (1.0,) * 3))
        )
        interpolation: Any = getattr(model, "interpolation", "bilinear")
        if len(mean) != 3 or len(std) != 3 or interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"mean {mean}, std {std}, interpolation {interpolation!r}")
        own = Preprocessing(image_size_hw=(int(height), int(width)), mean=mean, std=std, interpolation=interpolation)
    return chosen(spec, own, Told())
