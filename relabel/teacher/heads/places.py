"""Where in a classifier a feature map is put out, and what comes of changing it there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from relabel.geometry import Grid
from relabel.teacher.heads.dense import FeatureLayout, grid_of_tokens

_MOST_PREFIX = 16
"""Class and register tokens before the locations' tokens."""

_NEAR = 1.5
"""A cell's height and width in pixels differ by less than this factor: grids are rounded."""


def layout_of(features: Tensor, images: Tensor) -> FeatureLayout | None:
    """How a submodule's output is laid out, if it is a feature map or a sequence of tokens of more than one cell.

    Maps are told by the images' (B, 3, h, w) aspect ratio; tokens by square cells that tile the image, after as few
    prefix tokens as that allows, at most half as many as cells.
    """
    if not features.is_floating_point() or features.ndim not in (3, 4) or len(features) != len(images):
        return None
    if features.ndim == 3:
        for prefix in range(min(_MOST_PREFIX, features.shape[1] // 3) + 1):
            grid = grid_of_tokens(features.shape[1] - prefix, images)
            if grid is not None and grid != Grid(1, 1):
                return FeatureLayout("NLC", grid, prefix)
        return None
    height, width = images.shape[2:]
    maps = [FeatureLayout("NCHW", Grid(*features.shape[2:])), FeatureLayout("NHWC", Grid(*features.shape[1:3]))]
    distorted = [max(d, 1 / d) for m in maps for d in [height * m.grid.width / (width * m.grid.height)]]
    # The first of equals: a cube of features is taken as NCHW.
    best = distorted.index(min(distorted))
    is_map = distorted[best] < _NEAR and max(maps[best].grid.size_hw) > 1
    return maps[best] if is_map else None


def places_of(model: nn.Module, images: Tensor) -> dict[str, FeatureLayout]:
    """The submodules that put out a feature map, by name, in the order in which they do; each is run once."""
    calls: dict[str, int] = {}
    found: dict[str, FeatureLayout] = {}
    last: list[tuple[str, object]] = [("", None)]

    def look(name: str, output: Any) -> None:
        features = _first(output)
        calls[name] = calls.get(name, 0) + 1
        layout = layout_of(features, images) if isinstance(features, Tensor) else None
        if layout is None:
            return
        # An outer module that hands on what its last submodule put out: once is enough.
        if last[0][1] is output:
            found.pop(last[0][0], None)
        found[name] = layout
        last[0] = name, output

    with torch.inference_mode(), ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
                hooks.enter_context(hook)
        model(images)
    return {name: layout for name, layout in found.items() if calls[name] == 1}


def _first(output: Any) -> Any:
    """The tensor that a submodule puts out: itself, or the first of several."""
    if isinstance(output, dict):
        return next(iter(output.values()), None)
    return output[0] if isinstance(output, (tuple, list)) and output else output


def with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a submodule puts out with its tensor, or the first of several, changed."""
    if isinstance(output, Tensor):
        return change(output)
    first = change(_first(output))
    if isinstance(output, dict):
        # As transformers' named outputs take their values.
        return type(output)(**{**output, next(iter(output)): first})
    return type(output)([first, *output[1:]])
