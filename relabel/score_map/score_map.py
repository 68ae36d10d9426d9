"""`ScoreMap`: what a teacher said of every cell of an image, kept as whole planes of the image's top classes.

Both papers keep the top classes of each cell. A class that wins in one cell is then missing in the next, and pooling
needs it there. A score map keeps the top classes *of the image* at every cell instead, and a summary of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import WHOLE, Footprint
from relabel.geometry.views import Views
from relabel.labels import SparseLabels
from relabel.manifest import PLANES, PROFILE
from relabel.pooling import Space, soft_labels
from relabel.score_map.checks import Size, check, check_classes, check_codable
from relabel.score_map.choice import cell_planes, image_planes
from relabel.score_map.coding import decode_maps, encode_offsets, encode_scores, is_code
from relabel.score_map.filling import Fill, whole_maps
from relabel.score_map.tensors import MapTensors
from relabel.score_map.turning import turned_maps
from relabel.score_map.weighing import Crops, Uncovered, crop_weights, read_weights


class How(TypedDict, total=False):
    """How labels are pooled; see `ScoreMap.pool`."""

    space: Space
    temperature: float
    fill: Fill
    uncovered: Uncovered


class Crop(How, total=False):
    """The same, of crops of which some were mirrored."""

    flip: Tensor | None
    flip_vertical: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap(MapTensors):
    """Score maps of B images of one grid, on one device.

    Floating tensors are log-probabilities (NaN = not stored). uint8 planes and rest, and an int8 profile, are codes:
    ``-code * step`` nats (255 = not stored) and ``offset / 8`` nats; so a store keeps them and so they travel.

    Attributes:
        classes: (B, K + M) integers, distinct in an image: the K plane classes by weight, then the M profile classes.
        planes: (B, K, H, W), the log-probability of each plane class at every cell.
        rest: (B, H, W), at each cell the mean log-probability of all classes without a plane.
        profile: (B, M + 1), offsets to `rest`: of the M profile classes, then of each remaining class; None is M = 0,
            and nothing but `rest` known of the classes without a plane.
        num_classes: C.
        footprint: the part of the image that the maps cover: one `Footprint` for all, by default the whole image, or
            (B, 4) xyxy, one each. It stays on the CPU, where boxes become weights without waiting for a device.
        holes: whether a plane may miss cells, as maps made from per-cell top-k files do.
        step: nats per code of `planes` and `rest`, 1/16 to 1; means nothing for floating ones.
        reading: how pooled scores become labels; None is as they are.

    Raises:
        InvalidValueError: shapes or dtypes disagree, or no such step; or, looked at on the CPU only, a class lies
            outside [0, C) or stands twice, a score is missing where no hole may be, or is infinite, or a footprint
            misses the image.
    """

    def __post_init__(self) -> None:
        check(self)

    def __repr__(self) -> str:
        _, count, height, width = self.planes.shape
        return (
            f"ScoreMap({len(self)} images, {count} planes + {self.classes.shape[1] - count} profile classes of "
            f"{self.num_classes}, grid {height}x{width}, {self.planes.dtype}, {self.planes.device})"
        )

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        planes: int = PLANES,
        profile: int = PROFILE,
        *,
        footprint: Footprint | Tensor = WHOLE,
    ) -> ScoreMap:
        """Keep the `planes` classes that matter most in each image as planes, and the next `profile` as offsets.

        What matters is a class's mean probability in the labels of 28 boxes: the whole map, and 3 x 3 windows of two
        thirds, a half and a third of each side.
        The offset of the remaining classes keeps their mass: the log of their mean factor over `rest`.

        Args:
            logits: (B, C, H, W) floating, any constant may be added at a cell. On any device; nothing waits for it.
            planes: K, at least 1.
            profile: M; K + M is cut to C where there are fewer classes.
            footprint: one for all or (B, 4), see `ScoreMap`.

        Raises:
            InvalidValueError: a wrong shape or number; on the CPU, logits that are not finite.

        One cell of three classes, of which one is kept; the others share what it leaves:

        >>> logits = torch.tensor([0.7, 0.2, 0.1]).log().reshape(1, 3, 1, 1)
        >>> maps = ScoreMap.from_logits(logits, planes=1, profile=0)
        >>> maps
        ScoreMap(1 images, 1 planes + 0 profile classes of 3, grid 1x1, torch.float32, cpu)
        >>> maps.pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        tensor([[0.7000, 0.1500, 0.1500]])
        """
        if not isinstance(logits, Tensor) or logits.ndim != 4 or not logits.is_floating_point():
            what = f"{tuple(logits.shape)} of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InvalidValueError(f"logits must be a floating tensor (B, C, H, W); got {what}")
        num_classes = logits.shape[1]
        if planes < 1 or profile < 0:
            raise InvalidValueError(f"planes must be at least 1 and profile at least 0; got {planes} and {profile}")
        scores = (logits if logits.dtype == torch.float64 else logits.float()).detach()
        # A teacher's autocast would choose classes by scores of 8 bits.
        with torch.autocast(logits.device.type, enabled=False):
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

        Returns:
            Maps with as many planes as the image with most classes needs, by id; where an image has fewer, planes
            that no cell lists.

        Raises:
            InvalidValueError: wrong shapes; on the CPU, a class outside [0, C) or listed twice at a cell.
        """
        if classes.shape != logits.shape or logits.ndim != 4 or not logits.is_floating_point():
            raise InvalidValueError(
                "classes and floating logits must both be (B, k, H, W); "
                f"got {tuple(classes.shape)} of {classes.dtype} and {tuple(logits.shape)} of {logits.dtype}"
            )
        if classes.device.type == "cpu" and classes.numel():
            check_classes(classes.movedim(1, 3).flatten(0, 2), num_classes)
        ids, planes = cell_planes(classes, logits, num_classes)
        fill = torch.zeros_like(logits[:, 0]) if rest is None else rest.to(logits.dtype)
        return cls(ids, planes, fill, num_classes=num_classes, holes=True)

    def coded(self, step: float | None = None) -> ScoreMap:
        """The same maps as codes (uint8 and int8), clamped to [-254 * step, 0] and [-16, 15.875] nats.

        Args:
            step: nats per code of a score, 1/16 to 1; None is the maps' own, 1/4 unless they came with another.
                Maps that are codes of another step already are coded anew.

        Raises:
            InvalidValueError: no such step; on the CPU, scores above 0, as raw logits have: they are not
                log-probabilities.
        """
        step = self.step if step is None else step
        if is_code(self.planes):
            return self if step == self.step else self.decoded().coded(step)
        check_codable(self.planes, step)
        planes, rest = encode_scores(self.planes, step), encode_scores(self.rest, step)
        profile = None if self.profile is None else encode_offsets(self.profile)
        return replace(self, planes=planes, rest=rest, profile=profile, step=step)

    def decoded(self) -> ScoreMap:
        """The same maps as float32 log-probabilities and offsets, NaN where not stored."""
        return decode_maps(self)

    def to_dense(self) -> Tensor:
        """(B, C, H, W): every class's score at every cell, for comparison; large."""
        maps = whole_maps(self)
        planes, rest = (tensor.to(self.label_dtype) * maps.unit for tensor in (maps.planes, maps.rest.unsqueeze(1)))
        tail = rest + maps.offsets[:, :, None, None]
        dense = tail[:, -1:].expand(-1, self.num_classes, -1, -1).clone()
        stored = torch.cat([planes, tail[:, :-1]], dim=1)
        return dense.scatter_(1, self.classes.long()[:, :, None, None].expand_as(stored), stored)

    @overload
    def pool(
        self, boxes_xyxy: Tensor | Views, size: Size | None = ..., *, sparse: Literal[False] = ..., **how: Unpack[Crop]
    ) -> Tensor: ...

    @overload
    def pool(
        self, boxes_xyxy: Tensor | Views, size: Size | None = ..., *, sparse: Literal[True], **how: Unpack[Crop]
    ) -> SparseLabels: ...

    def pool(  # noqa: PLR0913 - its keywords are the public way to ask for a label
        self,
        boxes_xyxy: Tensor | Views,
        size: Size | None = None,
        *,
        flip: Tensor | None = None,
        flip_vertical: Tensor | None = None,
        sparse: bool = False,
        space: Space = "logit",
        temperature: float = 1.0,
        fill: Fill = "rest",
        uncovered: Uncovered | None = None,
    ) -> Tensor | SparseLabels:
        """The soft label of one crop of each image: RoIAlign over the map, then softmax.

        Args:
            boxes_xyxy: (B, 4) floating, fractions of the whole image; on the CPU, or a device is waited for. Or B
                `Views`, which may be affine and say themselves what was mirrored.
            size: None for image labels, (h, w) for the labels of h x w tokens, n for (n, n).
            flip: (B,) bool, whether the crop was mirrored left to right afterwards, as the columns of token labels are.
            flip_vertical: (B,) bool, the same top to bottom, as their rows.
            sparse: return `SparseLabels`, without the dense target.
            space: "logit" pools log-probabilities, "probability" pools probabilities.
            temperature: T above 0; the label becomes its power 1 / T, renormalised: flatter above 1, sharper below.
            fill: what a class is worth where a map with holes does not store it: "rest", or "zero", the published
                codes' logit 0, their boxes of at least one cell and no reading, which is fitted to "rest".
            uncovered: what to do with a bin wholly outside the footprint: "raise", or take the "nearest" cells. None is
                "nearest" for `Views` where maps cover their images, so that such a bin shows padding; else "raise".

        Returns:
            (B, C) or (B, C, h, w) float32 (float64 for a float64 map), summing to 1 over the classes.

        Raises:
            InvalidValueError: an empty box, a wrong shape or option.
            LabelError: a bin outside the footprint, with `uncovered` "raise"; tokens of a view that is not exact.

        Two cells, left and right, that are sure of different classes; the crop is the left half of the image:

        >>> logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]]).reshape(1, 2, 1, 2)
        >>> maps = ScoreMap.from_logits(logits)
        >>> maps.pool(torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
        tensor([[0.9933, 0.0067]])
        """
        if fill not in ("rest", "zero") or (fill == "zero" and (not self.holes or is_code(self.planes))):
            raise InvalidValueError(
                "fill must be 'rest', or 'zero' for maps with holes and raw logits (ScoreMap.from_cell_topk); "
                f"got {fill!r} for {self!r}"
            )
        crops = Crops(boxes_xyxy, flip, flip_vertical)
        weights = crop_weights(self, crops, size, uncovered, one_cell=fill == "zero")
        read = None if fill == "zero" else read_weights(self, crops, size)
        stored, other = soft_labels(whole_maps(self, fill), weights, space=space, temperature=temperature, read=read)
        covered = weights.covered
        if size is None:
            stored, other, covered = stored.flatten(1), other.flatten(), covered.flatten()
        labels = SparseLabels(self.classes, stored, other, covered, self.num_classes)
        return labels if sparse else labels.dense()

    def covered(self, boxes_xyxy: Tensor | Views, size: Size | None = None) -> Tensor:
        """(B,) or (B, h, w): the fraction of each crop, or of each of its bins, that the map covers."""
        covered = crop_weights(self, Crops(boxes_xyxy), size, "nearest").covered
        return covered[:, 0, 0] if size is None else covered

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ScoreMap:
        """The same maps on another device; the footprint stays where it is."""
        if torch.device(device) == self.planes.device:
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking), self.footprint)

    def pin_memory(self) -> ScoreMap:
        """The same maps in page-locked memory, for copies to a GPU that do not block."""
        return self._each(lambda tensor: tensor.pin_memory(), self.footprint)

    def turned(self, orientations: Tensor) -> ScoreMap:
        """Maps of decoded images as those of the images turned upright, by their EXIF orientations (B,), 1 to 8.

        Exactly: cells and footprints are mirrored and transposed. Boxes and tokens are then those of upright images.

        Raises:
            LabelError: a quarter turn of maps whose grid is no square.
        """
        return turned_maps(self, orientations)

    def __getitem__(self, index: slice | Tensor) -> ScoreMap:
        """The maps of some of the images, in the order of `index`: a slice, ids (n,) or a mask (B,)."""
        if isinstance(index, int):
            raise InvalidValueError(f"a ScoreMap is of a batch: for image {index} give [{index}:{index + 1}]")
        footprint = self.footprint
        if isinstance(footprint, Tensor):
            footprint = footprint[index.to(footprint.device) if isinstance(index, Tensor) else index]
        return self._each(lambda tensor: tensor[index], footprint)

    def _each(self, change: Callable[[Tensor], Tensor], footprint: Footprint | Tensor) -> ScoreMap:
        return replace(
            self,
            classes=change(self.classes),
            planes=change(self.planes),
            rest=change(self.rest),
            profile=None if self.profile is None else change(self.profile),
            footprint=footprint,
        )
