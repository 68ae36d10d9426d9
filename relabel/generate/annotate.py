"""The device stage: decoded pixels in, coded score maps out, one wait for the device a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import TeacherError
from relabel.manifest import ScoreRecord
from relabel.score_map import ScoreMap
from relabel.store import RowBatch
from relabel.teacher import Teacher

_LARGEST = 1e30
"""Logits beyond this are as bad as infinite ones: their sums over classes and cells would be."""
_LEAST_HALF = torch.finfo(torch.float16).min


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Score maps on their way from the device."""

    tensors: dict[str, Tensor]
    id_dtype: str
    arrived: torch.cuda.Event | None

    def wait(self) -> tuple[RowBatch, NDArray[np.bool_]]:
        """The coded maps, and which images (n,) had finite scores only; the maps of the others mean nothing."""
        if self.arrived is not None:
            self.arrived.synchronize()
        arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        finite = arrays.pop("finite")
        # torch neither sorts nor gathers by unsigned ids, so they become unsigned only here.
        ids = arrays.pop("classes").astype(self.id_dtype)
        return RowBatch(classes=ids, footprint=None, **arrays), finite


class Annotator:
    """A teacher and the coding of its score maps; `id_dtype` is that of the store's array of classes."""

    def __init__(self, teacher: Teacher, record: ScoreRecord, id_dtype: str) -> None:
        self._teacher, self._record, self._id_dtype = teacher, record, id_dtype

    def annotate(self, pixels: Tensor) -> PendingScores:
        """Start the score maps of pixels uint8 (n, 3, h, w); the device works on after this returns.

        Raises:
            TeacherError: the batch does not fit into the device's memory.
        """
        device = self._teacher.device
        try:
            with torch.inference_mode():
                tensors = self._coded(self._teacher(pixels.to(device, non_blocking=True)))
        except torch.cuda.OutOfMemoryError as error:
            raise TeacherError(
                f"a batch of {len(pixels)} images does not fit into the memory of {device}: {error}. "
                "Give a smaller --batch-size"
            ) from error
        if device.type != "cuda":
            return PendingScores(tensors, self._id_dtype, None)
        # To the CPU without blocking means into page-locked memory; its stream is that of the teacher's device, which
        # need not be the current one.
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        return PendingScores(copies, self._id_dtype, torch.cuda.current_stream(device).record_event())

    def _coded(self, logits: Tensor) -> dict[str, Tensor]:
        # Two small reductions rather than a mask as large as the logits; NaN is neither above nor below anything.
        finite = (logits.amax((1, 2, 3)) <= _LARGEST) & (logits.amin((1, 2, 3)) >= -_LARGEST)
        # A map of zeros in its place keeps its neighbours in the batch exact; it is recorded as failed, not stored.
        logits = torch.where(finite[:, None, None, None], logits, 0)
        maps = ScoreMap.from_logits(logits, self._record.planes, self._record.profile)
        coded = maps.coded()
        kept = coded if self._record.dtype == "uint8" else maps
        scores = torch.cat([kept.planes, kept.rest.unsqueeze(1)], dim=1)
        if self._record.dtype == "float16":
            # Beyond its range a half is infinite, and an infinite score is none.
            scores = scores.clamp(min=_LEAST_HALF).half()
        profile = coded.profile
        if profile is None:
            profile = torch.zeros(len(coded), 1, dtype=torch.int8, device=logits.device)
        return {"classes": coded.classes, "scores": scores, "profile": profile, "finite": finite}
