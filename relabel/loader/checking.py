"""Whether the items of a data set or loader, as a trainer gets them, show what their labels are of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry.views import View
from relabel.loader.batch import CropLabels
from relabel.loader.crops import CropLabel
from relabel.loader.probing import Probe
from relabel.tickets import COLUMNS, Tickets
from relabel.tracking.agreement import Agreement
from relabel.tracking.mixing import Shown, mixed
from relabel.tracking.proof import compared, verdict

_ITEMS = 64
_RECENT = 16
"""Outputs of earlier batches that a stream may mix into the next ones."""
_TOLD = 0.25
"""Of the outputs: where fewer can be told, nothing is proved. Erasing takes a third of an image at most."""
_LEAST_BATCHES, _EPOCHS = 3, 8
"""A schedule of sizes may have its first batch in the usual one."""


@dataclass(frozen=True, slots=True)
class ViewsReport:
    """What `check_views` found; ``print(report)`` shows a table.

    Attributes:
        layers: what the images came through, the last first.
        items: how many images were looked at, of several views each view.
        batches: in how many batches, or items where there are none.
        compared: of how many the place could be told.
        plain: of how many it could not: an output of one colour, or all of it erased.
        inexact: how many are told not to be exact, since a step is ignored.
        explained: of those compared, the least and the median share of the output that the told place explains; NaN
            if none was.
        others: the shapes of what came out beside the images and was not looked at, though it could be images.
    """

    layers: tuple[str, ...]
    items: int
    batches: int
    compared: int
    plain: int
    inexact: int
    explained: tuple[float, float]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        least, median = self.explained
        rows = [
            ("through", " > ".join(self.layers)),
            ("looked at", f"{self.items} images in {self.batches} batches"),
            (
                "show what is told",
                f"{self.compared}"
                + f", explained by the told place to {median:.0%}, at least {least:.0%}" * (self.compared > 0),
            ),
            ("cannot be told", f"{self.plain} plain or erased, {self.inexact} after a step that is ignored"),
            (
                "not seen here",
                "how images are loaded or changed before the label, what the training step does to a batch"
                + "".join(f", what is of shape {shape} beside the images" for shape in self.others),
            ),
        ]
        return "\n".join(f"{name:18} {value}" for name, value in rows)


def check_views(dataset_or_loader: Any, *, items: int = _ITEMS) -> ViewsReport:
    """Prove that images show what their labels are of, at the far end of a data set, loader or pipeline.

    Images are replaced by ones whose pixels say where in which image they are, all the rest runs as it is: transforms,
    data sets around, workers, samplers, collate, what a loader does on the device. It runs on a copy with at most 2
    workers and 16 items a batch; no random number and no worker of the loader itself is used up.

    Args:
        dataset_or_loader: a `Labeled` or `LabeledCrops`, or whatever is made of one: ``Subset``, ``ConcatDataset``, a
            data set of your own, torch's ``DataLoader``, timm's ``create_loader``; or a webdataset pipeline or loader
            with `LabeledSample` in it.
        items: at least so many are looked at, of at least three batches.

    Raises:
        LabelError: views lie, it is said how; or too little is shown to prove anything; or no tickets come out, or
            some that are none.
        InvalidValueError: nothing labeled is found in what was given; `items` below 1.
    """
    if items < 1:
        raise InvalidValueError(f"items must be at least 1, to look at any; got {items}")
    probe = Probe.of(dataset_or_loader)
    looks = _Looks(probe.stand_in.size_hw)
    with probe.running() as source:
        for batch in _batches(source, items):
            looks.at(batch)
            if looks.items >= items and looks.batches >= _LEAST_BATCHES:
                break
    if not looks.items:
        raise LabelError(f"this {type(dataset_or_loader).__name__} gave nothing to look at: it is empty")
    if fault := looks.verdict():
        raise LabelError(
            f"views lie: of {looks.items} images through {' > '.join(probe.layers)}, {fault}. A step behind the label "
            "moves pixels or mixes images: crop and flip in the transform of Labeled, mix in the training step with "
            "the pooled labels, and nowhere else"
        )
    report = looks.report(tuple(probe.layers))
    if report.compared < _TOLD * (report.compared + report.plain):
        raise LabelError(
            f"nothing is proved: of {report.items} images through {' > '.join(probe.layers)}, {report.compared} show "
            f"anything that could be compared with what is told; {report.plain} are plain, erased or not finite"
        )
    return report


@dataclass(slots=True, eq=False)
class _Looks:
    """What was seen of the batches so far."""

    size_hw: Callable[[int], tuple[int, int]]
    items: int = 0
    batches: int = 0
    found: list[tuple[int, Agreement | None]] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    recent: list[Shown] = field(default_factory=list)

    def at(self, batch: Any) -> None:
        """Look at one more batch."""
        self.batches += 1
        labels, leaves = _sorted(batch)
        if not labels:
            raise LabelError(
                f"no tickets (int64, (11,)) come out with the images, but {_described(leaves)}: something on the way "
                "drops or changes them"
            )
        for label in labels:
            views, rows, shape = _read(label)
            self.items += len(rows)
            stacks = _images(leaves, shape)
            every = [self._compared(images, views, rows) for images in stacks]
            # A mask beside the image has its shape, too, and shows nothing that can be told.
            told = [any(each is not None for _, each in found) for found in every]
            taken = told.index(True) if any(told) else 0
            self.found += every[taken]
            self.others |= {f"{_shape(images[0])}" for number, images in enumerate(stacks) if number != taken}

    def _compared(
        self, images: Sequence[Any], views: Sequence[View], rows: Sequence[int]
    ) -> list[tuple[int, Agreement | None]]:
        found: list[tuple[int, Agreement | None]] = []
        right: dict[int, Shown] = {}
        for output, view, row in zip(images, views, rows, strict=True):
            for each in compared(output, view, row, self.size_hw(row)):
                shown = Shown.of(output, view, row, self.size_hw(row)) if each and not each.fault else None
                if shown is not None:
                    right[len(found)] = shown
                found.append((row, each))
        for number, is_mixed in zip(right, mixed([*right.values()], self.recent), strict=True):
            if is_mixed:
                found[number] = right[number].row, Agreement(0.0, "is mixed with another image")
        self.recent = [*self.recent, *right.values()][-_RECENT:]
        return found

    def verdict(self) -> str | None:
        """What is wrong, if anything is."""
        every = [each for _, each in self.found]
        return verdict(every) or verdict(self._repeated())

    def _repeated(self) -> list[Agreement | None]:
        """The faults of rows that had one each time they came, more than once: no chance of a draw is."""
        of_rows: dict[int, list[Agreement]] = {}
        for row, each in self.found:
            if each is not None:
                of_rows.setdefault(row, []).append(each)
        return [
            replace(each, is_sure=True)
            for agreements in of_rows.values()
            if len(agreements) > 1 and all(each.fault for each in agreements)
            for each in agreements
        ]

    def report(self, layers: tuple[str, ...]) -> ViewsReport:
        """All that was seen, where nothing is wrong."""
        told = [each.explained for _, each in self.found if each is not None]
        return ViewsReport(
            layers=layers,
            items=self.items,
            batches=self.batches,
            compared=len(told),
            plain=len(self.found) - len(told),
            inexact=self.items - len(self.found),
            explained=(min(told, default=math.nan), float(np.median(told)) if told else math.nan),
            others=tuple(sorted(self.others)),
        )


def _batches(source: Any, items: int) -> Iterator[Any]:
    """What a loader or pipeline gives, or some items of a data set; several times over where there are few."""
    if not isinstance(source, DataLoader | IterableDataset) and hasattr(source, "__getitem__"):
        count = len(source)
        every = np.linspace(0, count - 1, items).astype(int) if count > items else np.resize(np.arange(count), items)
        yield from (source[index] for index in (every.tolist() if count else []))
        return
    for _ in range(_EPOCHS):
        yield from source


def _sorted(batch: Any) -> tuple[list[Any], list[Any]]:
    """The labels and all other leaves of a batch."""
    labels: list[Any] = []
    others: list[Any] = []
    todo = [batch]
    while todo:
        each = todo.pop(0)
        if isinstance(each, Mapping):
            todo = [*each.values(), *todo]
        elif isinstance(each, list | tuple):
            todo = [*each, *todo]
        else:
            (labels if _is_label(each) else others).append(each)
    return labels, others


def _is_label(leaf: Any) -> bool:
    is_ticket = isinstance(leaf, Tensor | np.ndarray) and leaf.ndim > 0 and leaf.shape[-1] == COLUMNS
    return isinstance(leaf, CropLabel | CropLabels) or (is_ticket and str(leaf.dtype).endswith("int64"))


def _read(label: Any) -> tuple[list[View], list[int], tuple[int, ...]]:
    """The views and rows of a batch's labels, and the shape of the batch."""
    if isinstance(label, CropLabel):
        return [label.view], [label.row], ()
    if isinstance(label, CropLabels):
        # While it is checked, an item's class is its row.
        return list(label.views), label.ground_truth.tolist(), (len(label),)
    tickets = Tickets.read(torch.as_tensor(label).reshape(-1, COLUMNS))
    return list(tickets.views), tickets.rows.tolist(), tuple(label.shape[:-1])


