"""From a classifier (B, 3, h, w) -> (B, C), wherever it came from, to a proved candidate."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.blame import blaming
from relabel.teacher.candidate import Candidate, answer_of, noise_of
from relabel.teacher.dense import WAY_OUT
from relabel.teacher.hooked import dense_by_hook
from relabel.teacher.spec import TeacherSpec

_PLACE = re.compile(r"(.+)@([\w.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A classifier with its weights, not yet on its device.

    `weights` is what a manifest calls them and `digest` their sha256; `way_out` says what to do where it does not take
    images of the size in `preprocessing`; `place` is the submodule that puts out its feature map, empty to find it.
    """

    model: nn.Module
    weights: str
    digest: str
    preprocessing: Preprocessing
    place: str = ""
    class_names: tuple[str, ...] | None = None
    way_out: str = "Give another --image-size"


def split_place(name: str) -> tuple[str, str]:
    """A teacher's name without its ``@SUBMODULE``, and that submodule, empty where none is named."""
    found = _PLACE.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


def candidate_of(found: Classifier, spec: TeacherSpec, device: torch.device) -> Candidate:
    """Move a classifier to its device, make it dense and prove it.

    Raises:
        TeacherError: it does not take the images, is no classifier, or cannot be proved.
    """
    name, height, width = spec.name, *found.preprocessing.image_size_hw
    with blaming(f"{name} cannot be moved to {device}", "Use another --device"):
        model = found.model.to(device).eval().requires_grad_(False)
    images = noise_of(found.preprocessing, device)
    with blaming(f"{name} does not take images of {height} x {width} pixels", found.way_out), torch.inference_mode():
        _check_patches(model, height, width)
        answer: object = model(images)
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(images):
        kind = tuple(answer.shape) if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise TeacherError(f"{name} is not a classifier: it answers {kind} for {len(images)} images, not (B, C)")
    with blaming(f"the head of {name} cannot be proved", WAY_OUT):
        dense, proof = dense_by_hook(model, name, images, found.place)
        dense_answer = answer_of(dense, name, images[:1])
    return Candidate(
        forward=dense,
        preprocessing=found.preprocessing,
        record=TeacherRecord(
            name=name, weights=found.weights, weights_digest=found.digest, head=proof.kind, precision=spec.precision
        ),
        proof=proof,
        answer=dense_answer,
        class_names=found.class_names,
    )


def _check_patches(model: nn.Module, height: int, width: int) -> None:
    """Refuse an input that patches do not divide: its last pixels would not be seen, and every cell be misplaced."""
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.in_channels != 3 or module.padding not in ((0, 0), "valid"):
            continue
        rows, columns = module.kernel_size
        if module.kernel_size == module.stride and (height % rows or width % columns):
            raise ValueError(f"its patches of {rows} x {columns} pixels do not divide them")
