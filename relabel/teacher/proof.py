"""The proof that a teacher's dense logits are the model's own answers: on every load, before a GPU-hour is spent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from relabel.ambient import float32
from relabel.errors import TeacherError
from relabel.teacher.blame import blaming
from relabel.teacher.heads.class_tokens import STRANGE, reads_strange_tokens
from relabel.teacher.heads.dense import TOLERANCE, WAY_OUT, DenseClassifier, FeatureLayout, find_layout, refusal
from relabel.teacher.orientation import localises

_log = logging.getLogger(__name__)

_LINEAR = 1e-5
"""A linear head's mean is ten times nearer than this; attention that hardly attends comes within `TOLERANCE`."""

DOUBTFUL = 0.5
"""A map whose mean correlates less than this, over the classes, with the model's own answer is told of, not refused.

At random weights: 0.78 to 1 for heads that pool, 0.67 to 0.99 for class tokens of deep transformers; but 0.23
(CrossViT), 0.25 (CoaT), 0.40 (ConViT), 0.44 (TNT), 0 (DINOv2 of two blocks) where a class token of random numbers has
few layers to take up what stands in the image. That is no nearer than what is surely wrong, class attention cut at its
norm: 0.17 to 0.25. So no number refuses; `heads.class_tokens` does, by how the class token is made.
"""

MOST_REPEATED = 256
"""The largest number of cells whose heads are each run over a whole grid."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved of a head.

    `kind` is "linear" where the mean of the dense logits over the cells is the model's own answer, "constant-field"
    where every cell's answer is the model's own for features made equal everywhere, "given" where a model answers
    (B, C, H, W) by itself. The errors are relative. `localises` says whether a change in each corner of the image shows
    most in that corner's cell. `repeated` says that the head knows places, so that it is run over a whole grid for
    every cell. `agreement` is the lowest correlation, over the classes, of the mean of an image's map with the model's
    own answer to it, 1 for linear heads.
    """

    kind: Literal["linear", "constant-field", "given"]
    linear_error: float
    constant_error: float
    localises: bool
    repeated: bool = False
    agreement: float = 1.0


class NotHalves(TeacherError):
    """Features that do not decide the answer alone, or decide it by class tokens of another kind than they are."""


class NotAlone(TeacherError):
    """A head that answers otherwise to one location alone than to a whole grid of it."""


def proved(model: Any, layout: FeatureLayout, name: str, images: Tensor) -> tuple[DenseClassifier, Proof]:
    """A model that answers at every location, with its proof; see `prove`.

    A head that does not take one location alone, because it knows places, is run over a whole grid of each of them,
    where the grid is of at most `MOST_REPEATED` cells.
    """
    dense = DenseClassifier(model, layout)
    try:
        return dense, prove(dense, name, images)
    except NotAlone as error:
        cells = layout.grid.height * layout.grid.width
        if cells > MOST_REPEATED:
            raise
        _log.debug("%s", error)
    dense = DenseClassifier(model, layout, repeated=True)
    proof = prove(dense, name, images)
    _log.warning("the head of %s knows places: it is run %d times for an image, once for each cell", name, cells)
    return dense, proof


def prove(dense: DenseClassifier, name: str, images: Tensor) -> Proof:
    """Prove a head on normalised images (B, 3, h, w), in float32, on the model's device.

    Raises:
        TeacherError: the head cannot be proved, or its answers are not finite.
    """
    model, layout = dense.model, dense.layout
    with torch.inference_mode(), float32():
        features = model.forward_features(images)
        own = model(images)
        if own.ndim != 2:
            raise TeacherError(f"{name} is not a classifier: it answers {tuple(own.shape)} for {len(images)} images")
        _check_finite(name, own)
        _check_halves(dense, name, images, own)
        with _raising(NotAlone), blaming(f"the head of {name} does not take one location alone", WAY_OUT):
            logits = dense.head(features)
        _check_answers(name, own, logits)
        linear = max(_relative(logits.mean((2, 3)), own), _linear_error(dense, features))
        constant = layout.everywhere(layout.cells(features).mean((1, 2)))
        constant_error = _relative(dense.head(constant), model.forward_head(constant)[:, :, None, None])
        if constant_error > TOLERANCE:
            why = f"with equal features everywhere its dense logits are {constant_error:.1e} away from the model's own"
            raise NotAlone(refusal(name, f"{why} ({TOLERANCE:.0e} is allowed), so its head cannot be proved"))
        is_localised = localises(*_on_wide_images(dense, name, images[:1]))
    kind: Literal["linear", "constant-field"] = "linear" if linear <= _LINEAR else "constant-field"
    return Proof(kind, linear, constant_error, is_localised, dense.repeated, _agreement(logits.mean((2, 3)), own))


