"""Pooled planes to soft labels: RoIAlign and softmax over what is stored, never over a dense C x H x W tensor.

Two spaces. "logit", what ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858) describe: log-probabilities
are pooled, and the softmax comes after. "probability": probabilities are pooled. In either, a temperature T raises the
label to the power 1 / T: in the first that is to divide what goes into the softmax by T. A reading is of the first: it
weighs what goes into the softmax, and adds the scores of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.affine import ViewWeights
from relabel.geometry.cells import CellWeights

Space = Literal["logit", "probability"]
Weights = CellWeights | ViewWeights


@dataclass(frozen=True, slots=True, eq=False)
class WholeMaps:
    """What is pooled: B score maps without holes, as numbers times `unit` nats.

    `planes` is (B, K, H, W) and `rest` (B, H, W), of any dtype, so that codes travel as codes until they are pooled;
    `offsets` is (B, M + 1) floating, in nats: of the M profile classes to `rest`, then of each remaining class.
    """

    planes: Tensor
    rest: Tensor
    offsets: Tensor
    num_classes: int
    unit: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ReadWeights:
    """What the pooled scores of each crop count in its label, and those of its whole image: (B,), as labels are.

    `cells` is (B, H, W), how much each cell counts in the whole image, 1 together; None is all cells alike.
    """

    pooled: Tensor
    whole: Tensor
    cells: Tensor | None = None


def pool_maps(maps: Tensor, weights: CellWeights, read: ReadWeights | None = None) -> Tensor:
    """RoIAlign of maps (B, P, H, W), of any dtype, with one box each: (B, P, h, w) of the weights' dtype.

    With `read`, weighed, and with the whole images' scores, as `_read` says.
    """
    rows, cols = weights.rows, weights.cols
    batch, planes, height, width = maps.shape
    # A trainer's autocast (8 bits) or TF32 (10 bits) would round the scores; float64 knows no TF32.
    dtype = torch.float64 if maps.is_cuda else rows.dtype
    maps = maps.to(dtype)
    with torch.autocast(maps.device.type, enabled=False):
        if rows.shape[1] == cols.shape[1] == 1:
            # One bin: the outer product of both axes' weights is smaller than a half-pooled map.
            cells = rows.to(dtype).reshape(batch, height, 1) * cols.to(dtype).reshape(batch, 1, width)
            if read is not None:
                # What `_read` does, to one plane of weights instead of to every plane of the map.
                each = 1 / (height * width) if read.cells is None else read.cells.to(dtype)
                shares = read.whole.to(dtype)[:, None, None] * each
                cells = cells * read.pooled.to(dtype)[:, None, None] + shares
            # A row times a matrix takes a sixth of the time of the same matrix times a column.
            flat = maps.reshape(batch, planes, height * width).transpose(1, 2)
            pooled = torch.bmm(cells.reshape(batch, 1, height * width), flat).reshape(batch, planes, 1, 1)
        else:
            half = torch.bmm(maps.reshape(batch, planes * height, width), cols.to(dtype).transpose(1, 2))
            half = half.reshape(batch, planes, height, cols.shape[1])
            pooled = torch.matmul(rows.to(dtype).unsqueeze(1), half)
            pooled = pooled if read is None else _read(pooled, maps, read)
    return pooled.to(rows.dtype)


def pool_views(maps: Sequence[Tensor], weights: Weights, read: ReadWeights | None = None) -> list[Tensor]:
    """`pool_maps` of several maps (B, P, H, W) each, where views may be affine."""
    if isinstance(weights, CellWeights):
        return [pool_maps(some, weights, read) for some in maps]
    dtype = weights.covered.dtype
    pooled = [some.new_empty(*some.shape[:2], *weights.covered.shape[1:], dtype=dtype) for some in maps]
    if weights.boxes is not None:
        for some, out in zip(maps, pooled, strict=True):
            out[weights.box_rows] = pool_maps(some[weights.box_rows], weights.boxes)
    device = weights.covered.device
    # As in `pool_maps`.
    exact = torch.float64 if device.type == "cuda" else dtype
    with torch.autocast(device.type, enabled=False):
        for part, cells in weights.bins.weights(device, exact):
            rows = weights.affine_rows[part]
            for some, out in zip(maps, pooled, strict=True):
                bins = torch.bmm(some[rows].flatten(2).to(exact), cells.transpose(1, 2))
                out[rows] = bins.reshape(-1, *out.shape[1:]).to(dtype)
    return pooled if read is None else [_read(out, some, read) for some, out in zip(maps, pooled, strict=True)]


def soft_labels(
    maps: WholeMaps, weights: Weights, *, space: Space, temperature: float = 1.0, read: ReadWeights | None = None
) -> tuple[Tensor, Tensor]:
    """The labels of one box an image: (B, K + M, h, w) of the stored classes, (B, h, w) of each other class.

    Args:
        maps: of B images.
        weights: from `geometry.cells` or `geometry.affine`, on the device of the maps.
        space: what is pooled.
        temperature: T above 0; the labels are those of T = 1 to the power 1 / T, renormalised.
        read: of a reading, in logit space; None leaves pooled scores as they are.
    """
    if not 0 < temperature < math.inf:
        raise InvalidValueError(f"temperature must be above 0 and finite, 1 for the label as it is; got {temperature}")
    if space not in _SPACES:
        raise InvalidValueError(f"space must be one of {', '.join(map(repr, _SPACES))}; got {space!r}")
    if space == "logit" and temperature != 1:
        # Before the softmax, where classes of next to no probability are not zero yet.
        maps = replace(maps, unit=maps.unit / temperature, offsets=maps.offsets / temperature)
    if read is not None:
        if space != "logit":
            raise InvalidValueError(
                "a reading weighs log-probabilities, so it knows logit space only: leave space= out, or take the "
                f"reading off, with relabel.open(store, reading=None); got space={space!r}"
            )
        # Weights of a crop and of the image sum to 1 each over the cells, so that both have a class's whole offset.
        maps = replace(maps, offsets=maps.offsets * (read.pooled + read.whole)[:, None])
    others = maps.num_classes - maps.planes.shape[1] - maps.offsets.shape[1] + 1
    # The remaining classes share one offset, so they enter each sum once, with their number as a factor.
    counted = maps.offsets.clone()
    counted[:, -1].add_(math.log(others) if others else -math.inf)
    labels, other = (
        _SPACES[space](maps, counted, weights) if read is None else _pool_logits(maps, counted, weights, read)
    )
    other = other / max(others, 1)
    if space == "probability" and temperature != 1:
        return _tempered(labels, other, others, temperature)
    return labels, other


def _tempered(labels: Tensor, other: Tensor, others: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, n, h, w) and (B, h, w), of each of `others` classes, to the power 1 / temperature, renormalised."""
    # Relative to the largest, whose power cannot vanish.
    most = torch.maximum(labels.amax(1), other)
    labels, other = (labels / most.unsqueeze(1)) ** (1 / temperature), (other / most) ** (1 / temperature)
    total = labels.sum(1) + others * other
    return labels / total.unsqueeze(1), other / total


