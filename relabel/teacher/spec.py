"""Which teacher is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from relabel.errors import InvalidValueError
from relabel.manifest import Decode, Fit, Interpolation

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """A teacher by name, and how it runs.

    Attributes:
        name: a timm model, with or without the tag of its weights (``resnet18.a1_in1k``); a model of the Hugging Face
            hub in timm's format (``hf-hub:owner/name``); ``torchvision:NAME`` or ``torchvision:NAME.WEIGHTS``;
            ``transformers:NAME_OR_FOLDER``; or ``package.module:function`` returning a classifier, or a module or
            callable that maps normalised images (B, 3, h, w) to logits (B, C, H, W). What that function returns may say
            ``image_size_hw``, ``mean``, ``std`` and ``interpolation``, as `Preprocessing` has them; without, it is
            given bilinear images of 224 x 224 pixels in [0, 1]. For all but timm's, ``@SUBMODULE`` at the end names the
            submodule whose output is the map of features, where it should not be found by itself.
        checkpoint: a safetensors file or torch state dict; None takes the model's own pretrained weights.
        random_weights: a seed for random weights, for benchmarks; excludes `checkpoint`.
        image_size_hw: the input's (height, width) in pixels; None is the model's own.
        fit: how an image is fitted to that size.
        crop: with fit "center", the crop's side as a fraction of the largest centred crop's, in (0, 1]; None is 1.
            It is what timm calls crop_pct: at its own value a teacher sees things as large as in its own evaluation.
        mean, std: per channel, of pixels scaled to [0, 1]; None is the model's own.
        interpolation: of the resize; None is the model's own.
        decode: where JPEGs are decoded, "cpu" or "cuda"; a GPU's decoder rounds otherwise.
        classes: keep some of the teacher's classes, see `relabel.teacher.classes`; None keeps all.
        precision: of the forward pass; the proof runs in float32. "auto" is bfloat16 on a GPU that computes in it, and
            float32 elsewhere. On a GPU, "float32" convolves in TF32 unless torch's settings forbid it.
        device: "auto" takes a GPU if there is one, each local process of torchrun or srun its own.
        compile: run the model through torch.compile.
        channels_last: run it in channels-last memory order.
    """

    name: str
    checkpoint: Path | None = None
    random_weights: int | None = None
    image_size_hw: tuple[int, int] | None = None
    fit: Fit = "squash"
    crop: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation | None = None
    decode: Decode = "cpu"
    classes: str | None = None
    precision: Precision = "auto"
    device: str = "auto"
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.random_weights is not None:
            raise InvalidValueError("give a checkpoint or a seed for random weights, not both")
        if self.random_weights is not None and not 0 <= self.random_weights < 2**63:
            raise InvalidValueError(f"the seed of random weights lies in [0, 2**63); got {self.random_weights}")
        if self.image_size_hw is not None and (len(self.image_size_hw) != 2 or min(self.image_size_hw) < 1):
            raise InvalidValueError(f"image_size_hw must be (height, width), both positive; got {self.image_size_hw}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and len(value) != 3:
                raise InvalidValueError(f"{name} needs three numbers, of red, green and blue; got {value}")
        if self.precision not in get_args(Precision):
            raise InvalidValueError(f"precision is one of {', '.join(get_args(Precision))}; got {self.precision!r}")
