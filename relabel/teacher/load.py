"""From a `TeacherSpec` to a proved `Teacher`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from relabel.ambient import torch_defaults
from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.manifest import Preprocessing, TeacherRecord, Weights
from relabel.teacher.blame import blaming
from relabel.teacher.classes import KeptClasses, imagenet_classes, kept_classes
from relabel.teacher.devices import cast_once, find_device, find_precision
from relabel.teacher.heads.door import dense_of
from relabel.teacher.orientation import localises
from relabel.teacher.proof import Proof
from relabel.teacher.sources import function, timm, torchvision, transformers
from relabel.teacher.sources.fetched import Fetched
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.teacher import Teacher

_log = logging.getLogger(__name__)

_SOURCES: dict[str, Callable[[TeacherSpec], Fetched]] = {
    "timm": timm.fetch,
    "torchvision": torchvision.fetch,
    "transformers": transformers.fetch,
    "function": function.fetch,
}


@torch_defaults()
def load_teacher(spec: TeacherSpec) -> Teacher:
    """Build, load and prove a teacher.

    Raises:
        TeacherError: unknown name, weights that cannot be had or do not fit, an input size it does not take, or a head
            that cannot be proved; says what to do.
    """
    device = find_device(spec.device)
    precision = find_precision(spec.precision, device)
    if spec.decode == "cuda" and device.type != "cuda":
        raise TeacherError(
            f"a GPU cannot decode for a teacher on {device}: leave --decode cuda out, or give --device cuda"
        )
    fetched = _SOURCES[spec.source](spec)
    images = noise_of(fetched.preprocessing, device)
    forward, proof = _dense(fetched, spec.name, images)
    if not proof.localises:
        _log.warning(
            "a change in a corner of a noise image does not show most in that corner of the map of %s: its score maps "
            "may say little of where things are. Look at some before labelling many images",
            spec.name,
        )
    with blaming(f"{spec.name} cannot be proved", fetched.way_out):
        num_classes, grid = _answer(forward, spec.name, images[:1])
        weights_digest = fetched.digest or _digest_of_answers(forward, images)
    record = TeacherRecord(
        source=spec.source,
        name=spec.name,
        weights=_weights(spec),
        seed=spec.random_weights,
        weights_digest=weights_digest,
        head=proof.kind,
        precision=precision,
    )
    class_names = fetched.class_names
    if class_names is not None and len(class_names) != num_classes:
        _log.warning(
            "%s names %d classes and answers %d: its names are left out", spec.name, len(class_names), num_classes
        )
        class_names = None
    if spec.classes is not None:
        wordnet_ids = (imagenet_classes(num_classes) if fetched.is_imagenet else None) or {}
        if wordnet_ids and spec.checkpoint is not None:
            _log.warning(
                "the %d classes of the checkpoint of %s are taken to be ImageNet's with so many, in timm's order",
                *(num_classes, spec.name),
            )
        kept = kept_classes(spec.classes, num_classes, wordnet_ids, class_names, spec.name)
        forward = KeptClasses(forward, kept.numbers, device)
        record = replace(record, kept=kept.record)
        num_classes, class_names = len(kept.numbers), kept.names
    cast_once(forward, images, precision)
    if spec.channels_last:
        # torch's stubs lack the overload that takes a memory format alone.
        forward.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(
        forward=torch.compile(forward) if spec.compile else forward,
        num_classes=num_classes,
        grid=grid,
        preprocessing=fetched.preprocessing,
        record=record,
        proof=proof,
        device=device,
        channels_last=spec.channels_last,
        class_names=class_names,
    )


def _weights(spec: TeacherSpec) -> Weights:
    if spec.random_weights is not None:
        return "random"
    return "own" if spec.source == "function" else "pretrained" if spec.checkpoint is None else "checkpoint"


def _dense(fetched: Fetched, name: str, images: Tensor) -> tuple[nn.Module, Proof]:
    """The model on the images' device, and dense: by itself, or made so."""
    model = fetched.model
    if not isinstance(model, nn.Module):
        model = _InOrder(model)
    with blaming(f"{name} cannot be moved to {images.device}", "Use another --device"):
        model = model.to(images.device).eval().requires_grad_(False)
    height, width = images.shape[2:]
    blamed = blaming(f"{name} does not take images of {height} x {width} pixels", fetched.way_out)
    with blamed, torch.inference_mode(), _whole_patches(model):
        answer: object = model(images)
    is_classifier = isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(images)
    # It may well fail, or answer otherwise, at a later call.
    with blaming(f"{name} cannot be proved", fetched.way_out):
        if is_classifier and not isinstance(model, _InOrder):
            return dense_of(model, name, images, fetched.place)
        model = model if isinstance(model, _InOrder) else _InOrder(model)
        _answer(model, name, images)
        if fetched.place:
            raise TeacherError(f"{name} answers maps by itself: leave @{fetched.place} out")
        return model, Proof("given", 0.0, 0.0, localises(model, name, images[:1]))


