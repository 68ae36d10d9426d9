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

Layout = Literal["NCHW", "NHWC", "NLC"]

_CLASS_ATTENTION = frozenset({"Cait", "Xcit", "VOLO"})
"""timm classes whose last blocks attend from the class token: their locations' vectors never saw those blocks."""


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
    """A timm classifier that answers at every location: images (B, 3, h, w) to logits (B, C, H, W)."""

    def __init__(self, model: Any, layout: FeatureLayout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Dense logits of normalised images."""
        return self.head(self.model.forward_features(images))

    def head(self, features: Tensor) -> Tensor:
        """Dense logits of a backbone's features."""
        cells = self.layout.cells(features)
        logits: Tensor = self.model.forward_head(self.layout.alone(cells))
        return logits.reshape(*cells.shape[:3], -1).permute(0, 3, 1, 2)


def find_layout(model: Any, name: str, images: Tensor) -> FeatureLayout:
    """Learn a timm model's feature layout from one forward pass of (B, 3, h, w) images.

    Raises:
        TeacherError: the features are of no known layout.
    """
    if type(model).__name__ in _CLASS_ATTENTION:
        raise TeacherError(refusal(name, "only its class token passes through its last blocks, no location does"))
    with torch.inference_mode():
        features = model.forward_features(images)
        grid = _grid(model, images)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        kind = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise TeacherError(refusal(name, f"its features are {kind}, not one map or one sequence of tokens"))
    if features.ndim == 4:
        nhwc = getattr(model, "output_fmt", None) == "NHWC" or (
            features.shape[1] != model.num_features and features.shape[3] == model.num_features
        )
        height, width = features.shape[1:3] if nhwc else features.shape[2:]
        return FeatureLayout("NHWC" if nhwc else "NCHW", Grid(height, width))
    prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    if grid is None or features.shape[1] != prefix + grid.height * grid.width:
        raise TeacherError(
            refusal(name, f"its {features.shape[1]} tokens are not {prefix} prefix tokens and a grid of {grid}")
        )
    return FeatureLayout("NLC", grid, prefix)


def _grid(model: Any, images: Tensor) -> Grid | None:
    """The size of the last intermediate map, where the model can tell; timm gives these maps as NCHW."""
    if not hasattr(model, "forward_intermediates"):
        return None
    maps = model.forward_intermediates(images, indices=1, intermediates_only=True)
    return Grid(*maps[-1].shape[2:])


def refusal(name: str, why: str) -> str:
    """The words by which a model is refused as a teacher."""
    return f"{name} cannot be used as a teacher: {why}. {WAY_OUT}"
