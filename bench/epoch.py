"""Epochs with labels over epochs without: the same images, crops and workers, of every kind that there is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

import relabel
from bench import peers, synthetic
from bench import store_making as stores
from bench.measure import Figure, one_core, timing

_WORKERS = 2
TRANSFORM = Compose(
    [RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.2, 0.2, 0.2))]
)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Photographs in class folders, and the store of their labels."""

    folder: Path
    keys: list[str]
    maps: relabel.LabelMaps

    @classmethod
    def made(cls, folder: Path, count: int) -> Scene:
        """As many, below `folder`."""
        keys = synthetic.write_photographs(folder / "photographs", count)
        store = stores.write(folder / "photographs.zarr", synthetic.score_maps(min(count, 64), 16, 64), [keys])
        return cls(folder / "photographs", keys, relabel.open(store.path))

    def plain(self) -> ImageFolder:
        """(crop, class)."""
        return ImageFolder(self.folder, TRANSFORM)

    def labeled(self) -> relabel.Labeled:
        """(crop, ticket)."""
        return relabel.Labeled(self.plain(), self.maps, same_bytes=False)

    def __str__(self) -> str:
        return f"{len(self.keys)} photographs of {(self.folder / self.keys[0]).stat().st_size // 1000} kB"


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A loader, and what its loop does with a batch's images and classes or tickets."""

    loader: DataLoader[Any]
    use: Callable[[Tensor, Any], object]


def ways(scene: Scene, batch: int, **options: Any) -> dict[str, Way]:
    """Without labels, and with tickets that the loop pools."""
    options = {"batch_size": batch, "shuffle": True, **options}
    return {
        "without": Way(DataLoader(scene.plain(), **options), _nothing),
        "with": Way(DataLoader(scene.labeled(), **options), lambda _, tickets: scene.maps.pool(tickets)),
    }


def epochs(folder: Path, count: int, rounds: int, batch: int) -> list[Figure]:
    """Wall time with two workers, and the CPU time of one process, which other processes disturb less."""
    scene = Scene.made(folder, count)
    # Workers start anew each epoch, so that both draw the same crops in every round.
    wall = ratio(ways(scene, batch, num_workers=_WORKERS), rounds, lambda _: time.perf_counter())
    with one_core():
        cpu = ratio(ways(scene, batch), rounds, lambda _: time.process_time())
    what = f"epoch with labels over one without, {scene}"
    return [
        *figures(what, {f"batch {batch}, {_WORKERS} workers": wall}, reach=1.01),
        *figures("the same", {"CPU time on one core": cpu}, reach=1.01),
    ]


def kinds(folder: Path, scene: Scene, rounds: int, batch: int) -> list[Figure]:
    """CPU time of an epoch over one without labels: ours pooled in the loop or read in the workers, and the peers'."""
    with one_core():
        both = ways(scene, batch)
        options: dict[str, Any] = {"batch_size": batch, "shuffle": True}
        crops = relabel.LabeledCrops(ImageFolder(scene.folder), scene.maps, TRANSFORM)
        others = {
            "tickets": both["with"],
            "relabel.collate": Way(
                DataLoader(crops, collate_fn=relabel.collate, **options), lambda _, some: some.pool()
            ),
        }
        for name, load in peers.write(folder / "peers", len(scene.keys)).items():
            made = peers.PeerCrops(ImageFolder(scene.folder), TRANSFORM, load)
            others[f"peer: {name}, dense, roi_align"] = Way(DataLoader(made, **options), _nothing)
        found = {
            name: ratio({"without": both["without"], "with": way}, rounds, lambda _: time.process_time())
            for name, way in others.items()
        }
    return figures("CPU time of an epoch over one without labels", found)


def starts(scene: Scene, rounds: int, batch: int) -> list[Figure]:
    """CPU time of the main process and its workers, which live on from epoch to epoch, by how these were started."""
    found = {}
    for context in ("fork", "spawn", "forkserver"):
        options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": context}
        found[f"{context}, persistent"] = ratio(ways(scene, batch, **options), rounds, _with_workers)
    return figures("the same with a worker", found)


def figures(what: str, ratios: Mapping[str, tuple[float, float]], reach: float | None = None) -> list[Figure]:
    """A line for each."""
    return [
        Figure(what=f"{what}, {how}", unit="x", measured=median, spread=spread, reach=reach)
        for how, (median, spread) in ratios.items()
    ]


def ratio(
    ways: Mapping[str, Way], rounds: int, clock: Callable[[DataLoader[Any]], float], most: int | None = None
) -> tuple[float, float]:
    """Median and spread of "with" over "without", epoch by epoch, or of the first `most` batches of each."""
    ratios: list[float] = []
    for turn in range(-1, rounds):
        seconds = {}
        # Each goes first in every other round.
        for name in sorted(ways, reverse=turn % 2 == 0):
            way = ways[name]
            # The same order and the same crops for both; workers that live on draw as those of the other do.
            torch.manual_seed(turn + 1)
            started = clock(way.loader)
            for number, (images, labels) in enumerate(way.loader):
                way.use(images, labels)
                if number + 1 == most:
                    break
            seconds[name] = clock(way.loader) - started
        if turn >= 0:
            ratios.append(seconds["with"] / seconds["without"])
    found = timing(ratios)
    return found.median, found.spread


def _nothing(images: Tensor, labels: Any) -> None:
    """A loop without a student."""


def _with_workers(loader: DataLoader[Any]) -> float:
    """CPU seconds of this process and of a loader's workers, whoever started them."""
    workers = getattr(loader._iterator, "_workers", ())
    ticks = sum(
        int(ticks)
        for worker in workers
        for ticks in Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    )
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
