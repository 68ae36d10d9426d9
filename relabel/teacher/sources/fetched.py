"""What every source of teachers hands over: a model with its weights, and what is known of it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing
from relabel.teacher.checkpoints import Told
from relabel.teacher.spec import TeacherSpec

_log = logging.getLogger(__name__)

_PLACE = re.compile(r"(.+)@([\w.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model on the CPU: normalised images (B, 3, h, w) to logits (B, C), or (B, C, H, W) where it is dense by itself.

    Attributes:
        model: the module, or a callable that answers (B, C, H, W).
        digest: sha256 of its weights as they were before its input size was set, so that one checkpoint is the same
            teacher at every size; empty for what has none.
        preprocessing: of its images.
        place: the submodule that puts out its feature map; empty to find it.
        class_names: C names, None where the source knows none.
        is_imagenet: its classes, where they are as many as those of a subset of ImageNet, are in timm's order.
        way_out: what to do where it does not take images of the size in `preprocessing`.
    """

    model: Callable[[Tensor], Tensor]
    digest: str
    preprocessing: Preprocessing
    place: str = ""
    class_names: tuple[str, ...] | None = None
    is_imagenet: bool = False
    way_out: str = "Give another --image-size"


def split_place(name: str) -> tuple[str, str]:
    """A teacher's name without its ``@SUBMODULE``, and that submodule, empty where none is named."""
    found = _PLACE.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


def chosen(spec: TeacherSpec, own: Preprocessing, told: Told) -> Preprocessing:
    """A model's own preprocessing, what its file of weights says of it, and over both what the spec asks for.

    An unsaid crop is the whole centred crop. Image size and interpolation are a choice of whoever labels; mean and
    deviation are a fact of the weights.

    Raises:
        InvalidValueError: a crop without fit "center", or values without meaning.
        TeacherError: a mean or deviation other than the weights were trained with.
    """
    _check_told(spec, told)
    return replace(
        own,
        image_size_hw=spec.image_size_hw or told.image_size_hw or own.image_size_hw,
        mean=spec.mean or told.mean or own.mean,
        std=spec.std or told.std or own.std,
        interpolation=spec.interpolation or told.interpolation or own.interpolation,
        fit=spec.fit,
        crop=1.0 if spec.crop is None else spec.crop,
        decode=spec.decode,
        exif=spec.exif,
    )


def _check_told(spec: TeacherSpec, told: Told) -> None:
    for which, asked, trained in (("mean", spec.mean, told.mean), ("std", spec.std, told.std)):
        if asked and trained and not all(map(_are_alike, asked, trained)):
            raise TeacherError(
                f"{spec.checkpoint} was trained with {which} {_numbers(trained)}, and {_numbers(asked)} is asked for: "
                f"leave --{which} out. Where the file is wrong, save its state dict alone"
            )
    if spec.interpolation and told.interpolation and spec.interpolation != told.interpolation:
        _log.warning(
            "%s was trained with %s images, and gets %s ones, as --interpolation says",
            *(spec.checkpoint, told.interpolation, spec.interpolation),
        )


def _are_alike(one: float, other: float) -> bool:
    # A person types three digits of what a file has in full.
    return math.isclose(one, other, abs_tol=1e-3)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
