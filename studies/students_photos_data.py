"""Photographs for students_photos.py: their crops, the labels of these, and what the students are judged on."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import relabel
from pipelines.recipe import Recipe
from pipelines.student_pixels import validation_transform
from pipelines.student_scenes import normalised, random_crops
from relabel.images import EncodedImage
from relabel.images.decode import fitted
from relabel.progress import Progress
from relabel.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Crops:
    """n photographs, and k crops of each, drawn once: all targets and seeds share them.

    `keys` and `classes` (n,) are of the photographs; `boxes` (n, k, 4) xyxy, `pixels` uint8 (n, k, 3, s, s), `answers`
    (n, k, C) halves: what the teacher says of each crop's pixels.
    """

    keys: list[str]
    classes: Tensor
    boxes: Tensor
    pixels: Tensor
    answers: Tensor

    def of_each_class(self, count: int) -> Tensor:
        """The ids of the first photographs of every class, `count` of each."""
        return torch.cat([(self.classes == each).nonzero()[:count, 0] for each in self.classes.unique()])


@dataclass(frozen=True, slots=True)
class Judged:
    """What students are judged on: pixels uint8 (n, 3, s, s) and classes (n,)."""

    pixels: Tensor
    classes: Tensor


def read(source: str) -> Iterator[EncodedImage]:
    """The photographs of a folder or of tars, in their order."""
    opened = relabel.open_source(source)
    for spans in opened.spans(None):
        for span in spans:
            yield from opened.read(*span)


def judged(source: str, recipe: Recipe) -> Judged:
    """All photographs of a source as the recipe validates."""
    images, transform = list(read(source)), validation_transform(recipe)
    pixels = torch.stack([transform(_picture(image)) for image in images])
    return Judged(pixels, torch.tensor([image.label for image in images]))


def crops_of(source: str, per_class: int, crops: int, side: int, teacher: Teacher) -> Crops:
    """The first photographs of every class, random crops of each, and what the teacher says of them."""
    counts: dict[int, int] = {}
    chosen = []
    for image in read(source):
        counts[image.label] = counts.get(image.label, 0) + 1
        if counts[image.label] <= per_class:
            chosen.append(image)
    pictures = [torch.from_numpy(np.array(_picture(image))).permute(2, 0, 1) for image in chosen]
    drawn = random_crops(pictures, crops, side, seed=0)
    order = drawn.owners.argsort(stable=True)
    shape = (len(chosen), crops)
    boxes, pixels = (each[order].unflatten(0, shape) for each in (drawn.boxes, drawn.pixels))
    classes = torch.tensor([image.label for image in chosen])
    return Crops([image.key for image in chosen], classes, boxes, pixels, _answers(teacher, boxes, pictures))


def _answers(teacher: Teacher, boxes: Tensor, pictures: Sequence[Tensor]) -> Tensor:
    """What a teacher says of the pixels of crops (n, k, 4), squashed to its input: probabilities (n, k, C), halves."""
    teacher = teacher.of_whole_images()
    view = replace(teacher.preprocessing, fit="squash", crop=1.0)
    answers = []
    with Progress("asking the teacher", boxes.shape[0] * boxes.shape[1], unit="crops") as progress:
        for picture, places in zip(pictures, boxes, strict=True):
            crops = torch.stack([fitted(_shown(picture, box), view)[0] for box in places])
            answers.append(teacher(crops)[..., 0, 0].softmax(1).half())
            progress.advance(len(crops))
    return torch.stack(answers)


def save(crops: Crops, path: Path) -> None:
    """Keep crops in a file."""
    torch.save({name: getattr(crops, name) for name in Crops.__slots__}, path)


def load(path: Path) -> Crops:
    """Crops that were kept."""
    return Crops(**torch.load(path, weights_only=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one step: photographs' ids (b,), which crop of each (b,), and which are mirrored (b,) bool."""

    owners: Tensor
    numbers: Tensor
    flips: Tensor


def batches(photographs: Tensor, crops: int, epochs: int, batch_size: int, seed: int) -> Iterator[Batch]:
    """Each photograph once an epoch, in random order, in another of its crops each time, as long as there are any."""
    draw = torch.Generator().manual_seed(seed)
    orders = torch.rand(len(photographs), crops, generator=draw).argsort(dim=1)
    turn = torch.cat([torch.randperm(len(photographs), generator=draw) for _ in range(epochs)])
    epoch = torch.arange(epochs).repeat_interleave(len(photographs))
    flips = torch.rand(len(turn), generator=draw) < 0.5
    for first in range(0, len(turn) - batch_size + 1, batch_size):
        some = slice(first, first + batch_size)
        yield Batch(photographs[turn[some]], orders[turn[some], epoch[some] % crops], flips[some])


def images_of(crops: Crops, batch: Batch) -> Tensor:
    """Normalised images (b, 3, s, s)."""
    pixels = crops.pixels[batch.owners, batch.numbers]
    return normalised(torch.where(batch.flips[:, None, None, None], pixels.flip(3), pixels))


def _picture(image: EncodedImage) -> Image.Image:
    return Image.open(io.BytesIO(image.encoded())).convert("RGB")


def _shown(picture: Tensor, box: Tensor) -> Tensor:
    """The pixels of a crop, (3, h, w)."""
    height, width = picture.shape[1:]
    left, top, right, bottom = (box * torch.tensor([width, height, width, height])).round().int().tolist()
    return picture[:, top:bottom, left:right]
