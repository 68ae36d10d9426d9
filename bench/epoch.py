"""An epoch with labels over one without: the same images, crops and workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

import relabel
from bench import store_making as stores
from bench import synthetic
from bench.measure import Figure, one_core, timing

_WORKERS = 2


def epochs(folder: Path, count: int, rounds: int, batch: int) -> list[Figure]:
    """Wall time with two workers, and the CPU time of one process, which other processes disturb less."""
    keys = synthetic.write_photographs(folder / "photographs", count)
    maps_of = synthetic.score_maps(min(count, 64), 16, 64)
    store = stores.write(folder / "photographs.zarr", maps_of, [keys])
    maps = relabel.open(store.path)
    transform = Compose(
        [RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.2, 0.2, 0.2))]
    )
    plain = ImageFolder(folder / "photographs", transform)
    labeled = relabel.LabeledCrops(ImageFolder(folder / "photographs"), maps, transform)
    loaders: dict[str, tuple[Any, Callable[[Sequence[Any]], Any] | None]] = {
        "without": (plain, None),
        "with": (labeled, relabel.collate),
    }
    size = (folder / "photographs" / keys[0]).stat().st_size
    what = f"epoch with labels over one without, {count} photographs of {size // 1000} kB"
    wall = _wall(loaders, rounds, batch)
    cpu = _cpu(loaders, rounds, batch)
    return [
        Figure(
            what=f"{what}, batch {batch}, {_WORKERS} workers", unit="x", measured=wall[0], spread=wall[1], reach=1.01
        ),
        Figure(what="the same, CPU time on one core", unit="x", measured=cpu[0], spread=cpu[1], reach=1.01),
    ]


def _wall(loaders: dict[str, Any], rounds: int, batch: int) -> tuple[float, float]:
    """Median and spread of the ratio of wall times."""
    # Workers start anew each epoch, so that both draw the same crops in every round.
    started = {
        name: DataLoader(dataset, batch, shuffle=True, collate_fn=collate, num_workers=_WORKERS)
        for name, (dataset, collate) in loaders.items()
    }
    return _ratio(started, rounds, time.perf_counter)


def _cpu(loaders: dict[str, Any], rounds: int, batch: int) -> tuple[float, float]:
    """The same of CPU times, without workers."""
    with one_core():
        made = {
            name: DataLoader(dataset, batch, shuffle=True, collate_fn=collate)
            for name, (dataset, collate) in loaders.items()
        }
        return _ratio(made, rounds, time.process_time)


def _ratio(loaders: Mapping[str, Iterable[Any]], rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    ratios: list[float] = []
    for turn in range(-1, rounds):
        seconds = {}
        # Each goes first in every other round.
        for name in sorted(loaders, reverse=turn % 2 == 0):
            # The same order and the same crops for both.
            torch.manual_seed(turn + 1)
            started = clock()
            for _, labels in loaders[name]:
                if isinstance(labels, relabel.CropLabels):
                    labels.pool()
            seconds[name] = clock() - started
        if turn >= 0:
            ratios.append(seconds["with"] / seconds["without"])
    ratio = timing(ratios)
    return ratio.median, ratio.spread