class _InOrder(nn.Module):
    """A user's model, given its images as (B, 3, h, w) lie in memory: it may well call `view` on them."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Tensor:
        return self._model(images.contiguous())


@contextmanager
def _whole_patches(model: nn.Module) -> Iterator[None]:
    """Refuse an input that patches do not divide: its last pixels would not be seen, and every cell be misplaced.

    Patches are asked what they are given, since some models pad or resize their images before.
    """

    def check(patches: nn.Module, given: tuple[Tensor]) -> None:
        rows, columns = patches.kernel_size  # type: ignore[misc]  # a convolution's two numbers
        if given[0].shape[2] % rows or given[0].shape[3] % columns:
            raise ValueError(f"its patches of {rows} x {columns} pixels do not divide them")

    with ExitStack() as hooks:
        for module in model.modules():
            is_patching = isinstance(module, nn.Conv2d) and module.kernel_size == module.stride
            if is_patching and module.in_channels == 3 and module.padding in ((0, 0), "valid"):
                hooks.enter_context(module.register_forward_pre_hook(check))
        yield


def _answer(forward: Callable[[Tensor], Tensor], name: str, images: Tensor) -> tuple[int, Grid]:
    """The number of classes, and the grid, of what a model answers to normalised images (B, 3, h, w).

    Raises:
        TeacherError: anything but finite floating point logits (B, C, H, W) of two classes or more.
    """
    with torch.inference_mode():
        logits: object = forward(images)
    if not isinstance(logits, Tensor):
        raise TeacherError(f"{name} answers a {type(logits).__name__}; expected a tensor of logits (B, C, H, W)")
    if logits.ndim != 4 or len(logits) != len(images) or not logits.is_floating_point():
        raise TeacherError(
            f"{name} answers {tuple(logits.shape)} of {logits.dtype} for {len(images)} images; "
            f"expected floating point logits ({len(images)}, C, H, W), one per class at every cell, or a module that "
            f"answers ({len(images)}, C)"
        )
    if logits.shape[1] < 2:
        raise TeacherError(f"{name} answers {logits.shape[1]} classes; a soft label needs two or more")
    if not bool(logits.isfinite().all()):
        raise TeacherError(f"{name} answers NaN or infinity: its weights are damaged, or were never trained")
    if logits.numel() and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        raise TeacherError(f"{name} answers probabilities; expected logits. Leave its softmax out, or answer their log")
    return logits.shape[1], Grid(*logits.shape[2:])


def _digest_of_answers(model: nn.Module, images: Tensor) -> str:
    """What tells two callables without a state apart: the likeliest class at every cell for fixed images."""
    with torch.inference_mode():
        likeliest = model(images).argmax(1).cpu()
    return hashlib.sha256(f"{tuple(likeliest.shape)} {likeliest.flatten().tolist()}".encode()).hexdigest()


def noise_of(preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Two images of a fixed pattern (2, 3, h, w), so that a proof never fails or passes by chance."""
    height, width = preprocessing.image_size_hw
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