def _images(leaves: list[Any], shape: tuple[int, ...]) -> list[list[Any]]:
    """What may be the images of a batch's labels: stacked, or a list of them, or of each view a stack.

    Each time as many as there are labels, those of three colours first.
    """
    count = int(np.prod(shape))
    pixels = [leaf for leaf in leaves if len(_shape(leaf)) > 1]
    fitting = [
        leaf for leaf in pixels if _shape(leaf)[: len(shape)] == shape and len(_shape(leaf)) - len(shape) in (2, 3)
    ]
    if fitting:
        fitting.sort(key=lambda leaf: 3 not in _shape(leaf)[len(shape) :] and not hasattr(leaf, "getbands"))
        return [[leaf] if not shape else [leaf[index] for index in np.ndindex(*shape)] for leaf in fitting]
    if shape:
        stacks = [leaf for leaf in pixels if _shape(leaf)[: len(shape) - 1] == shape[:-1]][: shape[-1]]
        if len(stacks) == shape[-1]:
            every = np.ndindex(*shape)
            return [[stacks[at[-1]][at[:-1]] if at[:-1] else stacks[at[-1]] for at in every]]
    raise LabelError(f"{count} tickets of shape {shape} come out with {_described(leaves)}: which are their images?")


def _shape(leaf: Any) -> tuple[int, ...]:
    """Of pixels; () of what is none."""
    if isinstance(leaf, Tensor | np.ndarray):
        return tuple(leaf.shape)
    return (leaf.height, leaf.width) if hasattr(leaf, "getbands") else ()


def _described(leaves: list[Any]) -> str:
    return ", ".join(f"{type(leaf).__name__} {_shape(leaf) or ''}".strip() for leaf in leaves[:6]) or "nothing else"