def _pool_logits(
    maps: WholeMaps, counted: Tensor, weights: Weights, read: ReadWeights | None = None
) -> tuple[Tensor, Tensor]:
    """(B, K + M, h, w) of the stored classes and (B, h, w) of all remaining ones together."""
    # Pooling is linear, so that codes need their unit only afterwards, when they are few. All other classes have one
    # pooled score, `rest`, and fixed offsets.
    rest = maps.rest.unsqueeze(1)
    if weights.covered.shape[1:] == (1, 1):
        # Few operations, for a label alone costs as much as their number.
        [pooled] = pool_views([_beside(maps.planes, rest)], weights, read)
        planes, rest = (pooled.flatten(1) * maps.unit).split([maps.planes.shape[1], 1], dim=1)
        # torch adds one by one along a dimension that is not the last: 1,000 planes of little weight are 3e-5 wrong.
        labels = torch.cat([planes, rest + counted], dim=1).softmax(dim=1)[:, :, None, None]
        return labels[:, :-1], labels[:, -1]
    planes, rest = pool_views([maps.planes, rest], weights, read)
    planes, rest = planes * maps.unit, rest * maps.unit
    # The mass of the others is one more entry of each softmax, and shared afterwards.
    rest += counted.logsumexp(dim=1)[:, None, None, None]
    labels = torch.cat([planes, rest], dim=1).softmax(dim=1)
    return _shared(labels[:, :-1], labels[:, -1:], counted)


