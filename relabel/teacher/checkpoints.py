"""Files of weights, read without running what they hold, and what they say beside their weights."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from relabel.errors import TeacherError
from relabel.manifest import Interpolation
from relabel.paths import file_and_part
from relabel.teacher.blame import first_line
from relabel.teacher.formats import weights_format

_log = logging.getLogger(__name__)

_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "average", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "module", "student", "net", "network", "weights"),
)
"""Where training checkpoints keep their weights, perhaps one in another; averaged weights first, as timm takes them."""

_MOST_WRAPPED = 4
"""Of a wrapper that holds itself, too."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""

_NAMES = ("class_names", "classes")
"""What training checkpoints call a list of their classes' names; safetensors hold it as JSON in their metadata."""

_FOREIGN_ARGS = re.compile(r"pretrained|checkpoint|cache|url|file", re.IGNORECASE)
"""In the name of what a model is built with: it would fetch or open something, which a file of weights may not ask."""

_BESIDE = (
    *("argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""What trainers keep beside the weights: their arguments, the best accuracy as a number of numpy's."""

_FILTERS = ("bilinear", "bicubic", "nearest", "nearest-exact", "box", "hamming", "lanczos", "random")
"""What timm and torchvision call ways to resize an image."""

_CALLED = ("num_classes", "model_name")
"""Of what a model is built with, that which is said of it elsewhere."""


class _Beside:
    """Stands for a value of `_BESIDE`, of which nothing is wanted and nothing is run."""

    def __new__(cls, *_: object) -> _Beside:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take what a pickle hands over, and leave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a file says beside its weights; None, or empty, where it is silent.

    Attributes:
        architecture: timm's name of the model, as its trainer keeps it (`arch`, or `architecture`).
        model_args: what that model is built with besides its classes: numbers, words and lists of them.
        class_names: of the classes that the weights were trained for, in their order.
        image_size_hw: (height, width) in pixels of what they were trained on last.
        mean, std: three numbers each, of pixels in [0, 1]: what these weights were trained with.
        interpolation: "bilinear" or "bicubic".
        crop: the side of the centred crop that they are evaluated on, over the shorter side of the image.
    """

    architecture: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    image_size_hw: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation | None = None
    crop: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and what the file says beside them."""

    tensors: dict[str, Tensor]
    told: Told = field(default_factory=Told)


def read_checkpoint(path: Path) -> Checkpoint:
    """A safetensors file, or a torch file that holds a state dict, bare or inside a checkpoint.

    Nothing that the file holds is run. Of a checkpoint's several weights the averaged (EMA) are taken, which is logged;
    ``FILE@NAME`` takes those that it calls NAME.

    Raises:
        TeacherError: not such a file, damaged, without such weights, or it needs code to be run; or it says of its
            images what cannot be used.
    """
    path, part = file_and_part(path)
    loaded, said = _read(path)
    told = _told(said, path)
    loaded = _unwrapped(_part(loaded, part, path), path, is_chosen=bool(part))
    named = loaded.items() if isinstance(loaded, dict) else ()
    # torch's averaged models count their updates beside the weights.
    tensors = {
        name: value
        for name, value in named
        if isinstance(name, str) and isinstance(value, Tensor) and name != "n_averaged"
    }
    if not tensors:
        raise TeacherError(
            f"{path} holds no state dict; expected tensors by name, bare or under {', '.join(_WRAPPERS)}"
            + (f". It has {', '.join(held)}: say which, as {path}@NAME" if (held := _held(said)) else "")
        )
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Checkpoint(tensors, told)


def architecture_of(path: Path) -> str:
    """timm's name of the model whose weights a file holds, as the file says.

    Raises:
        TeacherError: it says none, or it is no file of weights.
    """
    path, _ = file_and_part(path)
    told = _told(_read(path)[1], path)
    if not re.fullmatch(r"\w+(\.\w+)?", told.architecture, re.ASCII):
        raise TeacherError(f"{path} does not say which model its weights are of: give --teacher NAME beside it")
    return told.architecture


def _held(said: Mapping[str, Any]) -> list[str]:
    return [name for name, value in said.items() if isinstance(value, dict) and value]


def _part(loaded: object, part: str, path: Path) -> object:
    """What a file holds under a name."""
    if not part:
        return loaded
    inside = loaded.get(part) if isinstance(loaded, dict) else None
    if not isinstance(inside, dict) or not inside:
        held = _held(loaded) if isinstance(loaded, dict) else []
        raise TeacherError(f"{path} holds no weights called {part!r}; it has {', '.join(held) or 'one state dict'}")
    return inside


def _unwrapped(loaded: object, path: Path, *, is_chosen: bool) -> object:
    """The state dict out of what it is wrapped in, told where there was a choice."""
    for _ in range(_MOST_WRAPPED):
        inside = [name for name in _WRAPPERS if isinstance(loaded, dict) and _is_dict(loaded.get(name))]
        if not inside or not isinstance(loaded, dict):
            break
        if len(inside) > 1 and not is_chosen:
            _log.warning(
                "%s holds several weights: %s are taken; give %s@%s for the others",
                *(path, inside[0], path, "|".join(inside[1:])),
            )
        loaded = loaded[inside[0]]
    return loaded


def _is_dict(value: object) -> bool:
    return isinstance(value, dict) and bool(value)


def _told(said: Mapping[str, Any], path: Path) -> Told:
    """What stands beside the weights: under timm's names, in timm's shapes."""
    config = said.get("pretrained_cfg")
    config = config if isinstance(config, dict) else {}
    names = next((value for name in _NAMES if _are_names(value := said.get(name))), None)
    architecture = said.get("arch") or said.get("architecture") or ""
    arguments = said.get("model_args")
    interpolation = _usable(config, "interpolation", path)
    return Told(
        architecture=architecture if isinstance(architecture, str) else "",
        model_args=_plain_args(arguments) if isinstance(arguments, dict) else {},
        class_names=None if names is None else tuple(names),
        image_size_hw=_usable(config, "input_size", path),
        mean=_usable(config, "mean", path),
        std=_usable(config, "std", path),
        # As timm's own models are taken: of all that is not bilinear, bicubic is nearest.
        interpolation=interpolation and ("bilinear" if interpolation == "bilinear" else "bicubic"),
        crop=_usable(config, "crop_pct", path),
    )


def _usable(config: Mapping[Any, Any], name: str, path: Path) -> Any:
    """What a file says of its images under a name of timm's; None where it says nothing."""
    value = config.get(name)
    if value is None:
        return None
    expected, is_good = _IMAGES[name]
    if not is_good(value):
        raise TeacherError(
            f"{path} says of its images what cannot be used: {name} {repr(value)[:_SHORT]}; expected {expected}. Save "
            "the state dict alone, and say on the command line what it was trained with"
        )
    if name == "input_size":
        return tuple(value[-2:])
    return tuple(value) if isinstance(value, list) else value


def _is_above(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and least < value < _MOST


def _are_three(value: Any, least: float) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_above(each, least) for each in value)


def _is_size(value: Any) -> bool:
    is_listed = isinstance(value, (list, tuple)) and len(value) in (2, 3)
    return is_listed and all(type(each) is int and each > 0 for each in value)


_SHORT = 60
_MOST = 1e6  # of any of these numbers, far more than pixels are, and no integer that floats cannot hold
_IMAGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "input_size": ("channels, height and width, whole numbers", _is_size),
    "mean": ("three numbers", lambda value: _are_three(value, -_MOST)),
    "std": ("three numbers above 0", lambda value: _are_three(value, 0.0)),
    "interpolation": (f"one of {', '.join(_FILTERS)}", lambda value: isinstance(value, str) and value in _FILTERS),
    "crop_pct": ("a number above 0", lambda value: _is_above(value, 0.0)),
}
"""What timm's names of a model's images must be, in words, and whether a value is that."""


def _plain_args(arguments: Mapping[Any, Any]) -> dict[str, Any]:
    """Of what a model is built with, all that opens no file and fetches nothing."""
    plain = (bool, int, float, str, type(None))
    found = {name: tuple(each) if isinstance(each, list) else each for name, each in arguments.items()}
    return {
        name: each
        for name, each in found.items()
        if isinstance(name, str)
        and name not in _CALLED
        and not _FOREIGN_ARGS.search(name)
        and all(isinstance(value, plain) for value in (each if isinstance(each, tuple) else (each,)))
    }


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(each, str) for each in value)


def _read(path: Path) -> tuple[object, dict[str, Any]]:
    """What a file holds, and what it says beside its weights."""
    if not path.is_file():
        raise TeacherError(f"no such checkpoint: {path} is {'a folder' if path.is_dir() else 'not there'}. Give a file")
    try:
        if weights_format(path) == "safetensors":
            with safe_open(path, framework="pt") as file:
                said = {name: _json(text) for name, text in (file.metadata() or {}).items()}
                return {name: file.get_tensor(name) for name in file.keys()}, said  # noqa: SIM118  # no mapping
        with torch.serialization.safe_globals([(_Beside, name) for name in _BESIDE]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        return loaded, loaded if isinstance(loaded, dict) else {}
    except TeacherError:
        raise
    except Exception as error:
        # Not torch's own words, which advise to load it all the same.
        needs = re.search(r"GLOBAL (\S+)", str(error))
        is_pickle = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors" if is_pickle else first_line(error)
        if needs:
            reason = f"it would have to run {needs[1]}"
        raise TeacherError(
            f"{path} cannot be read as weights alone: {reason}. "
            "Give a safetensors file, or a torch file that holds nothing but a state dict"
        ) from error


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
