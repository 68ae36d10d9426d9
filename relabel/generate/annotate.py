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


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Score maps on their way from the device."""

    tensors: dict[str, Tensor]
    id_dtype: type[np.uint16] | type[np.uint32]
    arrived: torch.cuda.Event | None

    def wait(self) -> tuple[RowBatch, NDArray[np.bool_]]:
        """The coded maps, and which images (n,) had finite scores only."""
        if self.arrived is not None:
            self.arrived.synchronize()
        arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        finite = arrays.pop("finite")
        # torch neither sorts nor gathers by unsigned ids, so they become unsigned only here.
        ids = arrays.pop("classes").astype(self.id_dtype)
        return RowBatch(classes=ids, footprint=None, **arrays), finite


class Annotator:
    """A teacher and the coding of its score maps."""

    def __init__(self, teacher: Teacher, record: ScoreRecord) -> None:
        self._teacher, self._record = teacher, record
        self._id_dtype = np.uint16 if record.num_classes < 2**16 else np.uint32

    def annotate(self, pixels: Tensor) -> PendingScores:
        """Start the score maps of pixels uint8 (n, 3, h, w); the device works on after this returns.

        Raises:
            TeacherError: the batch does not fit into the device's memory.
        """
        device = self._teacher.device
        try:
            with torch.inference_mode():
                logits = self._teacher(pixels.to(device, non_blocking=True))
                tensors = self._coded(logits)
        except torch.cuda.OutOfMemoryError as error:
            raise TeacherError(
                f"a batch of {len(pixels)} images does not fit into the memory of {device}: {error}. "
                "Give a smaller --batch-size"
            ) from error
        if device.type != "cuda":
            return PendingScores(tensors, self._id_dtype, None)
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        arrived = torch.cuda.Event()
        arrived.record()
        return PendingScores(copies, self._id_dtype, arrived)

    def _coded(self, logits: Tensor) -> dict[str, Tensor]:
        finite = logits.isfinite().flatten(1).all(1)
        # A row of zeros keeps its neighbours in the batch exact; it is recorded as failed, not stored.
        logits = torch.where(finite[:, None, None, None], logits, 0)
        maps = ScoreMap.from_logits(logits, self._record.planes, self._record.profile)
        coded = maps.coded()
        scores = coded if self._record.dtype == "uint8" else maps
        stacked = torch.cat([scores.planes, scores.rest.unsqueeze(1)], dim=1)
        profile = coded.profile if coded.profile is not None else torch.zeros(len(coded), 1, dtype=torch.int8)
        return {
            "classes": coded.classes,
            "scores": stacked if self._record.dtype == "uint8" else stacked.half(),
            "profile": profile,
            "finite": finite,
        }
