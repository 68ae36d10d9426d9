"""Whether the items of a data set or loader, as a trainer gets them, show what their labels are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from relabel.tracking.proof import compared, verdict

_ITEMS = 64
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
        explained: of those compared, the least and the median share of the output that the told place explains.
    """

    layers: tuple[str, ...]
    items: int
    batches: int
    compared: int
    plain: int
    inexact: int
    explained: tuple[float, float]

    def __str__(self) -> str:
        least, median = self.explained
        rows = [
            ("through", " > ".join(self.layers)),
            ("looked at", f"{self.items} images in {self.batches} batches"),
            (
                "show what is told",
                f"{self.compared}, explained by the told place to {median:.0%}, at least {least:.0%}",
            ),
            ("cannot be told", f"{self.plain} plain or erased, {self.inexact} after a step that is ignored"),
            (
                "not seen here",
                "how images are loaded or changed before the label, what the training step does to a batch",
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
        LabelError: views lie, it is said how; or no tickets come out, or some that are none.
        InvalidValueError: nothing labeled is found in what was given; `items` below 1.
    """
    if items < 1:
        raise InvalidValueError(f"items must be at least 1, to look at any; got {items}")
    probe = Probe.of(dataset_or_loader)
    found: list[Agreement | None] = []
    looked_at = batches = 0
    with probe.running() as source:
        for batch in _batches(source, items):
            batches += 1
            for output, view, row in _shown(batch):
                looked_at += 1
                found += compared(output, view, row, probe.stand_in.size_hw(row))
            if looked_at >= items and batches >= _LEAST_BATCHES:
                break
    if not looked_at:
        raise LabelError(f"this {type(dataset_or_loader).__name__} gave nothing to look at: it is empty")
    told = [each.explained for each in found if each is not None]
    if fault := verdict(found):
        raise LabelError(
            f"views lie: of {looked_at} images through {' > '.join(probe.layers)}, {fault}. A step behind the label "
            "moves pixels: crop and flip in the transform of Labeled, and nowhere else"
        )
    return ViewsReport(
        layers=tuple(probe.layers),
        items=looked_at,
        batches=batches,
        compared=len(told),
        plain=len(found) - len(told),
        inexact=looked_at - len(found),
        explained=(min(told, default=1.0), float(np.median(told)) if told else 1.0),
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


def _shown(batch: Any) -> Iterator[tuple[Any, View, int]]:
    """The images of a batch or an item, each with its view and its row."""
    labels, others = _sorted(batch)
    if not labels:
        raise LabelError(
            f"no tickets (int64, (11,)) come out with the images, but {_described(others)}: something on the way drops "
            "or changes them"
        )
    for label in labels:
        views, rows, shape = _read(label)
        images = _images(others, shape)
        yield from zip(images, views, rows, strict=True)


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


def _images(leaves: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """As many images as there are labels: stacked, or a list of them, or of each view a stack."""
    count = int(np.prod(shape))
    pixels = [leaf for leaf in leaves if len(_shape(leaf)) > 1]
    for leaf in pixels:
        own = _shape(leaf)
        if own[: len(shape)] == shape and len(own) - len(shape) in (2, 3):
            return [leaf] if not shape else [leaf[index] for index in np.ndindex(*shape)]
    if shape:
        stacks = [leaf for leaf in pixels if _shape(leaf)[: len(shape) - 1] == shape[:-1]][: shape[-1]]
        if len(stacks) == shape[-1]:
            return [stacks[index[-1]][index[:-1]] if index[:-1] else stacks[index[-1]] for index in np.ndindex(*shape)]
    raise LabelError(f"{count} tickets of shape {shape} come out with {_described(leaves)}: which are their images?")


def _shape(leaf: Any) -> tuple[int, ...]:
    """Of pixels; () of what is none."""
    if isinstance(leaf, Tensor | np.ndarray):
        return tuple(leaf.shape)
    return (leaf.height, leaf.width) if hasattr(leaf, "getbands") else ()


def _described(leaves: list[Any]) -> str:
    return ", ".join(f"{type(leaf).__name__} {_shape(leaf) or ''}".strip() for leaf in leaves[:6]) or "nothing else"
