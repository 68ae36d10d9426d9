"""Handlers of the auto-augments of timm and of torchvision: AutoAugment, RandAugment, TrivialAugmentWide.

Their own code runs and draws; what is watched is the call of each operation. Five of them move pixels, by an affine map
of the one number that the call is given; all others only change colours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any

from torchvision.transforms import autoaugment as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.geometry.frames import image_size_hw
from relabel.geometry.views import View
from relabel.tracking.handling import Handler, Shown, double_of, name_of, then
from relabel.tracking.steps import is_intact
from relabel.tracking.turning import rotation, view_of_pixels


def _shear_x(factor: float, image: Any) -> View:
    return _moved((1.0, factor, 0.0, 0.0, 1.0, 0.0), image)


def _shear_y(factor: float, image: Any) -> View:
    return _moved((1.0, 0.0, 0.0, factor, 1.0, 0.0), image)


def _shift_x(pixels: float, image: Any) -> View:
    return _moved((1.0, 0.0, pixels, 0.0, 1.0, 0.0), image)


def _shift_y(pixels: float, image: Any) -> View:
    return _moved((1.0, 0.0, 0.0, 0.0, 1.0, pixels), image)


def _turn(degrees: float, image: Any) -> View:
    return rotation(degrees, None, image, image)


def _moved(matrix: tuple[float, ...], image: Any) -> View:
    size_hw = image_size_hw(image)
    return view_of_pixels(matrix, size_hw, size_hw)


_TORCHVISION: dict[str, Callable[[float, Any], View] | None] = {
    # Both versions shear about the corner, and shift the image where timm shifts the window.
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": lambda magnitude, image: _shift_x(-int(magnitude), image),
    "TranslateY": lambda magnitude, image: _shift_y(-int(magnitude), image),
    "Rotate": _turn,
    **dict.fromkeys(
        ("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Identity", "Invert", "Posterize", "Sharpness",
         "Solarize")
    ),
}  # fmt: skip
_TIMM: dict[str, Callable[[float, Any], View] | None] = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x_abs": _shift_x,
    "translate_y_abs": _shift_y,
    "translate_x_rel": lambda part, image: _shift_x(part * image.width, image),
    "translate_y_rel": lambda part, image: _shift_y(part * image.height, image),
    "rotate": _turn,
    **dict.fromkeys(
        ("auto_contrast", "brightness", "color", "contrast", "desaturate", "equalize", "gaussian_blur",
         "gaussian_blur_rand", "invert", "posterize", "sharpness", "solarize", "solarize_add")
    ),
}  # fmt: skip
"""What each operation shows, from its number and the image; None of one that moves no pixel. timm's by function."""

_TIMM_MODULE = "timm.data.auto_augment"
_TIMM_ARGUMENTS = {"fillcolor", "resample"}


def handler_of_kind(kind: type) -> Handler | None:
    """The handler of a class of torchvision's; None for any other, a child of one too."""
    if kind in (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide):
        return _followed_v2
    return _followed_v1 if kind in (v1.AutoAugment, v1.RandAugment, v1.TrivialAugmentWide) else None


def handler_for(step: Any) -> Handler | None:
    """The handler of an auto-augment, or of one of timm's operations; None of anything else, of AugMix too."""
    kind = type(step)
    torchvisions = handler_of_kind(kind)
    if not (torchvisions or kind.__module__ == _TIMM_MODULE) or not is_intact(step):
        return None
    if torchvisions is not None:
        return torchvisions if torchvisions is _followed_v2 or _name_in(v1.__name__, v1._apply_op) else None
    handler, operations = {
        "AugmentOp": (_followed_operation, lambda: [step]),
        "RandAugment": (_followed_rand_timm, lambda: step.ops),
        "AutoAugment": (_followed_auto_timm, lambda: chain.from_iterable(step.policy)),
    }.get(kind.__name__, (None, list))
    return handler if all(_is_known(each) for each in operations()) else None


