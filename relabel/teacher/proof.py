"""The proof that a teacher's dense logits are the model's own answers: on every load, before a GPU-hour is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.teacher.dense import DenseClassifier, find_layout

TOLERANCE = 1e-4
"""Relative to the largest own logit, in float32."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved of a head.

    `kind` is "linear" where the mean of the dense logits over the cells is the model's own answer, "constant-field"
    where every cell's answer is the model's own for features made equal everywhere, "given" where a model answers
    (B, C, H, W) by itself. The errors are relative. `localises` says whether a change in a corner of the image moved
    that corner's cell most.
    """

    kind: Literal["linear", "constant-field", "given"]
    linear_error: float
    constant_error: float
    localises: bool


def prove(dense: DenseClassifier, name: str, images: Tensor) -> Proof:
    """Prove a head on normalised images (B, 3, h, w), in float32, on the model's device.

    Raises:
        TeacherError: the head cannot be proved, or its answers are not finite.
    """
    layout = dense.layout
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        features = dense.model.forward_features(images)
        own = dense.model(images)
        logits = dense.head(features)
        if not bool(own.isfinite().all() and logits.isfinite().all()):
            raise TeacherError(f"{name} answers NaN or infinity: its weights are damaged, or were never trained")
        if own.ndim != 2 or own.shape[1] != logits.shape[1]:
            raise TeacherError(f"{name} is not a classifier: it answers {tuple(own.shape)} for {len(images)} images")
        linear = _relative(logits.mean((2, 3)), own)
        constant = layout.everywhere(layout.cells(features).mean((1, 2)))
        answers = dense.head(constant)
        constant_error = _relative(answers, dense.model.forward_head(constant)[:, :, None, None])
        localises = _localises(dense, name, images)
    if constant_error > TOLERANCE:
        raise TeacherError(
            f"the head of {name} cannot be proved: with equal features everywhere its dense logits differ from the "
            f"model's own by {constant_error:.1e} of their size (at most {TOLERANCE:.0e} is allowed). Take another "
            "family, or give package.module:function returning a model that answers (B, C, H, W)"
        )
    return Proof("linear" if linear <= TOLERANCE else "constant-field", linear, constant_error, localises)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _localises(dense: DenseClassifier, name: str, images: Tensor) -> bool:
    """Change two opposite corners, one after the other; a layout read transposed swaps them."""
    wide = _on_wide_images(dense, name, images)
    dense, images = wide or (dense, images)
    before = dense(images)
    height, width = before.shape[2:]
    patch_h, patch_w = images.shape[2] // height, images.shape[3] // width
    corners = {
        (0, width - 1): (slice(0, patch_h), slice(-patch_w, None)),
        (height - 1, 0): (slice(-patch_h, None), slice(0, patch_w)),
    }
    localises = True
    for cell, (rows, columns) in corners.items():
        changed = images.clone()
        changed[:, :, rows, columns] = -changed[:, :, rows, columns] + 1
        moved = (dense(changed) - before).square().sum((0, 1))
        most = divmod(int(moved.argmax()), width)
        if height > 1 and width > 1 and most == (height - 1 - cell[0], width - 1 - cell[1]):
            raise TeacherError(
                f"the map of {name} is transposed: a change in the image's corner at row {cell[0]}, column {cell[1]} "
                f"moves the cell at row {most[0]}, column {most[1]} most. This model's feature layout is not "
                "understood; take another"
            )
        localises &= most == cell
    return localises


def _on_wide_images(dense: DenseClassifier, name: str, images: Tensor) -> tuple[DenseClassifier, Tensor] | None:
    """The same model on images half as wide again, where it takes them: there a transposed grid cannot hide."""
    wide = torch.cat([images, images[:, :, :, : images.shape[3] // 2]], dim=3)
    try:
        layout = find_layout(dense.model, name, wide)
    except (RuntimeError, AssertionError, ValueError, IndexError, TeacherError):
        return None
    if layout.grid.height >= layout.grid.width and layout.grid.height > 1:
        raise TeacherError(
            f"{name} answers a grid of {layout.grid} for a wide image of {images.shape[2]} x {wide.shape[3]} pixels: "
            "its feature layout is not understood; take another"
        )
    return DenseClassifier(dense.model, layout), wide
