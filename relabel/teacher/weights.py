"""Weights: put into a model, every one and no other, and digested so that a store knows them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError

_SHOWN = 5

_Model = TypeVar("_Model", bound=nn.Module)


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
