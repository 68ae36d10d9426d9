"""What the tests of trainers share: photographs that say where they are, their labels, and what a loss was given.

A photograph's red and green run along its sides, between colours of its own. `colour_teacher` reads them, so a label
says which colours its crop has: the pixels are the oracle of the label, whatever box and row were told on the way.
"""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import colour_teacher
import numpy as np
import torch
from generating import write_tar
from pages import ROOT, patched, patches
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import relabel

CLASSES = colour_teacher.COLUMNS * colour_teacher.ROWS
COUNT = 16
SIZES_HW = ((60, 80), (80, 60), (64, 64), (50, 90))
_RANGES = ((0.0, 1.0, 0.0, 0.6), (1.0, 0.4, 0.0, 1.0), (0.5, 0.0, 1.0, 0.2), (0.2, 0.7, 0.9, 0.1))
_MEAN, _STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def photograph(number: int) -> Image.Image:
    """The photograph of a number: red rises or falls with x, and green with y, from and to a colour of its own."""
    height, width = SIZES_HW[number % len(SIZES_HW)]
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    left, right, top, bottom = _RANGES[number // 4 % 4]
    red, green = left + (right - left) * x, top + (bottom - top) * y
    return Image.fromarray((np.stack([red, green, np.full_like(red, 0.5)], 2) * 255).round().astype(np.uint8))


def write_photographs(root: Path) -> Path:
    """Photographs in two class folders."""
    for number in range(COUNT):
        path = root / f"class{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(path, quality=98, subsampling=0)
    return root


def write_labels(photographs: Path, store: Path) -> Path:
    """Their labels, by the teacher that reads colour."""
    paths = sorted(photographs.rglob("*.jpg"))
    images = [torch.from_numpy(np.array(Image.open(path).resize((224, 160)))).permute(2, 0, 1) / 255 for path in paths]
    maps = relabel.ScoreMap.from_logits(colour_teacher.make()(torch.stack(images)), planes=CLASSES, profile=0)
    relabel.write(store, [path.relative_to(photographs).as_posix() for path in paths], maps, images=str(photographs))
    return store


def write_tars(photographs: Path, folder: Path, store: Path) -> tuple[str, Path]:
    """The same photographs in tars, and a store of their labels by the tars' keys."""
    folder.mkdir()
    paths = sorted(photographs.rglob("*.jpg"))
    for number in range(2):
        members = [
            member
            for path in paths[number::2]
            for member in (
                (f"{path.stem}.jpg", path.read_bytes()),
                (f"{path.stem}.cls", path.parent.name[-1:].encode()),
            )
        ]
        write_tar(folder / f"train-{number}.tar", members)
    maps = relabel.open(write_labels(photographs, store.with_suffix(".folder")))
    keys = [path.stem for path in paths[0::2] + paths[1::2]]
    rows = maps.rows([path.relative_to(photographs).as_posix() for path in paths[0::2] + paths[1::2]])
    relabel.write(store, keys, maps[rows], images=str(folder / "train-{0..1}.tar"))
    return str(folder / "train-{0..1}.tar"), store


def student(num_classes: int) -> nn.Module:
    """A tiny classifier of normalised images."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


class Seen:
    """The batches that losses were given while this is active: images, un-normalised, and their targets.

    Losses are modules, by name, and torch's functions that they call.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self._images = torch.empty(0)

    def note_images(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """What is given to any module; a classifier's input is the last before its loss that has three channels."""
        first = given[0] if given else None
        if isinstance(first, Tensor) and first.ndim == 4 and first.shape[1] == 3:
            self._images = first.detach().clone()

    def note_target(self, target: Tensor | relabel.SparseLabels) -> None:
        """What a loss is given, but for the class numbers of an evaluation."""
        dense = target if isinstance(target, Tensor) else target.dense()
        if dense.ndim > 1:
            self.batches.append((self._images * _STD + _MEAN, dense.detach().clone()))

    @property
    def images(self) -> Tensor:
        """All images (N, 3, h, w) in [0, 1]."""
        return torch.cat([images for images, _ in self.batches])

    @property
    def targets(self) -> Tensor:
        """All targets."""
        return torch.cat([target for _, target in self.batches])


@contextmanager
def watching(*losses: tuple[Any, str]) -> Iterator[Seen]:
    """Note what functions (module, name) of logits and targets are given, torch's cross-entropies among them."""
    seen = Seen()
    functions = [(nn.functional, "cross_entropy"), (nn.functional, "binary_cross_entropy_with_logits"), *losses]
    originals = [getattr(place, name) for place, name in functions]

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*given: Any, **named: Any) -> Any:
            # Of a module's method the first is the module.
            seen.note_target(given[1 + isinstance(given[0], nn.Module)])
            return original(*given, **named)

        return loss

    handle = register_module_forward_pre_hook(seen.note_images)
    try:
        for (place, name), original in zip(functions, originals, strict=True):
            setattr(place, name, noting(original))
        yield seen
    finally:
        handle.remove()
        for (place, name), original in zip(functions, originals, strict=True):
            setattr(place, name, original)


class Telling(nn.Module):
    """A student that writes down, in a process of its own, what its loss is given: ``seen-RANK.pt`` in this folder."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = student(num_classes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Here, since a step looks its loss up before it asks for logits.
        self._watch = watching()
        self._seen = self._watch.__enter__()

    def forward(self, images: Tensor) -> Tensor:
        """Logits; what was seen is written when their gradient comes."""
        logits: Tensor = self.model(images)
        logits.register_hook(lambda _: torch.save(self._seen.batches, f"seen-{torch.distributed.get_rank()}.pt"))
        return logits


def text_of(trainer: str, *titles: str) -> str:
    """A trainer's script, after the changes that its page shows under these titles; none: as it was."""
    text = (ROOT / f"tests/trainers/scripts/{trainer}.py").read_text(encoding="utf-8")
    for title in titles:
        text = patched(text, patches(f"docs/trainers/{trainer}.md")[title])
    return text


def run(trainer: str, *titles: str, args: dict[str, Any]) -> Any:
    """The main of a trainer's script, changed as its page shows it."""
    # A module, so that what it defines can be pickled.
    module = sys.modules[f"script_{trainer}"] = ModuleType(f"script_{trainer}")
    code = compile(text_of(trainer, *titles), f"{trainer}.py as the page changes it", "exec", dont_inherit=True)
    exec(code, vars(module))
    return run_main(module, args)


def run_main(module: ModuleType, args: dict[str, Any]) -> Any:
    """The main of a script that is a module already."""
    # Transforms draw from all three.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    own = {"device": "cpu", "workers": 0, "num_classes": CLASSES, "make_model": student, "epochs": 1, "batch_size": 8}
    return module.main(Namespace(**own | args))


def farthest(seen: Seen) -> float:
    """How far what the labels say is from what the pixels say, in fractions of the image; the farthest of a run."""
    x, y = colour_teacher.place(seen.targets)
    # Blue is the same everywhere but where a turned image was padded, which no label speaks of.
    shown = ((seen.images[:, 2:] - 0.5).abs() < 0.02).float()
    red, green, _ = ((seen.images * shown).sum((2, 3)) / shown.sum((2, 3))).unbind(1)
    if min(red.std(), green.std()) < 0.05:
        raise ValueError("these crops are of one place: any label would do")
    return float(torch.stack([x - red, y - green]).abs().max())
