"""What every source of teachers hands over: a model that answers (B, C, H, W), and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.proof import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proved model on its device; `forward` maps normalised images (B, 3, h, w) to logits (B, C, H, W)."""

    forward: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    record: TeacherRecord
    proof: Proof
    answer: Answer
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The shape of a dense answer: C classes at each cell of a grid."""

    num_classes: int
    grid: Grid


def answer_of(forward: Callable[[Tensor], Tensor], name: str, images: Tensor) -> Answer:
    """Look at what a model answers to normalised images (B, 3, h, w).

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
            f"expected floating point logits ({len(images)}, C, H, W), one a class at every cell"
        )
    if logits.shape[1] < 2:
        raise TeacherError(f"{name} answers {logits.shape[1]} classes; a soft label needs two or more")
    if not bool(logits.isfinite().all()):
        raise TeacherError(f"{name} answers NaN or infinity: its weights are damaged, or were never trained")
    if logits.numel() and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        raise TeacherError(f"{name} answers probabilities; expected logits. Leave its softmax out, or answer their log")
    return Answer(logits.shape[1], Grid(*logits.shape[2:]))


def noise_of(preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Two images of a fixed pattern (2, 3, h, w), so that a proof never fails or passes by chance."""
    height, width = preprocessing.image_size_hw
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
