"""Which classes of an image are kept, and what is said of the others."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from relabel.geometry import WHOLE, Grid
from relabel.geometry.cells import cell_boxes, roi_weights


def image_planes(logits: Tensor, planes: int, profile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes (B, K + M), planes (B, K, H, W), rest (B, H, W) and offsets (B, M + 1) of logits (B, C, H, W).

    `planes` lies in [1, C]; K + M is cut to C. Nothing here waits for the device.
    """
    num_classes = logits.shape[1]
    normaliser = torch.logsumexp(logits, dim=1)
    classes = _weightiest(logits, normaliser, min(planes + profile, num_classes))
    index = classes[:, :planes, None, None].expand(-1, -1, *logits.shape[2:])
    top = logits.gather(1, index) - normaliser.unsqueeze(1)
    if num_classes == planes:
        # No class is left; any finite score will do, and a difference of two equal sums would be rounding noise.
        return classes, top, top.amin(1), torch.zeros_like(top[:, :1, 0, 0])
    # Of all less the planes' sum, float32 would leave nothing where few classes are left; this reads logits once, too.
    others = logits.new_ones(len(logits), num_classes).scatter_(1, classes[:, :planes], 0)
    summed = torch.matmul(others.unsqueeze(1), logits.flatten(2)).reshape(normaliser.shape)
    rest = summed / (num_classes - planes) - normaliser
    means = logits.mean((2, 3)) - normaliser.mean((1, 2))[:, None]
    return classes, top, rest, _tail_offsets(means, rest, classes, planes)


def cell_planes(classes: Tensor, scores: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Classes (B, K) and planes (B, K, H, W), NaN where a cell lacks a class, from per-cell lists (B, k, H, W)."""
    batch, _, height, width = scores.shape
    listed = classes.flatten(1).long()
    present = torch.zeros(batch, num_classes, dtype=torch.int64, device=scores.device).scatter_(1, listed, 1)
    count = int(present.sum(1).max()) if batch else scores.shape[1]
    # Images with fewer classes are filled up with classes whose planes are all holes.
    ids = present.sort(dim=1, descending=True, stable=True).indices[:, :count]
    slots = torch.arange(count, device=scores.device).expand(batch, -1)
    where = torch.zeros_like(present).scatter_(1, ids, slots).gather(1, listed).reshape(classes.shape)
    planes = torch.full((batch, count, height, width), torch.nan, dtype=scores.dtype, device=scores.device)
    return ids, planes.scatter_(1, where, scores)


def _weightiest(logits: Tensor, normaliser: Tensor, count: int) -> Tensor:
    """(B, count) classes by their mean probability in the labels of 28 boxes, heaviest first."""
    boxes = _region_weights(logits.shape[2], logits.shape[3], logits.dtype, logits.device)
    pooled = torch.matmul(logits.flatten(2), boxes) - torch.matmul(normaliser.flatten(1), boxes).unsqueeze(1)
    return pooled.softmax(dim=1).mean(dim=2).topk(count, dim=1).indices


@functools.lru_cache(maxsize=64)
def _region_weights(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(H * W, 28): the cells' weights in the whole map, and in 3 x 3 windows of two thirds, half and a third of a side.

    Crops overlap, and so do the windows: quarters and ninths alone miss what lies across their borders. Kept per
    device: to copy them there would wait for all work that the device has.
    """
    grid = Grid(height, width)
    windows = [
        ((1 - side) * column / 2, (1 - side) * row / 2, side)
        for side in (2 / 3, 1 / 2, 1 / 3)
        for row in range(3)
        for column in range(3)
    ]
    parts = [(0.0, 0.0, 1.0, 1.0), *((x, y, x + side, y + side) for x, y, side in windows)]
    boxes = cell_boxes(torch.tensor(parts), WHOLE, grid)
    weights = roi_weights(boxes, grid, (1, 1), clamp_uncovered=False)
    cells = (weights.rows[:, 0, :, None] * weights.cols[:, 0, None, :]).flatten(1)
    return cells.T.contiguous().to(device, dtype)


def _tail_offsets(means: Tensor, rest: Tensor, classes: Tensor, kept: int) -> Tensor:
    """(B, M + 1) offsets to `rest`; `means` (B, C) is each class's mean log-probability over the cells."""
    offsets = means - rest.mean((1, 2))[:, None]
    profile = offsets.gather(1, classes[:, kept:])
    left = means.shape[1] - classes.shape[1]
    if not left:
        return torch.cat([profile, torch.zeros_like(offsets[:, :1])], dim=1)
    others = offsets.scatter(1, classes, -torch.inf)
    residual = others.logsumexp(dim=1, keepdim=True) - math.log(left)
    return torch.cat([profile, residual], dim=1)
