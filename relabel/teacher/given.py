"""A user's own teacher, ``package.module:function``.

What it returns answers (B, C, H, W) by itself, or is a module that answers (B, C) and is made dense.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.blame import blaming
from relabel.teacher.candidate import Candidate, answer_of, noise_of
from relabel.teacher.classifier import Classifier, candidate_of, split_place
from relabel.teacher.orientation import localises
from relabel.teacher.preprocessing import chosen
from relabel.teacher.proof import Proof
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.weights import digest_of

_log = logging.getLogger(__name__)


def given_candidate(spec: TeacherSpec, device: torch.device) -> Candidate:
    """Call the user's function, and look at what it returns: its answer's shape, and that it is the right way round.

    Raises:
        TeacherError: it cannot be imported or called, raises, or returns what is no teacher.
    """
    if spec.checkpoint is not None or spec.random_weights is not None:
        raise TeacherError(f"{spec.name} brings its own weights; leave --checkpoint and --random-weights out")
    name, place = split_place(spec.name)
    model = _called(name)
    digest = digest_of(model)
    preprocessing = _preprocessing(spec, model)
    noise = noise_of(preprocessing, device)
    with blaming(f"{spec.name} fails on images {tuple(noise.shape)} on {device}", "Mend it, or give its --image-size"):
        if isinstance(model, nn.Module):
            model = model.to(device).eval().requires_grad_(False)
            if place or _is_classifier(model, noise):
                found = Classifier(
                    model=model, weights="given", digest=digest, preprocessing=preprocessing, place=place
                )
                return candidate_of(found, spec, device)
        model = _InOrder(model)
        answer = answer_of(model, spec.name, noise)
        proof = Proof("given", 0.0, 0.0, localises(model, spec.name, noise[:1]))
        if digest == digest_of(None):
            digest = _digest_of_answers(model, noise)
    record = TeacherRecord(
        name=spec.name, weights="given", weights_digest=digest, head=proof.kind, precision=spec.precision
    )
    return Candidate(forward=model, preprocessing=preprocessing, record=record, proof=proof, answer=answer)


class _InOrder(nn.Module):
    """A user's model, given its images as (B, 3, h, w) lie in memory: it may well call `view` on them."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Tensor:
        return self._model(images.contiguous())


def _digest_of_answers(model: nn.Module, images: Tensor) -> str:
    """What tells two callables without a state apart: the likeliest class at every cell for fixed images."""
    with torch.inference_mode():
        likeliest = model(images).argmax(1).cpu()
    return hashlib.sha256(f"{tuple(likeliest.shape)} {likeliest.flatten().tolist()}".encode()).hexdigest()


def _is_classifier(model: nn.Module, images: Tensor) -> bool:
    """Whether it answers (B, C)."""
    with torch.inference_mode():
        answer: object = model(images)
    return isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(images)


def _called(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    with blaming(
        f"cannot import the teacher {name}",
        "Expected package.module:function, its folder being on PYTHONPATH, or torchvision:MODEL or transformers:MODEL",
    ):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise TeacherError(
            f"{module_name} has no function {function_name!r} for the teacher {name}; expected package.module:function"
        )
    with blaming(f"{name}() fails", "It must return a module or callable, and takes no arguments"):
        model = function()
    if not callable(model):
        raise TeacherError(
            f"{name} returns a {type(model).__name__}; expected a module or callable from normalised images "
            "(B, 3, h, w) to logits (B, C, H, W)"
        )
    return model


def _preprocessing(spec: TeacherSpec, model: object) -> Preprocessing:
    """What the model says of its images: ``image_size_hw``, ``mean``, ``std``, ``interpolation``, all optional."""
    unsaid = [name for name in ("mean", "std") if not hasattr(model, name) and getattr(spec, name) is None]
    if unsaid:
        _log.warning(
            "%s does not say its %s: it is given pixels in [0, 1]. If it was trained otherwise, let what it returns "
            "have these attributes, or give --mean and --std",
            spec.name,
            " and ".join(unsaid),
        )
    with blaming(
        f"{spec.name} says of its images what cannot be used",
        "Expected image_size_hw = (height, width), mean and std of three numbers, interpolation bilinear or bicubic",
    ):
        height, width = getattr(model, "image_size_hw", (224, 224))
        mean, std = (
            tuple(float(v) for v in getattr(model, name, default))
            for name, default in (("mean", (0.0,) * 3), ("std", (1.0,) * 3))
        )
        interpolation: Any = getattr(model, "interpolation", "bilinear")
        if len(mean) != 3 or len(std) != 3 or interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"mean {mean}, std {std}, interpolation {interpolation!r}")
        own = Preprocessing(image_size_hw=(int(height), int(width)), mean=mean, std=std, interpolation=interpolation)
    return chosen(spec, own)
