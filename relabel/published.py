"""The targets of the two papers, as their published codes make them from their own maps, to compare with and to import.

ReLabel (arXiv 2101.05022; naver-ai/relabel_imagenet at 3d4824f) gives a crop one soft label; Token Labeling (arXiv
2104.10858; zihangJiang/TokenLabeling at 9dbfd59) one to each token, too. Both keep the raw logits of the top classes of
each cell, take 0 for every other class and for whatever lies outside the map, pool boxes of at least one cell, and
apply the softmax last. Maps are `ScoreMap.from_cell_topk`, or come from a store that an archive was imported into.

Both codes hand the crop box to RoIAlign with x and y swapped. The papers mean no such thing, so the box goes the right
way round here; ``as_shipped=True`` makes the targets that the codes train on. To train with the same maps, use
`ScoreMap.pool` with ``fill="zero"``: it leaves out what lies outside the map instead of calling it 0. Neither knows a
reading: it is fitted to labels of ``fill="rest"``, so that of the maps is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import WHOLE, Grid
from relabel.geometry.cells import CellWeights, cell_boxes, checked_boxes, published_weights, swapped
from relabel.pooling import pool_maps
from relabel.score_map import ScoreMap, Size
from relabel.score_map.checks import bins_hw, check_flip
from relabel.score_map.coding import is_code
from relabel.score_map.filling import whole_maps


@dataclass(frozen=True, slots=True)
class TokenLabeling:
    """The options of Token Labeling's targets, with the defaults of its code.

    Attributes:
        size: tokens of a crop, n or (h, w). With 1 the code makes no tokens, only the label of the crop.
        smoothing: s in [0, 1), of the ground truth and of the soft labels alike.
        sum_to_one: smooth soft labels p to ``p (1 - s) + s / C``. The code's ``p (1 - s + s / C) + s / C``, the default
            here, is right for a one-hot label only: soft labels come to sum to 1 + s / C.

    Raises:
        InvalidValueError: a size or a smoothing without meaning.
    """

    size: Size = 14
    smoothing: float = 0.1
    sum_to_one: bool = False

    def __post_init__(self) -> None:
        bins_hw(self.size)
        if not 0 <= self.smoothing < 1:
            raise InvalidValueError(f"smoothing must be at least 0 and below 1; got {self.smoothing}")


def relabel_targets(maps: ScoreMap, boxes_xyxy: Tensor, *, as_shipped: bool = False) -> Tensor:
    """ReLabel's soft label of one crop of each image.

    Args:
        maps: raw logits of the top classes of each cell, see `ScoreMap.from_cell_topk`.
        boxes_xyxy: (B, 4) floating, fractions of the whole image; rounded to float32, as in the code. That the crop
            was mirrored afterwards makes no difference.
        as_shipped: as the code does it: x and y of the box swapped, both multiplied by the map's *width*, and the map
            taken to cover the whole image, whatever its footprint.

    Returns:
        (B, C) float32 (float64 for a float64 map), on the device of the maps; sums to 1 over the classes.

    Raises:
        InvalidValueError: an empty box, a wrong shape, or maps that are not raw logits of each cell's top classes.

    Four cells, each sure of a class of its own. The right half is of classes 1 and 3, and the code takes the lower one:

    >>> maps = ScoreMap.from_cell_topk(torch.tensor([[[[0, 1], [2, 3]]]]), torch.full((1, 1, 2, 2), 8.0), num_classes=4)
    >>> right = torch.tensor([[0.5, 0.0, 1.0, 1.0]])
    >>> relabel_targets(maps, right)
    tensor([[0.0090, 0.4910, 0.0090, 0.4910]])
    >>> relabel_targets(maps, right, as_shipped=True)
    tensor([[0.0090, 0.0090, 0.4910, 0.4910]])
    """
    return _pooled(maps, boxes_xyxy, (1, 1), as_shipped)[:, :, 0].softmax(dim=1)


def token_labeling_targets(
    maps: ScoreMap,
    boxes_xyxy: Tensor,
    ground_truth: Tensor,
    options: TokenLabeling | None = None,
    *,
    as_shipped: bool = False,
) -> Tensor:
    """Token Labeling's targets of one crop of each image: its ground truth, its label, and the labels of its tokens.

    The code mirrors an image and its map before it crops: see `mirrored`.

    Args:
        maps: as in `relabel_targets`.
        boxes_xyxy: as in `relabel_targets`.
        ground_truth: (B,) integers in [0, C).
        options: None for those of the code.
        as_shipped: as in `relabel_targets`.

    Returns:
        (B, C, 2 + N), of the dtype and device that `relabel_targets` has: in column 0 the smoothed one-hot ground
        truth, in column 1 the label of the crop, from column 2 on those of the N = h w tokens, row by row; smoothed,
        see `TokenLabeling`. (B, C, 2) for a size of 1.

    Raises:
        InvalidValueError: as in `relabel_targets`; on the CPU, a ground truth outside [0, C).
    """
    options = options or TokenLabeling()
    _check_ground_truth(ground_truth, maps)
    sizes = dict.fromkeys([(1, 1), bins_hw(options.size)])
    # One softmax of all columns, as in the code: in float32 it rounds as the code's does, 3e-4 at 20,000 classes.
    soft = torch.cat([_pooled(maps, boxes_xyxy, size_hw, as_shipped) for size_hw in sizes], dim=2).softmax(dim=1)
    off = options.smoothing / maps.num_classes
    on = 1 - options.smoothing + off
    truth = torch.full_like(soft[:, :, :1], off)
    truth.scatter_(1, ground_truth.to(soft.device, torch.int64)[:, None, None], on)
    return torch.cat([truth, soft * (1 - options.smoothing if options.sum_to_one else on) + off], dim=2)


def mirrored(maps: ScoreMap, flip: Tensor) -> ScoreMap:
    """The maps of images of which some were mirrored, left to right, *before* they were cropped.

    So Token Labeling's code does it, where a box is one of the mirrored image. Everywhere else in relabel a crop is
    mirrored after it was cut, and `ScoreMap.pool` takes that as its `flip`.

    Args:
        maps: of B images, of any kind.
        flip: (B,) bool.
    """
    check_flip(flip, len(maps))
    there = flip.to(maps.planes.device, torch.bool)
    corners = maps.footprints_xyxy()
    other_way = torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], dim=1)
    footprint = torch.where(flip.to(corners.device, torch.bool)[:, None], other_way, corners)
    planes = torch.where(there[:, None, None, None], maps.planes.flip(3), maps.planes)
    rest = torch.where(there[:, None, None], maps.rest.flip(2), maps.rest)
    return replace(maps, planes=planes, rest=rest, footprint=footprint)


def _pooled(maps: ScoreMap, boxes_xyxy: Tensor, size_hw: tuple[int, int], as_shipped: bool) -> Tensor:
    """(B, C, h * w) pooled logits, 0 for a class that no cell lists."""
    if not maps.holes or is_code(maps.planes):
        raise InvalidValueError(
            "published targets are made from raw logits of the top classes of each cell (ScoreMap.from_cell_topk, or a "
            f"store that an archive was imported into); got {maps!r}. ScoreMap.pool makes labels of all others"
        )
    # The number of samples of a box depends on the last bit of its length: the codes' is that of float32.
    boxes = checked_boxes(boxes_xyxy).float()
    if len(boxes) != len(maps):
        raise InvalidValueError(f"{len(maps)} maps need as many boxes; got {len(boxes)}")
    if as_shipped:
        in_cells = cell_boxes(swapped(boxes), WHOLE, Grid(maps.grid.width, maps.grid.width))
    else:
        in_cells = cell_boxes(boxes, maps.footprint, maps.grid)
    weights = published_weights(in_cells, maps.grid, size_hw)
    filled = whole_maps(maps, "zero")
    there = (w.to(filled.rest.device, filled.rest.dtype) for w in (weights.rows, weights.cols, weights.covered))
    listed = pool_maps(filled.planes, CellWeights(*there)).flatten(2)
    pooled = listed.new_zeros(len(maps), maps.num_classes, listed.shape[2])
    return pooled.scatter_(1, maps.classes.long().unsqueeze(2).expand_as(listed), listed)


def _check_ground_truth(ground_truth: Tensor, maps: ScoreMap) -> None:
    """Refuse what is not one class an image; values on the CPU only, since to look at others waits for them."""
    wrong = None
    if not isinstance(ground_truth, Tensor):
        wrong = f"a {type(ground_truth).__name__}"
    elif ground_truth.shape != (len(maps),) or ground_truth.is_floating_point() or ground_truth.dtype == torch.bool:
        wrong = f"{tuple(ground_truth.shape)} of {ground_truth.dtype}"
    elif ground_truth.device.type == "cpu" and len(maps):
        ids = ground_truth.long()
        outside = ((ids < 0) | (ids >= maps.num_classes)).nonzero()
        wrong = f"{int(ids[outside[0, 0]])} for image {int(outside[0, 0])}" if len(outside) else None
    if wrong:
        raise InvalidValueError(
            f"ground_truth must be ({len(maps)},) integers, a class in [0, {maps.num_classes}) for each image; "
            f"got {wrong}"
        )
