"""Tiny images, tiny teachers and whole runs for the tests of generate, in this process and in others."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relabel.generate import GenerateOptions
from relabel.geometry import Grid
from relabel.manifest import Fit, Preprocessing, TeacherRecord
from relabel.store import LABELED, StoreReader
from relabel.teacher import Teacher
from relabel.teacher.proof import Proof

IMAGE_SIZE_HW = (16, 24)
GRID = Grid(2, 3)
CLASSES = 10
MEAN = (0.5, 0.25, 0.75)
Members = Sequence[tuple[str, bytes]]


@functools.cache
def picture(seed: int, red: int | None = None) -> bytes:
    """A PNG of noise, 20 high and 30 wide; with `red` that is its red everywhere."""
    pixels = np.random.default_rng(seed).integers(0, 250, (20, 30, 3), dtype=np.uint8)
    if red is not None:
        pixels[..., 0] = red
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def tar_bytes(members: Members) -> bytes:
    """A tar of (name, bytes) members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """The same in a file."""
    path.write_bytes(tar_bytes(members))
    return path


def samples(numbers: Sequence[int]) -> list[tuple[str, bytes]]:
    """A picture of each number, of class 0 if even and 1 if odd."""
    named = [(f"{'even' if n % 2 == 0 else 'odd'}/{n:03d}", n) for n in numbers]
    return [m for k, n in named for m in ((f"{k}.png", picture(n)), (f"{k}.cls", str(n % 2).encode()))]


def write_tars(folder: Path, counts: Sequence[int]) -> str:
    """Tars of so many pictures each; returns their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, count in enumerate(counts):
        write_tar(folder / f"part-{number:02d}.tar", samples(range(first, first + count)))
        first += count
    return str(folder / "part-*.tar")


def write_folder(root: Path, count: int) -> str:
    """The same pictures in class folders, of the same classes and keys, but for the extension."""
    for name, data in samples(range(count)):
        if name.endswith(".png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return str(root)


def answer(images: Tensor) -> Tensor:
    """Logits (B, 10, 2, 3) of each cell's mean colour; what an image gets does not depend on its batch."""
    red, green, blue = nn.functional.avg_pool2d(images, 8)[:, :, None].unbind(1)
    phase = torch.arange(CLASSES, device=images.device)[None, :, None, None]
    return 8 * (torch.sin(phase + 3 * red) + torch.cos(2 * phase + 5 * green) - blue * (phase % 3))


def nan_where_red(images: Tensor) -> Tensor:
    """The same, but NaN in one cell of an image that is red all over."""
    logits = answer(images)
    logits[images[:, 0].amin((1, 2)) > 0.45, 3, 1, 2] = torch.nan
    return logits


def convolutions() -> nn.Module:
    """A network with random weights, always the same; its sums may depend on the batch in the last bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Conv2d(32, CLASSES, 1)
        return nn.Sequential(*layers).eval().requires_grad_(False)


def make_teacher(forward: Callable[[Tensor], Tensor] = answer, *, fit: Fit = "squash", **given: Any) -> Teacher:
    """A teacher around a function of normalised images."""
    own = {"source": "function", "name": "by hand", "weights": "own", "weights_digest": "0" * 64, "head": "given"}
    record = own | given.pop("record", {})
    defaults: dict[str, Any] = {
        "num_classes": CLASSES,
        "grid": GRID,
        "preprocessing": Preprocessing(image_size_hw=IMAGE_SIZE_HW, mean=MEAN, std=(1.0, 1.0, 1.0), fit=fit),
        "record": TeacherRecord(**record),
        "proof": Proof("given", 0.0, 0.0, True),
        "device": torch.device("cpu"),
    }
    return Teacher(forward=forward, **defaults | given)


def options(**given: Any) -> GenerateOptions:
    """Few planes and small batches."""
    small = {"planes": 3, "profile": 4, "batch_size": 4, "workers": 2, "show_progress": False}
    return GenerateOptions(**small | given)


def published(store: Path) -> int:
    """How many shards a store has, looked at from outside."""
    return len(list(store.glob("status/c.*")))


def rows_by_key(store: Path) -> dict[str, dict[str, Any]]:
    """What a store says of every image, without the key's extension."""
    reader = StoreReader(store)
    found: dict[str, dict[str, Any]] = {}
    for shard in range(reader.num_shards):
        table = reader.table(shard)
        for row, key in enumerate(table.keys):
            if not key:
                continue
            values = {"hash": int(table.image_hashes[row]), "label": int(table.labels[row]), "error": table.errors[row]}
            values["frame"] = (*table.sizes_hw[row].tolist(), int(table.orientations[row]))
            if table.statuses[row] == LABELED:
                batch = reader.read(np.array([shard * reader.rows_per_shard + row]))
                values |= {name: getattr(batch, name)[0].tolist() for name in ("classes", "scores", "profile")}
                if isinstance(batch.footprint, np.ndarray):
                    values["footprint"] = batch.footprint[0].tolist()
            found[key.removesuffix(".png")] = values
    return found


class SlowTeacher(nn.Module):
    """`answer`, after as long as a small batch might take on a device; never of a picture that is red all over."""

    image_size_hw = IMAGE_SIZE_HW
    mean = MEAN

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 16, 24) to logits (B, 10, 2, 3)."""
        time.sleep(0.01)
        while ((images[:, 0].amin((1, 2)) > 0.45) & (images[:, 1].amin((1, 2)) < 0)).any():
            time.sleep(0.01)
        return answer(images)


def start_generate(images: str, store: Path, *arguments: str, said: Path | None = None) -> BaseProcess:
    """`relabel generate` with the slow teacher in a process of its own, its stderr in the file `said`.

    It is forked from a server that has imported torch, so that it starts at once and dies alone.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["relabel.cli.commands", "relabel.generate", "zarr"])
    command = ["generate", images, str(store), "--teacher", "generating:SlowTeacher", "--device", "cpu", "--quiet"]
    small = ["--planes", "3", "--profile", "4", "--batch-size", "2", "--workers", "2"]
    process = context.Process(target=_relabel, args=([*command, *small, *arguments], said))
    process.start()
    return process


def _relabel(arguments: list[str], said: Path | None) -> None:
    from relabel.cli import main

    if said is not None:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    main(arguments)
