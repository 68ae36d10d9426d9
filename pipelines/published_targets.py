"""The targets that the papers' own codes train on, mistakes included, from a store of their archive."""

from __future__ import annotations

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.views import Views
from relabel.published import TokenLabeling, mirrored, relabel_targets, token_labeling_targets
from relabel.score_map import ScoreMap


def shipped_targets(maps: ScoreMap, views: Views, grid_hw: tuple[int, int] | None, smoothing: float) -> list[Tensor]:
    """The labels of crops (B, C), and with a grid those of their tokens (B, C, h, w), as the codes make them.

    ReLabel's, without a grid, are not smoothed; Token Labeling's are, so that they sum to 1 + smoothing / C. Its code
    mirrors an image and its map before it crops: the box is moved to the mirrored image.

    Raises:
        InvalidValueError: a view is no box, since its pipeline turns, shears or mirrors top to bottom.
    """
    if bool(views.is_affine.any()) or bool(views.flips_vertical.any()):
        raise InvalidValueError(
            "the targets that were shipped are of boxes and mirrorings, and RandAugment turns and shears: give "
            "--randaugment none, or --published corrected, whose labels follow it"
        )
    boxes = views.boxes
    if grid_hw is None:
        return [relabel_targets(maps, boxes, as_shipped=True)]
    flips = views.flips
    other_way = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
    boxes = torch.where(flips[:, None], other_way, boxes)
    options = TokenLabeling(grid_hw, smoothing)
    # The first column is of the ground truth, and the code puts it into no loss.
    unused = torch.zeros(len(maps), dtype=torch.int64, device=maps.planes.device)
    targets = token_labeling_targets(mirrored(maps, flips), boxes, unused, options, as_shipped=True)
    return [targets[:, :, 1], targets[:, :, 2:].unflatten(2, grid_hw)]
