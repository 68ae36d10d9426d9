"""How others keep a label map for each image, to run beside: a `.pt` file each, one numpy array, an LMDB."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from bench import published, synthetic
from relabel.tracking import TrackedTransform

Load = Callable[[int], Tensor]
"""From an image's number to its map as ReLabel has it, float32 (2, 5, h, w): scores, and class ids."""
_SHAPE = (2, published.TOP, *synthetic.GRID_HW)


def write(folder: Path, count: int) -> dict[str, Load]:
    """The same maps in each way that is installed, below `folder`."""
    folder.mkdir()
    parts = [
        torch.stack([values, classes.float()], dim=1)
        for first in range(0, count, 64)
        for values, classes in [published.cell_top(synthetic.logits(min(64, count - first), seed=first))]
    ]
    maps = torch.cat(parts)
    for number, one in enumerate(maps):
        torch.save(one.clone(), folder / f"{number}.pt")
    np.save(folder / "maps.npy", maps.numpy())
    memmap = np.load(folder / "maps.npy", mmap_mode="r")
    loads: dict[str, Load] = {
        "a .pt file an image": lambda number: torch.load(folder / f"{number}.pt", weights_only=True),
        "numpy memmap": lambda number: torch.from_numpy(memmap[number].copy()),
    }
    if importlib.util.find_spec("lmdb"):
        lmdb: Any = importlib.import_module("lmdb")
        with lmdb.open(str(folder / "maps.lmdb"), map_size=1 << 34) as made, made.begin(write=True) as writing:
            for number, one in enumerate(maps):
                writing.put(str(number).encode(), one.numpy().tobytes())
        opened = lmdb.open(str(folder / "maps.lmdb"), readonly=True, lock=False)

        def from_lmdb(number: int) -> Tensor:
            with opened.begin() as reading:
                data = reading.get(str(number).encode())
            return torch.from_numpy(np.frombuffer(data, np.float32).reshape(_SHAPE).copy())

        loads["LMDB"] = from_lmdb
    return loads


def label(loaded: Tensor, box_xyxy: Tensor) -> Tensor:
    """(C,) of a crop of one image, as their codes pool it: all classes at every cell, RoIAlign, softmax."""
    dense = published.dense(loaded[None, 0], loaded[None, 1].long(), synthetic.CLASSES)
    return published.labels(dense, box_xyxy[None])[0]


class PeerCrops(Dataset[tuple[Any, Tensor]]):
    """A folder's crops with the labels that a peer makes in the worker; what was cropped is read off as ours is."""

    def __init__(self, folder: ImageFolder, transform: Any, load: Load) -> None:
        self._folder, self._transform, self._load = folder, TrackedTransform(transform), load

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        image: Image.Image = self._folder.loader(self._folder.samples[index][0])
        shown: tuple[Any, Any] = self._transform(image)
        output, view = shown
        return output, label(self._load(index), torch.tensor(view.box.xyxy))
