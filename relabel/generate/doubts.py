"""What a run notices of its teacher and its store that no proof can refuse: told as warnings, and changing no byte."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.generate.annotate import AnnotatedBatch
from relabel.store import Row

_log = logging.getLogger(__name__)

_ASKED = 1
"""Images of the calls that are compared, three in a run: every teacher was proved with one alone, too."""
_SAME_NATS = 1e-3
"""What coding costs a pooled label anyway; a GPU may add in another order each time, which is far less."""


class Doubts:
    """Whether the teacher answers the same when it is asked again, and something else for another image.

    `ask` answers log-probabilities (n, C, H, W) of images. Nothing is asked in a run that labels nothing.
    """

    def __init__(self, ask: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self.found: list[str] = []
        self._ask = ask
        self._views: tuple[Tensor, ...] = ()
        self._first: Tensor | None = None
        self._has_seen_two = False

    def begin(self, views: Sequence[Tensor], *, is_compiled: bool) -> None:
        """Ask twice for the first images of the run's first batch, (n, 3, h, w) for each view."""
        if self._views:
            return
        # A compiled model would be compiled again for another number of images.
        self._views = tuple((view if is_compiled else view[:_ASKED]).clone() for view in views)
        first = self._ask(self._views)
        if (nats := self._difference(first)) > _SAME_NATS:
            self._doubt(
                f"the teacher's answers differ from call to call: of the same pixels, its log-probabilities are up to "
                f"{nats:.2g} apart. Its labels are partly chance, and a run that is stopped and goes on mixes two "
                "labelings. Does it draw random numbers, or is dropout on?"
            )
        else:
            self._first = first

    def see(self, rows: Sequence[Row], batch: AnnotatedBatch) -> None:
        """Look at the maps of a batch: the first that holds two images."""
        good = [i for i, row in enumerate(rows) if not row.error and batch.finite[i]]
        if self._has_seen_two or len({rows[i].image_hash for i in good}) < 2:
            return
        self._has_seen_two = True
        arrays = (batch.scores.classes[good], batch.scores.scores[good], batch.scores.profile[good])
        if all(np.array_equal(array, np.broadcast_to(array[:1], array.shape)) for array in arrays):
            self._doubt(
                f"the teacher answers the same to all {len(good)} images of its first batch, whatever they show: are "
                "its weights, --mean and --std the right ones?"
            )

    def end(self) -> None:
        """Ask once more, for the answers may have drifted."""
        if self._first is not None and (nats := self._difference(self._first)) > _SAME_NATS:
            self._doubt(
                f"the teacher's answers changed during the run: its log-probabilities of the first image are up to "
                f"{nats:.2g} away from what they were. Does it keep a state?"
            )

    def _difference(self, first: Tensor) -> float:
        try:
            apart = (self._ask(self._views) - first).abs()
        except TeacherError as error:
            self._doubt(f"the teacher cannot be asked again: {error}")
            return 0.0
        # Infinities and NaN that are the same are failed rows, told of elsewhere.
        return float(torch.nan_to_num(apart, nan=0.0).max())

    def _doubt(self, what: str) -> None:
        self.found.append(what)
        _log.warning("%s", what)


def tell_of_change(what: str, begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warn where `what`, a store, was made with another device or with other versions than those that go on with it."""
    changed = [
        f"{name} {begun[name]} (now {now[name]})" for name in begun.keys() & now.keys() if begun[name] != now[name]
    ]
    if changed:
        _log.warning(
            "%s was begun with %s: its maps may differ from the new ones in the last bits of their scores",
            *(what, ", ".join(sorted(changed))),
        )
