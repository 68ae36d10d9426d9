"""The tensors of score maps, before anything is said of what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from relabel.geometry import WHOLE, Footprint, Grid
from relabel.manifest import STEP
from relabel.reading import Reading

_HAIR = 1e-6
"""Of a side: how far float32 may have rounded the edge of a letterbox."""


@dataclass(frozen=True, slots=True, eq=False)
class MapTensors:
    """What a `ScoreMap` holds; see there."""

    classes: Tensor
    planes: Tensor
    rest: Tensor
    profile: Tensor | None = None
    num_classes: int = field(kw_only=True)
    footprint: Footprint | Tensor = field(default=WHOLE, kw_only=True)
    holes: bool = field(default=False, kw_only=True)
    step: float = field(default=STEP, kw_only=True)
    reading: Reading | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return self.planes.shape[0]

    @property
    def grid(self) -> Grid:
        """The size of the maps in cells."""
        return Grid(self.planes.shape[2], self.planes.shape[3])

    @property
    def label_dtype(self) -> torch.dtype:
        """What labels of these maps are computed in: float64 for planes that are, else float32."""
        return torch.float64 if self.planes.dtype == torch.float64 else torch.float32

    def footprints_xyxy(self) -> Tensor:
        """(B, 4): the part of the image that each map covers, on the CPU unless they lie elsewhere."""
        if isinstance(self.footprint, Footprint):
            return torch.tensor([self.footprint.xyxy]).expand(len(self), 4)
        return self.footprint

    def cover_images(self) -> bool:
        """Whether each map covers all of its image, so that what lies beside the map is padding."""
        if isinstance(self.footprint, Footprint) and self.footprint.is_whole:
            return True
        footprints = self.footprints_xyxy()
        return bool((footprints[:, :2] <= _HAIR).all() and (footprints[:, 2:] >= 1 - _HAIR).all())

    def reach_beyond_images(self) -> bool:
        """Whether some map covers padding beside its image, as a letterbox does."""
        if isinstance(self.footprint, Footprint):
            x0, y0, x1, y1 = self.footprint.xyxy
            return min(x0, y0) < -_HAIR or max(x1, y1) > 1 + _HAIR
        return bool((self.footprint < -_HAIR).any() or (self.footprint > 1 + _HAIR).any())
