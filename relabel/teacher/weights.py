"""Weights: read from files without running what they hold, and digested so that a store knows them again."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.teacher.blame import first_line

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
"""Where training checkpoints keep their weights; averaged weights first, as timm takes them."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""

_SHOWN = 5


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds a state dict, bare or inside a checkpoint.

    A checkpoint's averaged weights (EMA) are taken before its others. Nothing that the file holds is run.

    Raises:
        TeacherError: not such a file, damaged, or it needs code to be run.
    """
    loaded = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    named = loaded.items() if isinstance(loaded, dict) else ()
    # torch's averaged models count their updates beside the weights.
    tensors = {name: value for name, value in named if isinstance(value, Tensor) and name != "n_averaged"}
    if not tensors:
        raise TeacherError(
            f"{path} holds no state dict; expected tensors by name, bare or under {', '.join(_WRAPPERS)}"
        )
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _read(path: Path) -> object:
    if not path.is_file():
        raise TeacherError(f"no such checkpoint: {path} is {'a folder' if path.is_dir() else 'not there'}. Give a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's and other trainers keep their arguments beside the weights; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def load_weights(model: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load tensors into a model, every one and no other, cast to the model's dtypes.

    Raises:
        TeacherError: names or shapes differ, or quantised integers stand for real numbers; some are listed.
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


def classes_in(model: nn.Module, tensors: dict[str, Tensor]) -> int | None:
    """The number of classes that a checkpoint was made for, by the shape of the model's last layer."""
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    weight = tensors.get(f"{layers[-1]}.weight")
    return weight.shape[0] if weight is not None and weight.ndim > 1 else None


def digest_of(model: object) -> str:
    """sha256 over names, dtypes, shapes and bytes of a module's state dict; of nothing for what has none.

    Taken of weights in the model's own dtypes, it is the same whatever file they came in and whatever precision they
    run in.
    """
    digest = hashlib.sha256()
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    for name in sorted(name for name, value in state.items() if isinstance(value, Tensor)):
        tensor = state[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU from a seed, as they were before on leaving."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the GPUs too, and they are not restored.
        torch.default_generator.manual_seed(seed)
        yield


def randomise(model: nn.Module) -> None:
    """Move every parameter that starts at a constant (norms, biases, some families' heads), so that it matters.

    A head that starts at zero answers the same to every image, and a proof of it would prove nothing.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or bool(parameter.min() == parameter.max()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