def _name_in(module: str, function: Any) -> str | None:
    """What a function is called in the source of a module; None of one that does not stand there."""
    code = getattr(function, "__code__", None)
    return code.co_qualname if code is not None and code.co_filename == sys.modules[module].__file__ else None


def _is_known(operation: Any) -> bool:
    kind = type(operation)
    return (
        (kind.__module__, kind.__name__) == (_TIMM_MODULE, "AugmentOp")
        and is_intact(operation)
        and _name_in(_TIMM_MODULE, operation.aug_fn) in _TIMM
        and operation.kwargs.keys() <= _TIMM_ARGUMENTS
    )


def _followed_v1(step: Any, image: Any) -> tuple[Any, Shown]:
    """torchvision v1's, whose code calls a function of its module.

    The code runs as a function that has another in that place: the module's own stays, for other threads.
    """
    shown: list[Shown] = [None]
    own, noting = type(step).forward, _noting(step, v1._apply_op, shown)
    run = FunctionType(own.__code__, {**own.__globals__, "_apply_op": noting}, closure=own.__closure__)
    return run(step, image), shown[0]


def _followed_v2(step: Any, image: Any) -> tuple[Any, Shown]:
    """torchvision v2's, whose code calls a method."""
    shown: list[Shown] = [None]
    method = "_apply_image_or_video_transform"
    return double_of(step, **{method: _noting(step, getattr(step, method), shown)})(image), shown[0]


def _noting(step: Any, apply: Callable[..., Any], shown: list[Shown]) -> Callable[..., Any]:
    """What applies an operation of torchvision's, and adds to what is shown."""

    def noting(image: Any, name: str, magnitude: float, *rest: Any, **named: Any) -> Any:
        shown[0] = then(shown[0], _shown_by(step, name, magnitude, image))
        return apply(image, name, magnitude, *rest, **named)

    return noting


def _shown_by(step: Any, name: str, magnitude: float, image: Any) -> Shown:
    if name not in _TORCHVISION:
        raise _unknown(name_of(step), name, _TORCHVISION)
    move = _TORCHVISION[name]
    return None if move is None else move(magnitude, image)


def _unknown(step: str, operation: str, known: Collection[str]) -> InvalidValueError:
    return InvalidValueError(
        f"{step} called the operation {operation}, which is not one of {', '.join(sorted(known))}, so what it shows is "
        "not known; give TrackedTransform(transform, untracked=(the step,)) to ignore it"
    )


def _followed_operation(operation: Any, image: Any) -> tuple[Any, Shown]:
    """timm's AugmentOp, which calls its ``aug_fn`` or, by chance, hands back the image."""
    function = operation.aug_fn
    name = _name_in(_TIMM_MODULE, function)
    if name not in _TIMM:
        raise _unknown(name_of(operation), name_of(function), _TIMM)
    move = _TIMM[name]
    if move is None:
        return operation(image), None
    shown: list[Shown] = [None]

    def noting(image: Any, amount: float, **named: Any) -> Any:
        shown[0] = move(amount, image)
        return function(image, amount, **named)

    return double_of(operation, aug_fn=noting)(image), shown[0]


_Carried = tuple[Any, Shown]
"""An image, and what it shows: what operations hand on to each other in place of the image alone."""


def _carried_on(operation: Any, carried: _Carried) -> _Carried:
    image, shown = carried
    output, part = _followed_operation(operation, image)
    return output, then(shown, part)


def _followed_rand_timm(step: Any, image: Any) -> tuple[Any, Shown]:
    """timm's RandAugment, which draws from its operations and calls what it drew, one on the output of the other."""
    carried: _Carried = double_of(step, ops=[partial(_carried_on, each) for each in step.ops])((image, None))
    return carried


def _followed_auto_timm(step: Any, image: Any) -> tuple[Any, Shown]:
    """timm's AutoAugment, which draws one of its lists of operations."""
    policy = [[partial(_carried_on, each) for each in operations] for operations in step.policy]
    carried: _Carried = double_of(step, policy=policy)((image, None))
    return carried
