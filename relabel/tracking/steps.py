"""The steps that are known, by their exact class, and whether one still runs that class's own code."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from torch import nn
from torchvision.transforms import _presets as presets
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.tracking import crops, turning
from relabel.tracking.handling import Handler, still

SEQUENCES = (v1.Compose, v2.Compose, nn.Sequential)
"""They run their steps one after the other."""
CONTAINERS = (v1.RandomApply, v1.RandomChoice, v1.RandomOrder, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
"""They run the steps in their ``transforms`` by a rule of their own, and do nothing else."""
CARRIERS: tuple[type, ...] = (
    *SEQUENCES, *CONTAINERS, v1.Lambda, v2.Lambda, functools.partial,
    types.FunctionType, types.MethodType, types.BuiltinFunctionType,
)  # fmt: skip
"""Classes that say nothing of what a step of them does."""
_STILL_IN_BOTH = (
    "ColorJitter", "ConvertImageDtype", "GaussianBlur", "Grayscale", "Normalize", "PILToTensor",
    "RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize", "RandomErasing", "RandomGrayscale",
    "RandomInvert", "RandomPosterize", "RandomSolarize", "Resize", "ToPILImage", "ToTensor",
)  # fmt: skip
_STILL_IN_V2 = (
    "GaussianNoise", "Identity", "JPEG", "RandomChannelPermutation", "RandomPhotometricDistort", "RandomResize",
    "RandomShortestSize", "RGB", "ScaleJitter", "ToDtype", "ToImage", "ToPureTensor",
)  # fmt: skip
_TORCHVISION: dict[type, Handler] = {
    nn.Identity: still,
    **{getattr(v1, name): still for name in _STILL_IN_BOTH},
    **{getattr(v2, name): still for name in (*_STILL_IN_BOTH, *_STILL_IN_V2)},
    v1.RandomResizedCrop: crops.crop_v1,
    v1.RandomCrop: crops.padded_crop_v1,
    v2.RandomResizedCrop: crops.crop_v2,
    v2.RandomCrop: crops.crop_v2,
    v1.RandomRotation: turning.rotated_v1,
    v2.RandomRotation: turning.rotated_v2,
    v1.RandomAffine: turning.moved_v1,
    v2.RandomAffine: turning.moved_v2,
    v2.RandomZoomOut: crops.zoomed_out,
    presets.ImageClassification: crops.classification_preset,
}
for _version in (v1, v2):
    _TORCHVISION |= {
        _version.CenterCrop: crops.center_crop,
        _version.Pad: crops.padded,
        _version.RandomHorizontalFlip: crops.mirrored,
        _version.RandomVerticalFlip: crops.mirrored_vertically,
        _version.FiveCrop: crops.five_crops,
        _version.TenCrop: crops.ten_crops,
    }
_TIMM: dict[str, Handler] = {
    # By name: a trainer that uses timm has loaded it, and no other should have to.
    "CenterCropOrPad": crops.center_crop,
    "MaybePILToTensor": still,
    "MaybeToTensor": still,
    "RandomCropOrPad": crops.crop_or_pad_timm,
    "RandomErasing": still,
    "RandomPad": crops.padded_timm,
    "RandomResizedCropAndInterpolation": crops.crop_v1,
    "ResizeKeepRatio": still,
    "ToNumpy": still,
    "ToTensor": still,
    "TrimBorder": crops.trimmed_timm,
}


def handler_of_kind(kind: type) -> Handler | None:
    """The handler of a known class; None for any other, a child of a known one too."""
    return _TIMM.get(kind.__name__) if is_of(kind, "timm") else _TORCHVISION.get(kind)


def find_known(step: Any) -> Handler | None:
    """The handler of a step of a known class that runs the class's own code."""
    handler = handler_of_kind(type(step))
    return handler if handler is not None and is_intact(step) else None


def is_of(kind: type, package: str) -> bool:
    """Whether a class comes from a package, which need not be loaded for that."""
    return kind.__module__.partition(".")[0] == package


def is_intact(step: Any) -> bool:
    """Whether a step runs the code of its class as that was written.

    No attribute of its own hides one of the class (``step.forward = ...``), no hook runs beside it, and each method
    of the class is the one that stands in the class's source.
    """
    kind = type(step)
    own = getattr(step, "__dict__", {})
    is_changed = any(hasattr(kind, name) for name in own)
    is_hooked = any(own.get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
    return not (is_changed or is_hooked) and all(_is_as_written(parent) for parent in kind.__mro__[:-1])


def _is_as_written(kind: type) -> bool:
    # What code says of itself, unlike a function's __name__ and __module__, is not passed on by functools.wraps.
    if kind is nn.Module:
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    for name, value in vars(kind).items():
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        # What get_params answers is watched; and v2 has v1's on its classes.
        if code is None or name == "get_params":
            continue
        if code.co_qualname != f"{kind.__qualname__}.{name}" or code.co_filename != file:
            return False
    return True
