"""The one way from a classifier, whoever brought it, to dense logits that are proved."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.teacher.blame import blaming
from relabel.teacher.heads.dense import WAY_OUT, DenseClassifier, find_layout
from relabel.teacher.heads.families import adapted
from relabel.teacher.heads.hooked import dense_by_hook
from relabel.teacher.proof import DOUBTFUL, Proof, proved

_log = logging.getLogger(__name__)


def dense_of(model: nn.Module, name: str, images: Tensor, place: str = "") -> tuple[DenseClassifier, Proof]:
    """Make a classifier dense and prove it: by its family's adapter, else by its features and head, else by a hook.

    Args:
        model: normalised images (B, 3, h, w) to logits (B, C).
        name: the teacher's, for errors.
        images: normalised, of the size that the teacher takes.
        place: the submodule that puts out its feature map, for a hook; empty finds the way.

    Raises:
        TeacherError: no way can be proved; says what the first one lacks.
    """
    dense, proof = _proved(model, name, images, place)
    if proof.agreement < DOUBTFUL:
        _log.warning(
            "the mean of the map of %s hardly says what the model itself says of noise (correlation over the classes "
            "%.2f): with trained weights, label a few images and look at `relabel verify labels` before many",
            *(name, proof.agreement),
        )
    return dense, proof


def _proved(model: nn.Module, name: str, images: Tensor, place: str) -> tuple[DenseClassifier, Proof]:
    first: TeacherError | None = None
    halves = None if place else adapted(model) or _in_halves(model)
    if halves is not None:
        try:
            with blaming(f"the head of {name} cannot be proved", WAY_OUT):
                return proved(halves, find_layout(halves, name, images), name, images)
        except TeacherError as error:
            _log.debug("%s", error)
            first = error
    try:
        with blaming(f"the head of {name} cannot be proved", WAY_OUT):
            return dense_by_hook(model, name, images, place)
    except TeacherError as error:
        raise first or error from error


def _in_halves(model: nn.Module) -> nn.Module | None:
    """The model, where it says its features and its head as timm's do."""
    return model if all(hasattr(model, half) for half in ("forward_features", "forward_head")) else None
