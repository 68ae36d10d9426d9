"""The device stage: decoded pixels in, coded score maps out, one wait for the device a batch."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import TeacherError, lacks_memory
from relabel.geometry import WHOLE
from relabel.manifest import ScoreRecord
from relabel.plan import even_batches
from relabel.score_map import ScoreMap
from relabel.store import RowBatch
from relabel.store.maps import coded_tensors
from relabel.teacher import Ensemble
from relabel.teacher.blame import first_line

_log = logging.getLogger(__name__)

_LARGEST = 1e30
"""Logits beyond this are as bad as infinite ones: their sums over classes and cells would be."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Score maps of one forward pass, on their way; `events` are its begin and its end on a device that has such."""

    tensors: dict[str, Tensor]
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None
    host_seconds: float

    def fetched(self) -> dict[str, Tensor]:
        """The tensors, once they are on the CPU."""
        if self.events is not None:
            self.events[1].synchronize()
        return self.tensors

    def seconds(self) -> float:
        """How long the device took."""
        return self.host_seconds if self.events is None else self.events[0].elapsed_time(self.events[1]) / 1000


@dataclass(frozen=True, slots=True)
class AnnotatedBatch:
    """Coded maps of n images; `finite` (n,) says which had finite scores only, and the others' maps mean nothing.

    `seconds` is how long the device took.
    """

    scores: RowBatch
    finite: NDArray[np.bool_]
    seconds: float


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Score maps of a batch on their way from the device, in one part or more."""

    parts: tuple[_Part, ...]
    record: ScoreRecord

    def wait(self) -> AnnotatedBatch:
        """The maps, once they are there."""
        found = [part.fetched() for part in self.parts]
        # Without a copy where there is one part, as there nearly always is.
        joined = {name: torch.cat([f[name] for f in found]) if found[1:] else found[0][name] for name in found[0]}
        finite = joined.pop("finite").numpy()
        batch = RowBatch.fetched(joined, self.record, WHOLE)
        return AnnotatedBatch(batch, finite, sum(part.seconds() for part in self.parts))


class Annotator:
    """Teachers, and how a store keeps their score maps."""

    def __init__(self, ensemble: Ensemble, record: ScoreRecord) -> None:
        self._ensemble, self._record = ensemble, record
        device = ensemble.device
        # Pixels travel while the device computes; in its own stream their copy would wait for the batch before.
        is_cuda = device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if is_cuda else None
        self._fitting = sys.maxsize
        self._refusal = ""

    def annotate(self, views: Sequence[Tensor]) -> PendingScores:
        """Start the score maps of images, uint8 (n, 3, h, w) for each view; the device works on after this returns.

        A batch that does not fit into the device's memory is halved until its parts do, and later ones are cut at once.

        Raises:
            TeacherError: not even one image fits.
        """
        parts: list[_Part] = []
        left, before = [tuple(views)], self._fitting
        while left:
            piece = left.pop()
            count = len(piece[0])
            if count > self._fitting:
                sizes = even_batches(count, self._fitting)
                left += reversed(list(zip(*(torch.split(view, sizes) for view in piece), strict=True)))
                continue
            part = self._started(piece)
            if part is not None:
                parts.append(part)
                continue
            if count == 1:
                raise TeacherError(
                    f"not even one image fits into the memory of {self._ensemble.device}: {self._refusal}. Free it of "
                    "other programs, or give a smaller --image-size, fewer teachers, --precision bfloat16 or another "
                    "--device"
                )
            self._fitting = (count + 1) // 2
            left.append(piece)
        if self._fitting < before:
            _log.warning(
                "a batch of %d images does not fit into the memory of %s; %d at a time do, and so it goes on. "
                "Give --batch-size %d to be as fast from the start",
                len(views[0]),
                self._ensemble.device,
                self._fitting,
                self._fitting,
            )
        return PendingScores(tuple(parts), self._record)

    def asked(self, views: Sequence[Tensor]) -> Tensor:
        """The teachers' log-probabilities (n, C, H, W) float32 on the CPU of images, uint8 (n, 3, h, w) for each view.

        Raises:
            TeacherError: they fail.
        """
        with torch.inference_mode():
            return self._ensemble(views).log_softmax(1).cpu()

    @property
    def is_compiled(self) -> bool:
        """Whether a teacher was made for one number of images."""
        return any(hasattr(member.forward, "_orig_mod") for member in self._ensemble.members)

    def try_whole(self, views: Sequence[Tensor]) -> PendingScores | None:
        """The same in one part, or None if that does not fit."""
        part = self._started(tuple(views))
        return None if part is None else PendingScores((part,), self._record)

    def _started(self, views: tuple[Tensor, ...]) -> _Part | None:
        try:
            with torch.inference_mode():
                return self._start(views)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            self._refusal = first_line(error)
        # Not before the handler is left: the error holds the frames, and they the tensors, that memory is needed for.
        gc.collect()
        if self._copying is not None:
            torch.cuda.empty_cache()
        return None

    def _start(self, views: tuple[Tensor, ...]) -> _Part:
        device = self._ensemble.device
        if self._copying is None:
            started = time.perf_counter()
            tensors = self._coded(self._ensemble(views))
            return _Part(tensors, None, time.perf_counter() - started)
        # The stream of the teacher's device, which need not be the current one.
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._copying):
            there = [view.to(device, non_blocking=True) for view in views]
        computing.wait_stream(self._copying)
        for view in there:
            view.record_stream(computing)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(computing)
        tensors = self._coded(self._ensemble(there))
        # To the CPU without blocking means into page-locked memory.
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        end.record(computing)
        return _Part(copies, (begin, end), 0.0)

    def _coded(self, logits: Tensor) -> dict[str, Tensor]:
        # Two small reductions rather than a mask as large as the logits; NaN is neither above nor below anything.
        finite = (logits.amax((1, 2, 3)) <= _LARGEST) & (logits.amin((1, 2, 3)) >= -_LARGEST)
        # A map of zeros in its place keeps its neighbours in the batch exact; it is recorded as failed, not stored.
        logits = torch.where(finite[:, None, None, None], logits, 0)
        maps = ScoreMap.from_logits(logits, self._record.planes, self._record.profile)
        return coded_tensors(maps, self._record) | {"finite": finite}
