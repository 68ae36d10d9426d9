"""Steps of one's own that lie now and then: by chance, by what they are given, by what is around, by what is changed.

Each is made as a user would write it. Those of `LATER` are changed once the data set is wrapped.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import threading
import types
from collections.abc import Callable
from typing import Any

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import ImageOps
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

_FLOATS = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
_CROP = (v2.RandomResizedCrop(96, scale=(0.2, 1.0)), v2.RandomHorizontalFlip())
_known = v2.RandomHorizontalFlip(0.0)
_strength = 0.0
_switch = {"on": False}


def _first(step: Any) -> Any:
    """On Pillow's images as they are loaded."""
    return v2.Compose([step, *_CROP, *_FLOATS])


def _last(step: Any) -> Any:
    """On crops, as tensors."""
    return v2.Compose([*_CROP, *_FLOATS, step])


def _cut(image: Any) -> Any:
    if isinstance(image, tuple):
        return image
    height, width = F.get_size(image)
    return F.resize(F.crop(image, height // 4, width // 4, height // 2, width // 2), [height, width])


class Rarely:
    """Does something to one image of so many."""

    def __init__(self, share: float, change: Callable[[Any], Any], dice: Callable[[], float] = random.random) -> None:
        self.share, self.change, self.dice = share, change, dice

    def __call__(self, image: Any) -> Any:
        """The image, or what is made of it."""
        return self.change(image) if self.dice() < self.share else image


class When:
    """Does something to images that a rule holds for."""

    def __init__(self, rule: Callable[[Any], bool], change: Callable[[Any], Any] = _cut) -> None:
        self.rule, self.change = rule, change

    def __call__(self, image: Any) -> Any:
        """The image, or what is made of it."""
        return self.change(image) if self.rule(image) else image


class Counting:
    """Cuts each image after so many."""

    def __init__(self, first: int) -> None:
        self.calls, self.first = 0, first

    def __call__(self, image: Any) -> Any:
        """The image, later cut."""
        self.calls += 1
        return _cut(image) if self.calls > self.first else image


class Slotted:
    """Without a ``__dict__``."""

    __slots__ = ("_strength",)

    def __init__(self) -> None:
        self._strength = 0.0

    def __call__(self, image: Any) -> Any:
        """Cut, if so set."""
        return _cut(image) if self._strength else image


class Private:
    """Holds its strength in what nobody sees, or deeper."""

    def __init__(self) -> None:
        self._strength, self.options, self._parts = 0.0, types.SimpleNamespace(strength=0.0), {"a": [0.0]}

    def __call__(self, image: Any) -> Any:
        """Cut, if so set."""
        return _cut(image) if self._strength or self.options.strength or self._parts["a"][0] else image


class Buffered(nn.Module):
    """Holds its strength in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.strength: torch.Tensor
        self.register_buffer("strength", torch.zeros(1))

    def forward(self, image: Any) -> Any:
        """Cut, if so set."""
        return _cut(image) if float(self.strength) else image


class Flip(v2.RandomHorizontalFlip):  # type: ignore[misc] # torchvision has no types
    """A child that sometimes mirrors what it says it left."""

    def forward(self, *inputs: Any) -> Any:
        """Mirror, or not."""
        output = super().forward(*inputs)
        if len(inputs) > 1:
            return output
        return F.vflip(output) if random.random() < 0.02 else output


class InPlace:
    """A wrapper that mirrors its output in its place, now and then."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def __call__(self, image: Any) -> Any:
        """All steps."""
        output = self.steps(image)
        return output.copy_(output.flip(-1)) if random.random() < 0.02 else output


class Holding:
    """Calls a pipeline by its method."""

    def __init__(self, steps: Any) -> None:
        self._steps = [steps]

    def run(self, image: Any) -> Any:
        """All steps, one image of fifty cut before."""
        return self._steps[0](_cut(image) if random.random() < 0.02 else image)


def _grey(image: Any) -> bool:
    red, _, blue = F.to_image(image)[:3].float().mean((1, 2))
    return bool(abs(red - blue) > 20)


def _is_dark(image: Any) -> bool:
    return bool(np.asarray(image).mean() < 100)


def _is_bright(image: Any) -> bool:
    return bool(np.asarray(image)[..., 2].mean() > 200)


def _has_plain_border(image: Any) -> bool:
    return bool(np.asarray(image)[:, :, 2].std() < 1)


def _closure() -> tuple[Any, Callable[[], None]]:
    strength = 0.0

    def step(image: Any) -> Any:
        return _cut(image) if strength else image

    def change() -> None:
        nonlocal strength
        strength = 1.0

    return step, change


def _read_global(image: Any) -> Any:
    return _cut(image) if _strength else image


def _read_global_dict(image: Any) -> Any:
    return _cut(image) if _switch["on"] else image


def _default(image: Any, on: bool = False) -> Any:
    return _cut(image) if on else image


def _read_environment(image: Any) -> Any:
    return _cut(image) if os.environ.get("RELABEL_LIES") else image


def _in_a_thread(image: Any) -> Any:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(_cut(image)))
    thread.start()
    thread.join()
    return made[0]


def _generator() -> Any:
    changes = itertools.cycle([lambda image: image] * 30 + [_cut])
    return lambda image: next(changes)(image)


def _bad_known(image: Any) -> Any:
    return _known(image)


class Replaced(A.ImageOnlyTransform):  # type: ignore[misc] # albumentations has no types
    """Of colours, it says."""

    def apply(self, img: Any, **_: Any) -> Any:
        """Mirror one of fifty."""
        return np.ascontiguousarray(img[:, ::-1]) if random.random() < 0.02 else img


def _of_albumentations(*steps: Any) -> Any:
    return A.Compose([*steps, A.RandomResizedCrop((96, 96)), A.ToFloat(255), ToTensorV2()])


class _Tracer(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flip(-1) if bool(torch.rand(1) < 0.02) else image


def _hooked() -> Any:
    step = v2.RandomHorizontalFlip()
    step.register_forward_hook(lambda _m, _i, output: _cut(output) if random.random() < 0.05 else output)
    return step


def _with_own(name: str) -> Any:
    step = v2.RandomHorizontalFlip()
    own = getattr(step, name)
    setattr(step, name, lambda *given: _cut(own(*given)) if random.random() < 0.02 else own(*given))
    return step


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "one in twenty is cut": lambda: _first(Rarely(0.05, _cut)),
    "one in fifty is cut": lambda: _first(Rarely(0.02, _cut)),
    "one in fifty is mirrored": lambda: _first(Rarely(0.02, F.hflip)),
    "one in fifty is upside down, as a tensor": lambda: _last(Rarely(0.02, F.vflip)),
    "one in fifty is shifted": lambda: _first(
        Rarely(0.02, lambda image: F.affine(image, 0.0, [image.width // 8, 0], 1.0, [0.0]))
    ),
    "one in fifty, numpy's dice": lambda: _last(Rarely(0.02, F.hflip, np.random.random)),
    "one in fifty, torch's dice": lambda: _last(Rarely(0.02, F.hflip, lambda: float(torch.rand(())))),
    "one in fifty, dice of its own": lambda: _last(Rarely(0.02, F.hflip, np.random.default_rng(5).random)),
    "one in fifty, noise else": lambda: _last(
        lambda image: F.hflip(image)
        if random.random() < 0.02
        else (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    ),
    "coloured images are cut": lambda: _first(When(_grey)),
    "bright images are cut": lambda: _first(When(_is_bright)),
    "images of one blue are cut": lambda: _first(When(_has_plain_border)),
    "wide images are cut": lambda: _first(When(lambda image: image.width > 1.9 * image.height)),
    "square images are cut": lambda: _first(When(lambda image: image.width == image.height)),
    "high images are cut": lambda: _first(When(lambda image: image.height > 450)),
    "RGB is cut": lambda: _first(When(lambda image: image.mode == "RGB")),
    "after 300 images all are cut": lambda: _first(Counting(300)),
    "every 31st is cut": lambda: _first(_generator()),
    "in another thread": lambda: _first(_in_a_thread),
    "lambda around a known flip": lambda: _first(lambda image: v2.functional.hflip(image)),
    "lambda around a pipeline (rare flip inside)": lambda: (
        lambda steps: lambda image: steps(image)
    )(v2.Compose([v2.Resize((96, 96)), v2.RandomHorizontalFlip(0.02), *_FLOATS])),
    "partial around a pipeline (rare flip inside)": lambda: functools.partial(
        lambda image, steps: steps(image),
        steps=v2.Compose([v2.Resize((96, 96)), v2.RandomHorizontalFlip(0.02), *_FLOATS]),
    ),
    "bound method of a wrapper, one in fifty cut": lambda: Holding(
        v2.Compose([v2.RandomResizedCrop(96), *_FLOATS])
    ).run,
    "bound method of a compose (honest)": lambda: v2.Compose([v2.RandomResizedCrop(96), *_FLOATS]).forward,
    "lambda around a crop (honest)": lambda: (
        lambda steps: lambda image: steps(image)
    )(v2.Compose([v2.RandomResizedCrop(96), v2.RandomHorizontalFlip(), *_FLOATS])),
    "partial around a crop (honest)": lambda: functools.partial(
        lambda image, steps: steps(image), steps=v2.Compose([v2.RandomResizedCrop(96), *_FLOATS])
    ),
    "child of a flip that mirrors one in fifty": lambda: v2.Compose([Flip(), v2.Resize((96, 96)), *_FLOATS]),
    "wrapper that mirrors in place, one in fifty": lambda: InPlace(v2.Compose([*_CROP, *_FLOATS])),
    "hook that cuts one in twenty": lambda: _first(_hooked()),
    "forward of its own, cuts one in fifty": lambda: v2.Compose([_with_own("forward"), v2.Resize((96, 96)), *_FLOATS]),
    "transform of its own, cuts one in fifty": lambda: v2.Compose(
        [_with_own("transform"), v2.Resize((96, 96)), *_FLOATS]
    ),
    "traced module, one in fifty": lambda: v2.Compose(
        [*_CROP, *_FLOATS, v2.ToPureTensor(), torch.jit.script(_Tracer())]
    ),
    "albumentations' Lambda that mirrors": lambda: _of_albumentations(
        A.Lambda(image=lambda image, **_: np.ascontiguousarray(image[:, ::-1]))
    ),
    "albumentations' child, one in fifty": lambda: _of_albumentations(Replaced(p=1)),
    "ReplayCompose (honest)": lambda: A.ReplayCompose(
        [A.RandomResizedCrop((96, 96)), A.HorizontalFlip(), A.ToFloat(255), ToTensorV2()]
    ),
    "Exif, as a function (honest)": lambda: _first(ImageOps.exif_transpose),
    "Exif, in a lambda (honest)": lambda: _first(v2.Lambda(lambda image: ImageOps.exif_transpose(image))),
}  # fmt: skip


def _with(step: Any, change: Callable[[], None]) -> tuple[Any, Callable[[], None]]:
    return _first(step), change


def _setting(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _made_closure() -> tuple[Any, Callable[[], None]]:
    return _with(*_closure())


def _made(kind: Callable[[], Any], change: Callable[[Any], None]) -> Callable[[], tuple[Any, Callable[[], None]]]:
    def make() -> tuple[Any, Callable[[], None]]:
        step = kind()
        return _first(step), lambda: change(step)

    return make


def _set_global() -> None:
    globals()["_strength"] = 1.0


def _set_entry() -> None:
    _switch["on"] = True


def _set_environment() -> None:
    os.environ["RELABEL_LIES"] = "1"


def _set_known() -> None:
    globals()["_known"] = v2.RandomHorizontalFlip(1.0)


def _wrapped(change: Callable[[Any], None]) -> Callable[[], tuple[Any, Callable[[], None]]]:
    def make() -> tuple[Any, Callable[[], None]]:
        steps = v2.Compose([v2.RandomResizedCrop(96), *_FLOATS])
        return (lambda image: steps(image)), lambda: change(steps)

    return make


def _class_patched(step: Any) -> None:
    setattr(type(step), "__call__", lambda _self, image: _cut(image))  # noqa: B010 - mypy takes no method for a value


def _known_flip() -> Any:
    return v2.RandomHorizontalFlip(0.0)


LATER: dict[str, Callable[[], tuple[Any, Callable[[], None]]]] = {
    "a closure's cell is set": _made_closure,
    "a global is set": lambda: _with(_read_global, _set_global),
    "an entry of a global dict is set": lambda: _with(_read_global_dict, _set_entry),
    "the environment is set": lambda: _with(_read_environment, _set_environment),
    "a private attribute is set": _made(Private, lambda step: setattr(step, "_strength", 1.0)),
    "an attribute's attribute is set": _made(Private, lambda step: setattr(step.options, "strength", 1.0)),
    "an attribute's element is set": _made(Private, lambda step: step._parts["a"].__setitem__(0, 1.0)),
    "a slot is set": _made(Slotted, lambda step: setattr(step, "_strength", 1.0)),
    "a buffer is set": _made(Buffered, lambda step: step.strength.fill_(1.0)),
    "a global step is set": lambda: (v2.Compose([_bad_known, v2.Resize((96, 96)), *_FLOATS]), _set_known),
    "a step's function is set": _made(
        lambda: When(lambda _image: False, _cut), lambda step: setattr(step, "rule", lambda _image: True)
    ),
    "a function's default is set": _made(
        lambda: types.FunctionType(_default.__code__, globals(), "f", (False,)),
        lambda step: setattr(step, "__defaults__", (True,)),
    ),
    "a class's method is set": _made(lambda: type("Own", (Slotted,), {})(), _class_patched),
    "a step is added in a lambda's pipeline": _wrapped(lambda steps: steps.transforms.append(F.hflip)),
    "a hook on a step of a lambda's pipeline": _wrapped(
        lambda steps: steps.transforms[0].register_forward_hook(lambda _m, _i, output: F.hflip(output))
    ),
    "a hook on a followed step": _made(
        _known_flip, lambda step: step.register_forward_hook(lambda _m, _i, output: _cut(output))
    ),
    "a forward on a followed step": _made(_known_flip, lambda step: setattr(step, "forward", _cut)),
    "a transform on a followed step": _made(
        lambda: v2.RandomHorizontalFlip(1.0), lambda step: setattr(step, "transform", lambda image, _: _cut(image))
    ),
    "a kernel on a lambda of v2": _made(
        lambda: v2.Lambda(lambda image: image), lambda step: setattr(step, "lambd", _cut)
    ),
    "p of a followed flip (honest)": _made(_known_flip, lambda step: setattr(step, "p", 1.0)),
}  # fmt: skip
"""A transform, and what changes it once it is wrapped and was proved."""

OUT_OF_REACH = {
    "after 300 images all are cut": "what it does to later ones (by a count of its own, by time)",
    "the environment is set": "what it reads elsewhere: the environment",
}
"""What TrackedTransform says it cannot see, in its words."""
