"""Whether a dense answer is the right way round: what changes in a corner of the image must show in that corner."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relabel.errors import TeacherError

_Cell = tuple[int, int]

_NOISE = 2e-5
"""Below this fraction of the logits a movement, summed over the classes, may be rounding."""

_HARDLY = 0.02
"""A cell that moves less than this fraction of the cell that moves most shows another place.

Random weights: above 0.6. A trained convolutional model's corner, where padding drowns its cell, may be down at 0.06.
"""


def localises(forward: Callable[[Tensor], Tensor], name: str, images: Tensor) -> bool:
    """Change each corner's cell of an image in turn: is it that cell of the map that answers to it most?

    Cells differ in how far they move at all, and a model that mixes globally moves them all. So each corner cell is
    asked which of the four changes moved it most, not which cell a change moved most.

    Args:
        forward: normalised images (B, 3, h, w) to logits (B, C, H, W).
        name: the teacher's, for the error.
        images: (1, 3, h, w); non-square shows more.

    Raises:
        TeacherError: a change plainly shows elsewhere: the map is transposed, flipped or in another order.
    """
    with torch.inference_mode():
        rows, columns = forward(images).shape[2:]
        # A grid of one row, or one column, has two corners.
        corners = list(dict.fromkeys((r, c) for r in (0, rows - 1) for c in (0, columns - 1)))
        logits = forward(_with_changes(images, corners, (rows, columns))).float()
    moved = (logits[1:] - logits[:1]).square().sum(1).sqrt()
    at_corners = torch.stack([moved[:, r, c] for r, c in corners], dim=1)
    if not bool(moved.flatten(1).amax(1).min() > _NOISE * logits.abs().max()):
        return False
    for corner, its_move, movement in zip(corners, at_corners.diagonal(), moved, strict=True):
        if bool(its_move < _HARDLY * movement.max()):
            raise _misplaced(name, corner, divmod(int(movement.argmax()), columns), (rows, columns))
    share = at_corners.square() / at_corners.square().sum(0)
    shows_in = share.argmax(1).tolist()
    if len(set(shows_in)) == len(corners) and bool((share.amax(1) > 0.5).all()):
        for corner, shown in zip(corners, shows_in, strict=True):
            if corners[shown] != corner:
                raise _misplaced(name, corner, corners[shown], (rows, columns))
    return shows_in == list(range(len(corners)))


def _with_changes(images: Tensor, cells: list[_Cell], grid_hw: _Cell) -> Tensor:
    """The image (1, 3, h, w), and once more for each cell with that cell's pixels changed."""
    batch = images.repeat(1 + len(cells), 1, 1, 1)
    height, width = (max(size // count, 1) for size, count in zip(images.shape[2:], grid_hw, strict=True))
    for changed, (row, column) in zip(batch[1:], cells, strict=True):
        top, left = row * images.shape[2] // grid_hw[0], column * images.shape[3] // grid_hw[1]
        patch = changed[:, top : top + height, left : left + width]
        patch.copy_(1 - patch)
    return batch


def _misplaced(name: str, cell: _Cell, shown: _Cell, grid_hw: _Cell) -> TeacherError:
    return TeacherError(
        f"the map of {name} is transposed, flipped or in another order: a change of the image at row {cell[0]}, column "
        f"{cell[1]} of its {grid_hw[0]} x {grid_hw[1]} cells shows at row {shown[0]}, column {shown[1]}. A map is "
        "indexed [y, x], y down; mend the model that answers it, or take another teacher"
    )
