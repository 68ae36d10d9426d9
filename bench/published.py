"""The published way, to run beside: the top 5 classes of each cell, a file an image, and dense pooling.

Formats and pooling of ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858), but with the crop box the
right way round: their codes hand it over with x and y swapped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import roi_align

TOP = 5


def cell_top(logits: Tensor, top: int = TOP) -> tuple[Tensor, Tensor]:
    """Scores and class ids (B, k, H, W) of the best classes of each cell, best first."""
    values, classes = logits.topk(min(top, logits.shape[1]), dim=1)
    return values, classes


def save_relabel(path: Path, values: Tensor, classes: Tensor) -> None:
    """One image's file as ReLabel has it: float32 (2, k, H, W), in the format of its day."""
    torch.save(torch.stack([values, classes.float()]), path, _use_new_zipfile_serialization=False)


def save_token_labeling(path: Path, values: Tensor, classes: Tensor) -> None:
    """One image's file as TokenLabeling has it: float16 (2, k, H, W), whose ids are halves too, classes innermost."""
    stacked = torch.stack([values, classes.to(values.dtype)]).permute(0, 2, 3, 1).contiguous()
    torch.save(stacked.permute(0, 3, 1, 2).half(), path)


def load(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Scores float32 and class ids int64 (B, k, H, W) of some images' files."""
    loaded = torch.stack([torch.load(path, weights_only=True) for path in paths]).float()
    return loaded[:, 0], loaded[:, 1].long()


def dense(values: Tensor, classes: Tensor, num_classes: int, fill: Tensor | None = None) -> Tensor:
    """(B, C, H, W): zero, or `fill` (B, H, W), wherever a cell does not list a class."""
    batch, _, height, width = values.shape
    maps = torch.zeros(batch, num_classes, height, width)
    if fill is not None:
        maps += fill.unsqueeze(1)
    return maps.scatter_(1, classes, values)


def labels(maps: Tensor, boxes_xyxy: Tensor, size_hw: tuple[int, int] = (1, 1)) -> Tensor:
    """(B, C, h, w) soft labels of one box an image, fractions of the whole image: RoIAlign, then softmax."""
    height, width = maps.shape[2:]
    cells = boxes_xyxy * torch.tensor([width, height, width, height])
    rois = torch.cat([torch.arange(len(maps))[:, None].to(cells), cells - 0.5], dim=1)
    pooled: Tensor = roi_align(maps, rois, size_hw)
    return pooled.softmax(dim=1)
