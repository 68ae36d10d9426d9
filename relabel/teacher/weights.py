"""Weights: read from files without running what they hold, and digested so that a store knows them again."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from relabel.errors import TeacherError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 5


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds a state dict, bare or inside a checkpoint.

    Raises:
        TeacherError: not such a file, damaged, or it needs code to be run.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: object = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TeacherError(f"no such checkpoint: {path}") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise TeacherError(
            f"{path} cannot be read as weights alone: {str(error).partition(chr(10))[0]}. "
            "Give a safetensors file, or a torch file that holds nothing but a state dict"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise TeacherError(
            f"{path} holds no state dict; expected tensors by name, bare or under {', '.join(_WRAPPERS)}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def load_weights(model: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load tensors into a model, every one and no other.

    Raises:
        TeacherError: names or shapes differ; some are listed.
    """
    own = model.state_dict()
    problems = {
        "missing": [n for n in own if n not in tensors],
        "unexpected": [n for n in tensors if n not in own],
        "of another shape": [
            f"{n} {tuple(tensors[n].shape)} for {tuple(own[n].shape)}"
            for n in own
            if n in tensors and tensors[n].shape != own[n].shape
        ],
    }
    lines = [f"{len(names)} {kind} ({', '.join(names[:_SHOWN])})" for kind, names in problems.items() if names]
    if lines:
        raise TeacherError(
            f"the checkpoint does not fit {what}: {'; '.join(lines)}. Give the --teacher that it was made with"
        )
    model.load_state_dict(tensors)


def digest_of(model: object) -> str:
    """sha256 over names, dtypes, shapes and bytes of a module's state dict; of nothing for what has none."""
    digest = hashlib.sha256()
    tensors = model.state_dict() if isinstance(model, nn.Module) else {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def randomise(model: nn.Module) -> None:
    """Move norms and biases off their trivial starting values, with the caller's random state."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
