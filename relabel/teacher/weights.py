"""Weights: read from files without running what they hold, and digested so that a store knows them again."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.teacher.blame import first_line
from relabel.teacher.formats import weights_format

_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict"),
    *("state_dict", "model_state_dict", "model_state", "model", "module"),
)
"""Where training checkpoints keep their weights, perhaps one in another; averaged weights first, as timm takes them."""

_MOST_WRAPPED = 4
"""Of a wrapper that holds itself, too."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""

_SHOWN = 5

_NAMES = ("class_names", "classes")
"""What training checkpoints call a list of their classes' names; safetensors hold it as JSON in their metadata."""

_BESIDE = (
    *("argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""What trainers keep beside the weights: their arguments, the best accuracy as a number of numpy's."""

_Model = TypeVar("_Model", bound=nn.Module)


class _Beside:
    """Stands for a value of `_BESIDE`, of which nothing is wanted and nothing is run."""

    def __new__(cls, *_: object) -> _Beside:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take what a pickle hands over, and leave it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and the names of the classes that they were trained for, where the file says them."""

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """A safetensors file, or a torch file that holds a state dict, bare or inside a checkpoint.

    A checkpoint's averaged weights (EMA) are taken before its others. Nothing that the file holds is run.

    Raises:
        TeacherError: not such a file, damaged, or it needs code to be run.
    """
    loaded, said = _read(path)
    names = next((value for name in _NAMES if _are_names(value := said.get(name))), None)
    for _ in range(_MOST_WRAPPED):
        inside = (loaded.get(name) for name in _WRAPPERS) if isinstance(loaded, dict) else ()
        loaded = next((each for each in inside if isinstance(each, dict) and each), loaded)
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
        )
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Checkpoint(tensors, None if names is None else tuple(names))


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


def load_weights(model: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load tensors into a model, every one and no other, cast to the model's dtypes.

    Raises:
        TeacherError: names or shapes differ, quantised integers stand for real numbers, or tensors are on the meta
            device or sparse; some are listed.
    """
    own = model.state_dict()
    shared = [name for name in own if name in tensors]
    problems = {
        # Batch norms of old checkpoints lack this count, which only training reads.
        "missing": [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")],
        "unexpected": [n for n in tensors if n not in own],
        "of another shape": [
            f"{n} {tuple(tensors[n].shape)} for {tuple(own[n].shape)}"
            for n in shared
            if tensors[n].shape != own[n].shape
        ],
        "of another kind": [
            f"{n} {tensors[n].dtype} for {own[n].dtype}"
            for n in shared
            if tensors[n].is_floating_point() != own[n].is_floating_point()
        ],
        "without numbers": [n for n in shared if tensors[n].is_meta or tensors[n].layout != torch.strided],
    }
    lines = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise TeacherError(
            f"the checkpoint does not fit {what}: {'; '.join(lines)}. Give the --teacher that it was made with, and "
            "the --image-size if it was made at another than the model's own"
        )
    model.load_state_dict(tensors, strict=False)


def with_classes_of(tensors: dict[str, Tensor], model: _Model, create: Callable[[int | None], _Model]) -> _Model:
    """The model, or one that `create` makes with as many classes as a checkpoint was made for."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    # timm says which layer classifies; elsewhere it is the last.
    said = (
        config.get("classifier") or [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]
    )
    name = said if isinstance(said, str) else said[0]
    wanted, own = (weights.get(f"{name}.weight") for weights in (tensors, model.state_dict()))
    if wanted is None or wanted.ndim < 2 or (own is not None and own.shape[0] == wanted.shape[0]):
        return model
    return create(wanted.shape[0])


def with_random_weights(create: Callable[[None], _Model], seed: int) -> _Model:
    """What `create` makes, with the random weights of a seed, none left at a constant."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the GPUs too, and they are not restored.
        torch.default_generator.manual_seed(seed)
        model = create(None)
        randomise(model)
    return model


def digest_of(model: object) -> str:
    """sha256 over names, dtypes, shapes and bytes of a module's state dict; empty for what has none.

    Taken of weights in the model's own dtypes, it is the same whatever file they came in and whatever precision they
    run in.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    if not state:
        return ""
    digest = hashlib.sha256()
    for name in sorted(name for name, value in state.items() if isinstance(value, Tensor)):
        tensor = state[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def randomise(model: nn.Module) -> None:
    """Move every parameter that starts at a constant (norms, biases, some families' heads), so that it matters.

    A head that starts at zero answers the same to every image, and a proof of it would prove nothing.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or bool(parameter.min() == parameter.max()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
