"""Photographs and mosaics of four, as a teacher sees them, with random crop boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from relabel import Box
from relabel.images import EncodedImage, decode_and_fit, header_facts
from relabel.manifest import Preprocessing

_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Crops:
    """B images, pixels uint8 (B, 3, h, w), and n crop boxes of each, (B, n, 4) xyxy fractions of the image."""

    pixels: Tensor
    boxes: Tensor


def photographs(images: Sequence[EncodedImage], like: Preprocessing, batch: int, boxes: int) -> Iterator[Crops]:
    """The images one by one; boxes are drawn on them as they are on the disk."""
    for first in range(0, len(images), batch):
        chunk = images[first : first + batch]
        yield Crops(
            torch.stack([decode_and_fit(image.data, [like])[0].pixels for image in chunk]),
            torch.stack([crop_boxes(header_facts(image.data).size_hw, boxes) for image in chunk]),
        )


def mosaics(images: Sequence[EncodedImage], like: Preprocessing, count: int, boxes: int) -> Iterator[Crops]:
    """`count` images of four others each, two by two, one a batch."""
    height, width = like.image_size_hw
    quarter = replace(like, image_size_hw=(height // 2, width // 2))
    for _ in range(count):
        four = [
            decode_and_fit(images[i].data, [quarter])[0].pixels for i in torch.randint(0, len(images), (4,)).tolist()
        ]
        pixels = torch.cat([torch.cat(four[:2], dim=2), torch.cat(four[2:], dim=2)], dim=1)
        yield Crops(pixels[None], crop_boxes((height, width), boxes)[None])


def crop_boxes(image_size_hw: tuple[int, int], count: int) -> Tensor:
    """(n, 4) xyxy fractions of the image, drawn by torchvision's RandomResizedCrop."""
    canvas = torch.empty(3, *image_size_hw, device="meta")
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(count):
        top, left, height, width = RandomResizedCrop.get_params(canvas, list(_SCALE), list(_RATIO))
        boxes.append(Box.from_crop(top, left, height, width, image_size_hw).xyxy)
    return torch.tensor(boxes)
