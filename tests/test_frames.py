"""Photographs that EXIF turns: pixels, boxes and maps, as decoded and upright, held against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from stores import random_logits

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box, Footprint
from relabel.geometry.frames import shows_whole, turned, turned_boxes, undoing
from relabel.score_map import ScoreMap

ORIENTATIONS = range(1, 9)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (y, x, 3) as Pillow turns them."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_and_boxes_turn_as_pillow_turns_an_image_and_back(orientation):
    pixels = np.random.default_rng(orientation).integers(0, 255, (6, 8, 3), np.uint8)
    ours = turned(torch.from_numpy(pixels).permute(2, 0, 1), orientation)
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), upright(pixels, orientation))
    assert np.array_equal(turned(ours, undoing(orientation)).permute(1, 2, 0).numpy(), pixels)
    marked = np.zeros((8, 16, 3), np.uint8)
    marked[1:4, 6:16] = 1
    box = Box.from_crop(1, 6, 3, 10, (8, 16))
    rows, columns = np.nonzero(upright(marked, orientation)[..., 0])
    size_hw = upright(marked, orientation).shape[:2]
    place = rows.min(), columns.min(), rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
    there = turned_boxes(torch.tensor([box.xyxy]), orientation)
    assert there.tolist() == [list(Box.from_crop(*map(int, place), size_hw).xyxy)]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("footprint", [Footprint(), Footprint(0.125, 0.0, 0.75, 1.0), "each"])
def test_a_turned_map_is_that_of_turned_logits(footprint, coded):
    logits = random_logits(9, 11, (5, 5))
    orientations = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 1])
    boxes = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) * 0.25 + torch.tensor([0.25, 0.25, 0.5, 0.5])
    parts = torch.tensor([[0.125, -0.25, 1.0, 0.875]] * 9) if footprint == "each" else footprint
    maps = ScoreMap.from_logits(logits, 3, 4, footprint=parts)
    maps = maps.coded() if coded else maps
    before = maps.planes.clone()
    pooled = maps.turned(orientations).pool(boxes, (2, 3))
    assert torch.equal(maps.planes, before)
    for i, orientation in enumerate(orientations.tolist()):
        # The label of a box is that of the same place in the frame where the map was.
        back = undoing(orientation)
        wanted_hw = (3, 2) if orientation > 4 else (2, 3)
        there = maps[i : i + 1].pool(turned_boxes(boxes[i : i + 1], back), wanted_hw)
        torch.testing.assert_close(pooled[i : i + 1], turned(there, orientation), atol=1e-5, rtol=0)


def test_maps_that_cannot_be_turned_are_refused():
    maps = ScoreMap.from_logits(random_logits(2, 11, (4, 5)))
    assert maps.turned(torch.tensor([1, 1])) is maps
    assert torch.equal(maps.turned(torch.tensor([1, 3])).rest[1], maps.rest[1].flip(0, 1))
    with pytest.raises(LabelError, match=r"maps of 4x5 cells cannot be turned by a quarter.*square --grid"):
        maps.turned(torch.tensor([1, 6]))
    for wrong, why in (([0, 1], "is 1 to 8; got 0"), ([1.0, 1.0], "of torch.float32"), ([1], r"got \(1,\)")):
        with pytest.raises(InvalidValueError, match=why):
            maps.turned(torch.tensor(wrong))


@pytest.mark.parametrize("size_hw", [(375, 500), (256, 341), (256, 342), (48, 64), (3000, 4000)])
def test_a_copy_of_the_same_shape_shows_the_whole(size_hw):
    assert shows_whole(size_hw, (375, 500))
    assert not shows_whole(size_hw[::-1], (375, 500))
    assert not shows_whole((size_hw[0], size_hw[1] * 15 // 16), (375, 500))
