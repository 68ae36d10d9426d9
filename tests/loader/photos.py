"""Photographs of one colour each in class folders, and a store of them whose rows are in another order."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from stores import make_store, random_logits
from torchvision.transforms import v2

import relabel
from relabel.images import image_hash
from relabel.tickets import Tickets

NAMES = [f"{folder}/{i}.png" for folder in ("cat", "dog") for i in range(4)]
STEPS = [v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def encoded(number: int) -> bytes:
    """A PNG, 16 high and 24 wide, whose red tells the number and whose green grows to the right."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[..., 0] = number * 20
    pixels[..., 1] = np.arange(24) * 10
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_photos(root: Path) -> Path:
    """`NAMES` in class folders."""
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return root


def write_store(path: Path, keys: list[str] = NAMES) -> Path:
    """Of 8 keys, the rows of the last four first; 9 classes; it knows the photographs by their bytes."""
    hashes = [image_hash(encoded(number)) for number in (4, 5, 6, 7, 0, 1, 2, 3)]
    make_store(path, [keys[4:], keys[:4]], random_logits(8, 9, (4, 5)), image_hashes=hashes)
    return path


def number_of(image: torch.Tensor) -> int:
    """Which photograph an output (3, h, w) shows."""
    return round(float(image[0].amax()) * 255 / 20)


def items_of(loader: Any) -> list[Any]:
    """The items of a loader's batches."""
    return [item for batch in loader for item in zip(*batch, strict=True)]


def told(ticket: Any) -> tuple[int, relabel.View, int]:
    """Row, view and ground truth of a ticket."""
    read = Tickets.read(torch.as_tensor(ticket)[None])
    return int(read.rows[0]), next(iter(read.views)), int(read.ground_truth[0])


def assert_right(maps: relabel.LabelMaps, items: Any, numbers: list[int], keys: list[str] = NAMES) -> None:
    """Items are those photographs, in this order, and their labels are of what their pixels show."""
    assert [number_of(image) for image, *_ in items] == numbers
    tickets = torch.stack([torch.as_tensor(ticket) for _, ticket, *_ in items])
    assert [told(ticket)[2] for ticket in tickets] == [number // 4 for number in numbers]
    rows = maps.rows([keys[number] for number in numbers])
    # Green is 10 / 255 a pixel, linear from left to right but at the borders.
    shown = [image[1].mean(0) * 255 / 240 + 0.5 / 24 for image, *_ in items]
    views = [told(ticket)[1] for ticket in tickets]
    for view, columns in zip(views, shown, strict=True):
        ends = (view.box.x1, view.box.x0) if view.flip else (view.box.x0, view.box.x1)
        assert abs(float(columns.mean()) - sum(ends) / 2) < 0.03
        assert bool(columns[-1] < columns[0]) == view.flip
    expected = maps[rows].pool(relabel.Views.of(views), (2, 2))
    assert torch.allclose(maps.pool(tickets, (2, 2)), expected, atol=1e-6)
