"""What a teacher says of images and of random crops of them: kept in a file, so that ideas are quick to try."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from bench.sampling import sample
from relabel.geometry import WHOLE, Grid
from relabel.geometry.cells import cell_boxes, resampling_weights, roi_weights
from relabel.teacher import Teacher, TeacherSpec, load_teacher
from studies.pictures import Crops, mosaics, photographs

_TOKENS = 14


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Of B images, n crops of each, and n single tokens, one in each crop.

    Attributes:
        scores: (B, C, H, W) log-probabilities at every cell.
        boxes: (B, 2n, 4) xyxy fractions of the image: the crops, then one of the 14 x 14 tokens of each.
        truth: (B, 2n, C) log of the label of each box, pooled from all scores of the teacher's own grid.
        pixels: (B, n, C) log of the teacher's own answer to the pixels of each crop; None if it was not asked.
        logits: (B, C, H, W) as the teacher gave them, in halves.
    """

    scores: Tensor
    boxes: Tensor
    truth: Tensor
    pixels: Tensor | None
    logits: Tensor

    @property
    def crops(self) -> int:
        """n."""
        return self.boxes.shape[1] // 2

    @property
    def grid(self) -> Grid:
        """H x W."""
        return Grid(self.scores.shape[2], self.scores.shape[3])

    @property
    def weights(self) -> Tensor:
        """(B, 2n, H * W): what each cell counts in each box, by RoIAlign."""
        count, boxes, _ = self.boxes.shape
        in_cells = cell_boxes(self.boxes.reshape(-1, 4), WHOLE, self.grid)
        weights = roi_weights(in_cells, self.grid, (1, 1), clamp_uncovered=False)
        return (weights.rows[:, 0, :, None] * weights.cols[:, 0, None, :]).reshape(count, boxes, -1)

    def on_grid(self, side: int) -> Answers:
        """The same with scores averaged over the cells of a coarser grid, as `generate --grid` does; the same truth."""
        grid = Grid(side, side)
        rows, cols = (weights.float() for weights in resampling_weights(self.grid, grid))
        scores = torch.einsum("hH,bcHW,wW->bchw", rows, self.scores, cols)
        return replace(self, scores=scores.log_softmax(1), logits=scores.half())


def answers(options: argparse.Namespace) -> Answers:
    """From the file of ``--answers`` if it is there, else from the teacher, and then kept in that file."""
    file: Path | None = options.answers
    if file is None or not file.exists():
        made = _asked(options)
        if file is None:
            return _prepared(made)
        torch.save(made, file)
    return _prepared(torch.load(file, weights_only=True))


def _prepared(kept: dict[str, Tensor | None]) -> Answers:
    logits, crops, pixels = kept["logits"], kept["boxes"], kept["crop"]
    if logits is None or crops is None:
        raise ValueError("the file of answers holds no logits or no boxes")
    scores = logits.float().log_softmax(1)
    places = torch.randint(0, _TOKENS, (*crops.shape[:2], 2), generator=torch.Generator().manual_seed(3)).float()
    extent = crops[..., 2:] - crops[..., :2]
    start = crops[..., :2] + places / _TOKENS * extent
    boxes = torch.cat([crops, torch.cat([start, start + extent / _TOKENS], -1)], 1)
    bare = Answers(scores, boxes, scores, None if pixels is None else pixels.float().log_softmax(-1), logits)
    return replace(bare, truth=torch.bmm(bare.weights, scores.flatten(2).transpose(1, 2)).log_softmax(-1))


@torch.inference_mode()
def _asked(options: argparse.Namespace) -> dict[str, Tensor | None]:
    """Logits and answers in float16, boxes in float32."""
    images = sample(options.images, options.count, seed=0)
    teacher = _teacher(options, options.image_size)
    of_crops = _teacher(options, options.crop_size) if options.crop_size else None
    torch.manual_seed(1 if options.mosaics else 0)
    like = teacher.preprocessing
    batches = mosaics(images, like, options.mosaics, 4) if options.mosaics else photographs(images, like, 20, 4)
    encoded = iter(image.data for image in images)
    logits, boxes, pixels = [], [], []
    for batch in batches:
        logits.append(teacher(batch.pixels).half())
        boxes.append(batch.boxes)
        if of_crops is not None:
            whole = batch.pixels if options.mosaics else _decoded(encoded, batch)
            pixels += [_of_crops(of_crops, *pair) for pair in zip(whole, batch.boxes, strict=True)]
    return {"logits": torch.cat(logits), "boxes": torch.cat(boxes), "crop": torch.stack(pixels) if pixels else None}


def _decoded(encoded: Iterator[bytes], batch: Crops) -> list[Tensor]:
    """The photographs of a batch at their own size, (3, h, w) each."""
    pictures = (np.array(Image.open(io.BytesIO(next(encoded))).convert("RGB")) for _ in batch.pixels)
    return [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]


def _of_crops(teacher: Teacher, picture: Tensor, boxes: Tensor) -> Tensor:
    """(n, C), what the teacher says of the pixels of crops, squashed to its input."""
    like = teacher.preprocessing
    height, width = picture.shape[1:]
    sides = torch.tensor([width, height, width, height])
    crops = []
    for left, top, right, bottom in (boxes * sides).round().int().tolist():
        crop = picture[:, top:bottom, left:right]
        crops.append(F.resize(crop, list(like.image_size_hw), InterpolationMode(like.interpolation), antialias=True))
    return teacher(torch.stack(crops)).mean((2, 3)).log_softmax(1).half()


def _teacher(options: argparse.Namespace, side: int) -> Teacher:
    return load_teacher(
        TeacherSpec(
            name=options.teacher,
            checkpoint=options.checkpoint,
            image_size_hw=(side, side),
            device="cpu",
            precision="float32",
        )
    )