def _read(pooled: Tensor, scores: Tensor, read: ReadWeights) -> Tensor:
    """Pooled scores (B, P, h, w) and the whole images', of maps (B, P, H, W), each weighed, together."""
    if read.cells is None:
        whole = scores.mean((2, 3), keepdim=True, dtype=pooled.dtype)
    else:
        with torch.autocast(scores.device.type, enabled=False):
            # As in `pool_maps`.
            exact = torch.float64 if scores.is_cuda else pooled.dtype
            cells = read.cells.to(exact).flatten(1)[:, :, None]
            whole = torch.bmm(scores.flatten(2).to(exact), cells)[..., None].to(pooled.dtype)
    return pooled * read.pooled[:, None, None, None] + whole * read.whole[:, None, None, None]


def _beside(planes: Tensor, rest: Tensor) -> Tensor:
    """Planes (B, K, H, W) and the rest (B, 1, H, W) as one tensor; no copy where they are of one, as a store's are."""
    after = planes.storage_offset() + planes.shape[1] * planes.stride(1)
    is_one = planes.untyped_storage().data_ptr() == rest.untyped_storage().data_ptr()
    if is_one and planes.dtype == rest.dtype and (rest.storage_offset(), rest.stride()) == (after, planes.stride()):
        return planes.as_strided((len(planes), planes.shape[1] + 1, *planes.shape[2:]), planes.stride())
    return torch.cat([planes, rest], dim=1)


def _shared(planes: Tensor, tail: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The mass (B, 1, h, w) of all classes but the planes', given out to them."""
    # Without any such, every `counted` is -inf and there is no mass to share.
    share = counted.softmax(dim=1).nan_to_num(0.0)
    shared = tail * share[:, :, None, None]
    return torch.cat([planes, shared[:, :-1]], dim=1), shared[:, -1]


def _pool_probabilities(maps: WholeMaps, counted: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """(B, K + M, h, w) of the stored classes and (B, h, w) of all remaining ones together."""
    dtype = weights.covered.dtype
    planes, rest = maps.planes.to(dtype) * maps.unit, maps.rest.unsqueeze(1).to(dtype) * maps.unit
    in_tail = maps.num_classes - planes.shape[1]
    # Raw logits may be too large for exp(), or, if there are no others, too small: a shift of a cell cancels below.
    top = planes.amax(1, keepdim=True)
    shift = torch.maximum(top, rest).clamp(min=0) if in_tail else top
    planes = (planes - shift).exp()
    mass = planes.sum(dim=1, keepdim=True)
    # The others hold what the planes leave, and by Jensen's inequality no less than their mean log says; the second
    # counts where coding has rounded the planes' mass up to 1, and where scores are raw logits.
    least = in_tail * (rest - shift).exp()
    left = torch.maximum((-shift).exp() - mass, least) if in_tail else torch.zeros_like(mass)
    [pooled] = pool_views([torch.cat([planes, left], dim=1) / (mass + left)], weights)
    return _shared(pooled[:, :-1], pooled[:, -1:], counted)


_SPACES: dict[str, Callable[[WholeMaps, Tensor, Weights], tuple[Tensor, Tensor]]] = {
    "logit": _pool_logits,
    "probability": _pool_probabilities,
}
