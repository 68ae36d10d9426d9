"""`ScoreMap`: what a teacher said of every cell of an image, kept as whole planes of the image's top classes.

Both papers keep the top classes of each cell. A class that wins in one cell is then missing in the next, and pooling
needs it there. A score map keeps the top classes *of the image* at every cell instead, and a summary of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import CellWeights, Grid, at_least_one_cell, cell_boxes, checked_boxes, roi_weights
from relabel.pooling import Space, SparseLabels, soft_labels
from relabel.score_map.choice import cell_planes, image_planes
from relabel.score_map.coding import decode_offsets, decode_scores, encode_offsets, encode_scores, is_code

Uncovered = Literal["raise", "nearest"]
Fill = Literal["rest", "zero"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """Score maps of B images of one grid, on one device.

    Floating tensors are log-probabilities (NaN = not stored). uint8 planes and rest, and an int8 profile, are codes:
    ``-code / 8`` nats (255 = not stored) and ``offset / 8`` nats; so a store keeps them and so they travel.

    Attributes:
        classes: (B, K + M) integers, the K plane classes by weight, then the M profile classes.
        planes: (B, K, H, W), the log-probability of each plane class at every cell.
        rest: (B, H, W), at each cell the mean log-probability of all classes without a plane.
        profile: (B, M + 1), offsets to `rest`: of the M profile classes, then of each remaining class; None is M = 0.
        num_classes: C.
        footprint: (B, 4) xyxy, the part of the image that each map covers; None is the whole image.
        holes: whether a plane may miss cells, as maps made from per-cell top-k files do.

    Raises:
        InvalidValueError: shapes or dtypes disagree, or a class lies outside [0, C) (looked at on the CPU only).
    """

    classes: Tensor
    planes: Tensor
    rest: Tensor
    profile: Tensor | None = None
    num_classes: int = field(kw_only=True)
    footprint: Tensor | None = field(default=None, kw_only=True)
    holes: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.planes.ndim != 4 or self.classes.ndim != 2:
            raise InvalidValueError(
                "a score map needs planes (B, K, H, W) and classes (B, K + M); "
                f"got planes {tuple(self.planes.shape)} and classes {tuple(self.classes.shape)}"
            )
        batch, count, height, width = self.planes.shape
        profiled = self.classes.shape[1] - count
        expected = {
            "classes": (self.classes, (batch, count + profiled)),
            "rest": (self.rest, (batch, height, width)),
            "profile": (self.profile, (batch, profiled + 1)),
            "footprint": (self.footprint, (batch, 4)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InvalidValueError(
                    f"{name} must be {shape} beside planes {tuple(self.planes.shape)} and classes "
                    f"{tuple(self.classes.shape)}; got {tuple(tensor.shape)}"
                )
        if self.profile is None and profiled:
            raise InvalidValueError(
                f"{profiled} profile classes need a profile of (B, {profiled + 1}) offsets; got none"
            )
        if count < 1 or profiled < 0 or count + profiled > self.num_classes:
            raise InvalidValueError(
                f"K + M must lie between 1 and num_classes = {self.num_classes}; got K = {count}, M = {profiled}"
            )
        self._check_values()

    def _check_values(self) -> None:
        if self.planes.dtype != self.rest.dtype or not (is_code(self.planes) or self.planes.is_floating_point()):
            raise InvalidValueError(
                "planes and rest must both be floating or both uint8 codes; "
                f"got {self.planes.dtype} and {self.rest.dtype}"
            )
        if self.classes.is_floating_point():
            raise InvalidValueError(f"class ids are integers, never floats; got {self.classes.dtype}")
        # Looking at values on a device would wait for it; `verify` looks at every stored one.
        if self.classes.device.type == "cpu" and self.classes.numel():
            low, high = (int(v) for v in self.classes.to(torch.int64).aminmax())
            if low < 0 or high >= self.num_classes:
                raise InvalidValueError(f"class ids must lie in [0, {self.num_classes}); got {low} .. {high}")

    def __len__(self) -> int:
        return self.planes.shape[0]

    def __repr__(self) -> str:
        _, count, height, width = self.planes.shape
        return (
            f"ScoreMap({len(self)} images, {count} planes + {self.classes.shape[1] - count} profile classes of "
            f"{self.num_classes}, grid {height}x{width}, {self.planes.dtype}, {self.planes.device})"
        )

    @property
    def grid(self) -> Grid:
        """The size of the maps in cells."""
        return Grid(self.planes.shape[2], self.planes.shape[3])

    @classmethod
    def from_logits(
        cls, logits: Tensor, planes: int = 16, profile: int = 64, *, footprint: Tensor | None = None
    ) -> ScoreMap:
        """Keep the `planes` classes that matter most in each image as planes, and the next `profile` as offsets.

        What matters is a class's mean probability in the labels of 14 boxes: the whole map, its quarters, its ninths.
        The offset of the remaining classes keeps their mass: the log of their mean factor over `rest`.

        Args:
            logits: (B, C, H, W) floating, any constant may be added at a cell. On any device; nothing waits for it.
            planes: K, at least 1.
            profile: M; K + M is cut to C where there are fewer classes.
            footprint: (B, 4) or None, see `ScoreMap`.
        """
        if logits.ndim != 4 or not logits.is_floating_point():
            raise InvalidValueError(
                f"logits must be floating (B, C, H, W); got {tuple(logits.shape)} of {logits.dtype}"
            )
        num_classes = logits.shape[1]
        if planes < 1 or profile < 0:
            raise InvalidValueError(f"planes must be at least 1 and profile at least 0; got {planes} and {profile}")
        scores = logits if logits.dtype == torch.float64 else logits.float()
        kept = image_planes(scores, min(planes, num_classes), profile)
        return cls(*kept, num_classes=num_classes, footprint=footprint)

    @classmethod
    def from_cell_topk(
        cls, classes: Tensor, logits: Tensor, *, num_classes: int, rest: Tensor | None = None
    ) -> ScoreMap:
        """Maps of the published kind, the top k classes of each cell, as planes with holes.

        Args:
            classes: (B, k, H, W) integers, distinct at a cell.
            logits: (B, k, H, W) floating: raw logits as published, or log-probabilities.
            num_classes: C.
            rest: (B, H, W), the score of a class that a cell does not list; None is 0, as published.
        """
        if classes.shape != logits.shape or logits.ndim != 4:
            raise InvalidValueError(
                f"classes and logits must both be (B, k, H, W); got {tuple(classes.shape)} and {tuple(logits.shape)}"
            )
        ids, planes = cell_planes(classes, logits, num_classes)
        fill = torch.zeros_like(logits[:, 0]) if rest is None else rest.to(logits.dtype)
        return cls(ids, planes, fill, num_classes=num_classes, holes=True)

    def coded(self) -> ScoreMap:
        """The same maps as codes (uint8 and int8), clamped to [-31.75, 0] and [-16, 15.875] nats."""
        if is_code(self.planes):
            return self
        return replace(
            self,
            planes=encode_scores(self.planes),
            rest=encode_scores(self.rest),
            profile=None if self.profile is None else encode_offsets(self.profile),
        )

    def decoded(self) -> ScoreMap:
        """The same maps as float32 log-probabilities and offsets, NaN where not stored."""
        if not is_code(self.planes):
            return self
        return replace(
            self,
            planes=decode_scores(self.planes, holes=self.holes),
            rest=decode_scores(self.rest, holes=self.holes),
            profile=None if self.profile is None else decode_offsets(self.profile, torch.float32),
        )

    def to_dense(self) -> Tensor:
        """(B, C, H, W): every class's score at every cell, for comparison; large."""
        scores, offsets = self._scores_and_offsets("rest")
        rest = scores[:, -1:]
        dense = (rest + offsets[:, -1:, None, None]).expand(-1, self.num_classes, -1, -1).clone()
        stored = torch.cat([scores[:, :-1], rest + offsets[:, :-1, None, None]], dim=1)
        index = self.classes.long()[:, :, None, None].expand_as(stored)
        return dense.scatter_(1, index, stored)

    @overload
    def pool(
        self,
        boxes_xyxy: Tensor,
        size: tuple[int, int] | None = ...,
        *,
        flip: Tensor | None = ...,
        sparse: Literal[False] = ...,
        space: Space = ...,
        fill: Fill = ...,
        uncovered: Uncovered = ...,
    ) -> Tensor: ...

    @overload
    def pool(
        self,
        boxes_xyxy: Tensor,
        size: tuple[int, int] | None = ...,
        *,
        flip: Tensor | None = ...,
        sparse: Literal[True],
        space: Space = ...,
        fill: Fill = ...,
        uncovered: Uncovered = ...,
    ) -> SparseLabels: ...

    def pool(
        self,
        boxes_xyxy: Tensor,
        size: tuple[int, int] | None = None,
        *,
        flip: Tensor | None = None,
        sparse: bool = False,
        space: Space = "logit",
        fill: Fill = "rest",
        uncovered: Uncovered = "raise",
    ) -> Tensor | SparseLabels:
        """The soft label of one crop of each image: RoIAlign over the map, then softmax.

        Args:
            boxes_xyxy: (B, 4) floating, fractions of the whole image.
            size: None for image labels, (h, w) for the labels of h x w tokens.
            flip: (B,) bool, whether the crop was mirrored afterwards; mirrors the columns of token labels.
            sparse: return `SparseLabels`, without the dense target.
            space: "logit" pools log-probabilities, "probability" pools probabilities.
            fill: what a class is worth where the map does not store it: "rest", or "zero", the published codes'
                logit 0 and boxes of at least one cell, for maps with holes and raw logits only.
            uncovered: what to do with a bin wholly outside the footprint: "raise", or take the "nearest" cells.

        Returns:
            (B, C) or (B, C, h, w) float32 (float64 for a float64 map), summing to 1 over the classes.

        Raises:
            InvalidValueError: an empty box, a wrong shape or option.
            LabelError: a bin outside the footprint, with `uncovered` "raise".
        """
        weights = self._weights(boxes_xyxy, size or (1, 1), fill, uncovered)
        if flip is not None:
            mirrored = flip.to(weights.cols.device, torch.bool)[:, None, None]
            weights = replace(weights, cols=torch.where(mirrored, weights.cols.flip(1), weights.cols))
        scores, offsets = self._scores_and_offsets(fill)
        others = self.num_classes - self.classes.shape[1]
        stored, other = soft_labels(scores, offsets, others, weights, space=space)
        covered = weights.covered
        if size is None:
            stored, other, covered = stored[:, :, 0, 0], other[:, 0, 0], covered[:, 0, 0]
        labels = SparseLabels(self.classes, stored, other, covered, self.num_classes)
        return labels if sparse else labels.dense()

    def covered(self, boxes_xyxy: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B,) or (B, h, w): the fraction of each crop, or of each of its bins, that the map covers."""
        covered = self._weights(boxes_xyxy, size or (1, 1), "rest", "nearest").covered
        return covered[:, 0, 0] if size is None else covered

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ScoreMap:
        """The same maps on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ScoreMap:
        """The same maps in page-locked memory, for copies to a GPU that do not block."""
        return self._each(lambda tensor: tensor.pin_memory())

    def __getitem__(self, index: slice | Tensor) -> ScoreMap:
        """The maps of some of the images."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> ScoreMap:
        return replace(
            self,
            classes=change(self.classes),
            planes=change(self.planes),
            rest=change(self.rest),
            profile=None if self.profile is None else change(self.profile),
            footprint=None if self.footprint is None else change(self.footprint),
        )

    def _weights(self, boxes_xyxy: Tensor, size_hw: tuple[int, int], fill: Fill, uncovered: Uncovered) -> CellWeights:
        if fill not in ("rest", "zero") or uncovered not in ("raise", "nearest"):
            raise InvalidValueError(
                f"fill must be 'rest' or 'zero' and uncovered 'raise' or 'nearest'; got {fill!r} and {uncovered!r}"
            )
        if len(boxes_xyxy) != len(self):
            raise InvalidValueError(f"{len(self)} maps need as many boxes; got {len(boxes_xyxy)}")
        boxes = checked_boxes(boxes_xyxy)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        footprint = whole if self.footprint is None else self.footprint
        in_cells = cell_boxes(boxes, footprint.to(boxes), self.grid)
        if fill == "zero":
            in_cells = at_least_one_cell(in_cells)
        weights = roi_weights(in_cells, self.grid, size_hw, clamp_uncovered=uncovered == "nearest")
        device, dtype = self.planes.device, self._dtype
        return CellWeights(
            *(w.to(device, dtype, non_blocking=True) for w in (weights.rows, weights.cols, weights.covered))
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.planes.dtype == torch.float64 else torch.float32

    def _scores_and_offsets(self, fill: Fill) -> tuple[Tensor, Tensor]:
        """(B, K + 1, H, W) log-probabilities without holes, rest last, and (B, M + 1) offsets."""
        scores = torch.cat([self.planes, self.rest.unsqueeze(1)], dim=1)
        scores = decode_scores(scores, holes=self.holes) if is_code(scores) else scores.to(self._dtype)
        offsets = scores.new_zeros(len(self), 1)
        if self.profile is not None:
            offsets = decode_offsets(self.profile, scores.dtype)
        if fill == "zero":
            # A raw logit of 0, the published meaning of a class that a cell does not list.
            scores = scores.nan_to_num(0.0)
            scores[:, -1] = 0
        elif self.holes:
            rest = scores[:, -1:]
            scores = torch.where(scores.isnan(), rest + offsets[:, -1:, None, None], scores)
        return scores, offsets
