"""Tiny teachers, images and stores to verify labels with, and ways to spoil a store through its own doors."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relabel.generate import GenerateOptions, generate
from relabel.manifest import Manifest
from relabel.store import LABELED, RowBatch, RowTable, StoreReader, create_or_open
from relabel.teacher import EnsembleSpec, TeacherSpec

CLASSES = 20
CELL = 8
IMAGES = 14


class Patches(nn.Module):
    """A convolutional teacher with random weights: 20 classes at every 8 x 8 pixels, of logits a few nats apart."""

    image_size_hw = (48, 48)
    mean = (0.5, 0.45, 0.4)
    std = (0.25, 0.25, 0.25)

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Conv2d(3, 24, CELL, CELL)
            self.head = nn.Conv2d(24, CLASSES, 1)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) to logits (B, 20, h / 8, w / 8)."""
        return 6 * self.head(self.body(images).relu())


def first() -> Patches:
    """The teacher, ``labeled:first``."""
    return Patches(0)


def second() -> Patches:
    """One that knows nothing of the first, ``labeled:second``."""
    return Patches(1)


def trained_further() -> Patches:
    """The first with weights that moved a little, ``labeled:trained_further``."""
    teacher, moved = Patches(0), Patches(2)
    for mine, other in zip(teacher.parameters(), moved.parameters(), strict=True):
        mine.data.add_(other, alpha=0.04)
    return teacher


def picture(seed: int, colours_hw: tuple[int, int] = (7, 9)) -> bytes:
    """A PNG, 60 high and 90 wide, of so many random colours that run into each other."""
    colours = np.random.default_rng(seed).integers(0, 256, (*colours_hw, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).resize((90, 60), Image.Resampling.BILINEAR).save(stream, "PNG")
    return stream.getvalue()


def write_pictures(root: Path, count: int = IMAGES, colours_hw: tuple[int, int] = (7, 9)) -> Path:
    """Pictures in two class folders."""
    for number in range(count):
        file = root / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, colours_hw))
    return root


def label(
    images: Path, store: Path, *teachers: TeacherSpec, ensemble: dict[str, Any] | None = None, **options: Any
) -> Path:
    """Label with the first teacher, or with those that are given, in shards of 8."""
    spec = EnsembleSpec(teachers=teachers or (TeacherSpec(name="labeled:first", device="cpu"),), **ensemble or {})
    small = {"planes": 4, "profile": 6, "samples_per_shard": 8, "batch_size": 5, "workers": 1, "show_progress": False}
    summary = generate(str(images), store, spec, GenerateOptions(**small | options))
    if not summary.is_good:
        raise RuntimeError(summary)
    return store


def rewritten(
    store: Path,
    path: Path,
    change: Callable[[RowBatch], RowBatch] = lambda rows: rows,
    manifest: Callable[[Manifest], Manifest] = lambda old: old,
) -> Path:
    """The store once more, the rows of each shard and the manifest changed."""
    reader = StoreReader(store)
    writer = create_or_open(path, manifest(reader.manifest))
    for shard in range(reader.num_shards):
        table = reader.table(shard)
        labeled = np.flatnonzero(table.statuses == LABELED)
        with writer.claim(shard) as claimed:
            claimed.add(labeled, change(reader.read(shard * reader.rows_per_shard + labeled)))
            used = int((table.statuses > 0).sum())
            columns = {field.name: getattr(table, field.name)[:used] for field in dataclasses.fields(table)}
            claimed.publish(RowTable(**columns))
    return path


def with_scores(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[RowBatch], RowBatch]:
    """Rows whose scores (n, K + 1, H, W) are changed."""
    return lambda rows: dataclasses.replace(rows, scores=np.ascontiguousarray(change(rows.scores)))


def with_classes(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[RowBatch], RowBatch]:
    """Rows whose classes (n, K + M) are changed."""
    return lambda rows: dataclasses.replace(rows, classes=change(rows.classes).astype(rows.classes.dtype))