def _check_halves(dense: DenseClassifier, name: str, images: Tensor, own: Tensor) -> None:
    features = dense.model.forward_features(images)
    with _raising(NotHalves), blaming(f"the head of {name} does not take its features alone", WAY_OUT):
        composed = dense.model.forward_head(features)
    if (error := _relative(composed, own)) > TOLERANCE:
        why = f"a part of its answer passes its features by: what its head makes of them is {error:.1e} away"
        raise NotHalves(refusal(name, why))
    if reads_strange_tokens(dense, images[:1]):
        raise NotHalves(refusal(name, STRANGE))


@contextmanager
def _raising(kind: type[TeacherError]) -> Iterator[None]:
    try:
        yield
    except TeacherError as error:
        raise kind(str(error)) from error


def _check_finite(name: str, answer: Tensor) -> None:
    if not bool(answer.isfinite().all()):
        raise TeacherError(f"{name} answers NaN or infinity: its weights are damaged, or were never trained")


def _check_answers(name: str, own: Tensor, logits: Tensor) -> None:
    _check_finite(name, logits)
    if own.shape[1] != logits.shape[1]:
        raise TeacherError(
            refusal(name, f"it answers {own.shape[1]} classes for an image, and {logits.shape[1]} for one location")
        )
    moved = (logits - logits[:1, :, :1, :1]).abs().max()
    if bool(moved <= torch.finfo(torch.float32).eps * logits.abs().max()):
        raise TeacherError(
            f"{name} answers the same to every location of every image: its weights are damaged, or were never trained"
        )


def _linear_error(dense: DenseClassifier, features: Tensor) -> float:
    """How far the head is from linear on features that differ as much as they can from cell to cell.

    A backbone's answers to noise are so alike that a norm after the pool hardly shows in their mean.
    """
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
    noise = noise * features.square().mean().sqrt()
    return _relative(dense.head(noise).mean((2, 3)), dense.model.forward_head(noise))


def _agreement(found: Tensor, expected: Tensor) -> float:
    """The lowest correlation over the classes of two answers (B, C)."""
    one, other = (answer.double() - answer.double().mean(1, keepdim=True) for answer in (found, expected))
    return float(torch.cosine_similarity(one, other).min())


def _relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the spread of the expected logits (B, C, ...) over the classes.

    Softmax sees the spread only: an offset common to all classes must not hide a difference. Where it is so large that
    float32 itself loses the spread, a hundredth of it counts.
    """
    spread = (expected - expected.mean(1, keepdim=True)).abs().max()
    scale = torch.maximum(spread, expected.abs().max() / 100).clamp(min=1e-12)
    return float((found - expected).abs().max() / scale)


def _on_wide_images(dense: DenseClassifier, name: str, images: Tensor) -> tuple[DenseClassifier, str, Tensor]:
    """The same model on images half as wide again, where it takes them: there a transposed grid cannot hide."""
    grid = dense.layout.grid
    if grid.height != grid.width:
        return dense, name, images
    wide = torch.cat([images, images[:, :, :, : images.shape[3] // 2]], dim=3)
    try:
        layout = find_layout(dense.model, name, wide)
    except Exception as error:  # noqa: BLE001
        # Models of one size only. Their own square still shows a transposition, by its four corners.
        _log.debug("%s takes no images of %s: %s", name, tuple(wide.shape), error)
        return dense, name, images
    if layout.grid.height != grid.height or layout.grid.width < grid.width:
        raise TeacherError(
            f"{name} answers a grid of {layout.grid} for a wide image of {images.shape[2]} x {wide.shape[3]} pixels: "
            "its feature layout is not understood; take another"
        )
    return type(dense)(dense.model, layout, dense.repeated), name, wide
