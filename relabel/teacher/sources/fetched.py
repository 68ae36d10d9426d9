"""What every source of teachers hands over: a model with its weights, and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from relabel.manifest import Preprocessing
from relabel.teacher.spec import TeacherSpec

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


def chosen(spec: TeacherSpec, own: Preprocessing) -> Preprocessing:
    """A model's own preprocessing with what the spec asks for; an unsaid crop is the whole centred crop.

    Raises:
        InvalidValueError: a crop without fit "center", or values without meaning.
    """
    return replace(
        own,
        image_size_hw=spec.image_size_hw or own.image_size_hw,
        mean=spec.mean or own.mean,
        std=spec.std or own.std,
        interpolation=spec.interpolation or own.interpolation,
        fit=spec.fit,
        crop=1.0 if spec.crop is None else spec.crop,
        decode=spec.decode,
        exif=spec.exif,
    )
