"""A teacher that reads colour: red says which of 8 columns, green which of 6 rows; ``colour_teacher:make``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COLUMNS, ROWS = 8, 6
STRIDE = 16


class ColourTeacher(nn.Module):
    """Answers at every cell how near its mean colour is to that of each of 6 x 8 places."""

    image_size_hw = (160, 224)
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in [0, 1] to logits (B, 48, h / 16, w / 16)."""
        colour = nn.functional.avg_pool2d(images, STRIDE)
        x = (torch.arange(COLUMNS) + 0.5) / COLUMNS - colour[:, 0, ..., None]
        y = (torch.arange(ROWS) + 0.5) / ROWS - colour[:, 1, ..., None]
        nearness = -50 * (x.square()[..., None, :] + y.square()[..., :, None])
        return nearness.flatten(3).permute(0, 3, 1, 2)


def make() -> ColourTeacher:
    """The teacher, as ``--teacher colour_teacher:make`` asks for it."""
    return ColourTeacher()


def place(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Expected x and y, in fractions of the image, of soft labels (B, 48, ...)."""
    shaped = labels.unflatten(1, (ROWS, COLUMNS))
    x, y = (torch.arange(COLUMNS) + 0.5) / COLUMNS, (torch.arange(ROWS) + 0.5) / ROWS
    return torch.tensordot(shaped.sum(1), x, ([1], [0])), torch.tensordot(shaped.sum(2), y, ([1], [0]))
