"""Dense logits by the one-cell method: every location goes alone through the model's own, unmodified head.

Given features that hold nothing but one location's vector, whatever pools them (mean, max, norm after the pool, MLP,
class token, attention) answers what the model would say of an image that looked like this everywhere. For a head that
is linear after average pooling that equals the 1 x 1 convolution of ReLabel (arXiv 2101.05022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.geometry import Grid

WAY_OUT = (
    "Take a convolutional network, a plain vision transformer or another family, or give package.module:function "
    "returning a model that answers (B, C, H, W)"
)

TOLERANCE = 1e-4
"""Relative to the spread of the own logits over the classes, in float32."""

Layout = Literal["NCHW", "NHWC", "NLC"]


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How a backbone's features are laid out; `prefix` counts class and register tokens before the locations (NLC)."""

    layout: Layout
    grid: Grid
    prefix: int = 0

    def cells(self, features: Tensor) -> Tensor:
        """The locations' vectors (B, H, W, D)."""
        if self.layout == "NLC":
            batch, _, depth = features.shape
            return features[:, self.prefix :].reshape(batch, *self.grid.size_hw, depth)
        return features.permute(0, 2, 3, 1) if self.layout == "NCHW" else features

    def alone(self, cells: Tensor) -> Tensor:
        """Features (B * H * W, ...) of one location each, from vectors (B, H, W, D)."""
        return self._filled(cells.flatten(0, 2), Grid(1, 1))

    def everywhere(self, vectors: Tensor) -> Tensor:
        """Features of whole images that look like (B, D) everywhere, prefix tokens included."""
        return self._filled(vectors, self.grid)

    def _filled(self, vectors: Tensor, grid: Grid) -> Tensor:
        height, width = grid.size_hw
        if self.layout == "NLC":
            return vectors[:, None, :].expand(-1, self.prefix + height * width, -1)
        if self.layout == "NCHW":
            return vectors[:, :, None, None].expand(-1, -1, height, width)
        return vectors[:, None, None, :].expand(-1, height, width, -1)


class DenseClassifier(nn.Module):
    """A classifier in two halves that answers at every location: images (B, 3, h, w) to logits (B, C, H, W).

    `repeated` gives the head each location's vector at every place of the grid, one location after another, instead of
    alone: the same by definition for any head, at the cost of H * W heads.
    """

    def __init__(self, model: Any, layout: FeatureLayout, repeated: bool = False) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.repeated = repeated
        # Class attention asks how many locations stand beside the one.
        for_one = getattr(model, "for_one", lambda count: model)
        self._for_one = for_one(layout.grid.height * layout.grid.width)
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Dense logits of normalised images."""
        return self.head(self.model.forward_features(images))

    def head(self, features: Tensor) -> Tensor:
        """Dense logits of a backbone's features."""
        cells = self.layout.cells(features)
        if self.repeated:
            each = [self.model.forward_head(self.layout.everywhere(v)) for v in cells.flatten(1, 2).unbind(1)]
            return torch.stack(each, dim=2).reshape(len(cells), -1, *self.layout.grid.size_hw)
        logits: Tensor = self._for_one.forward_head(self.layout.alone(cells))
        return logits.reshape(*cells.shape[:3], -1).permute(0, 3, 1, 2)

    @property
    def body(self) -> nn.Module:
        """The module whose submodules run in the first half."""
        model: nn.Module = self.model
        return model


def find_layout(model: Any, name: str, images: Tensor) -> FeatureLayout:
    """Learn the layout of what a model's `forward_features` gives from one forward pass of (B, 3, h, w) images.

    Raises:
        TeacherError: the features are of no known layout.
    """
    with torch.inference_mode():
        features = model.forward_features(images)
        grid = _grid(model, images)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        kind = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise TeacherError(refusal(name, f"its features are {kind}, not one map or one sequence of tokens"))
    if features.ndim == 4:
        known, depth = getattr(model, "output_fmt", None), getattr(model, "num_features", None)
        nhwc = known == "NHWC" or (known != "NCHW" and features.shape[1] != depth and features.shape[3] == depth)
        height, width = features.shape[1:3] if nhwc else features.shape[2:]
        return FeatureLayout("NHWC" if nhwc else "NCHW", Grid(height, width))
    prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    if grid is None:
        grid = grid_of_tokens(features.shape[1] - prefix, images)
    if grid is None or features.shape[1] != prefix + grid.height * grid.width:
        raise TeacherError(
            refusal(name, f"its {features.shape[1]} tokens are not {prefix} prefix tokens and a grid of {grid}")
        )
    return FeatureLayout("NLC", grid, prefix)


def _grid(model: Any, images: Tensor) -> Grid | None:
    """What an adapter says; else the size of the last intermediate map, which timm gives as NCHW."""
    if getattr(model, "grid_hw", None) is not None:
        return Grid(*model.grid_hw)
    if not hasattr(model, "forward_intermediates"):
        return None
    maps = model.forward_intermediates(images, indices=1, intermediates_only=True)
    return Grid(*maps[-1].shape[2:])


def grid_of_tokens(count: int, images: Tensor) -> Grid | None:
    """The grid of `count` square cells that tile images (B, 3, h, w); None where there is none."""
    height, width = images.shape[2:]
    rows = round((count * height / width) ** 0.5)
    columns = count // max(rows, 1)
    is_tiled = rows > 0 and rows * columns == count and height % rows == 0 and height * columns == width * rows
    return Grid(rows, columns) if is_tiled else None


def refusal(name: str, why: str) -> str:
    """The words by which a model is refused as a teacher."""
    return f"{name} cannot be used as a teacher: {why}. {WAY_OUT}"
