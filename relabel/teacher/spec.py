"""Which teacher is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relabel.errors import InvalidValueError
from relabel.manifest import Fit

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """A teacher by name, and how it runs.

    Attributes:
        name: a timm model, or ``package.module:function`` returning a module or callable that maps normalised images
            (B, 3, h, w) to logits (B, C, H, W).
        checkpoint: a safetensors file or torch state dict; None takes timm's pretrained weights.
        random_weights: a seed for random weights, for benchmarks; excludes `checkpoint`.
        image_size_hw: the input's (height, width) in pixels; None is the model's own.
        fit: how an image is fitted to that size.
        precision: of the forward pass.
        device: "auto" takes a GPU if there is one.
        compile: run the model through torch.compile.
        channels_last: run it in channels-last memory order.
    """

    name: str
    checkpoint: Path | None = None
    random_weights: int | None = None
    image_size_hw: tuple[int, int] | None = None
    fit: Fit = "squash"
    precision: Precision = "float32"
    device: str = "auto"
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.random_weights is not None:
            raise InvalidValueError("give a checkpoint or a seed for random weights, not both")
