"""What a training run leaves in its folder: a log as CSV, and a checkpoint to go on from, each replaced by rename."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from relabel.errors import InvalidValueError

LOG, CHECKPOINT, RECIPE = "log.csv", "checkpoint.pt", "recipe.json"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A line of the log.

    Attributes:
        epoch: from 1.
        learning_rate: of its last step.
        train_loss: mean over its images.
        val_top1, val_top1_ema: in percent, of the weights and of their average; the latter None without one.
        seconds: with validation.
        images_per_second: of training alone, over all processes.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    val_top1: float
    val_top1_ema: float | None
    seconds: float
    images_per_second: float

    def __str__(self) -> str:
        ema = "" if self.val_top1_ema is None else f" (averaged weights {self.val_top1_ema:.2f} %)"
        return (
            f"epoch {self.epoch}: loss {self.train_loss:.4f}, top-1 {self.val_top1:.2f} %{ema}; "
            f"{self.seconds:.1f} s, {self.images_per_second:,.0f} images/s"
        )


COLUMNS = tuple(column.name for column in fields(Epoch))


def write_log(folder: Path, epochs: Sequence[Epoch]) -> None:
    """The whole log anew."""
    partial = folder / f"{LOG}.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for epoch in epochs:
            writer.writerow({name: "" if value is None else value for name, value in asdict(epoch).items()})
    partial.replace(folder / LOG)


def read_log(folder: Path) -> list[Epoch]:
    """The log of a run's folder.

    Raises:
        InvalidValueError: there is none, or it has other columns.
    """
    path = folder / LOG
    if not path.exists():
        raise InvalidValueError(f"{folder} holds no {LOG}; expected the --out of train_student.py")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InvalidValueError(f"{path} must have the columns {', '.join(COLUMNS)}; got {reader.fieldnames}")
        rows = list(reader)
    return [
        Epoch(int(row.pop("epoch")), **{name: float(text) if text else None for name, text in row.items()})  # type: ignore[arg-type]
        for row in rows
    ]


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values, for `load_checkpoint`; a run that dies while it writes keeps the one before."""
    partial = folder / f"{CHECKPOINT}.partial"
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / CHECKPOINT)


def load_checkpoint(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        InvalidValueError: there is none, or it is damaged or of another recipe; `name` and `workers` may differ.
    """
    if not path.exists():
        raise InvalidValueError(f"there is no checkpoint {path}; leave --resume out to start anew")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise InvalidValueError(f"{path} is damaged, or no checkpoint: remove it to start anew") from error
    saved = state["recipe"]
    changed = sorted(name for name in recipe if name not in ("workers", "name") and saved.get(name) != recipe[name])
    if changed:
        shown = ", ".join(f"{name} {saved.get(name)!r}, now {recipe[name]!r}" for name in changed)
        raise InvalidValueError(f"{path} is of another recipe: {shown}. Give the same options, or another --out")
    return state
