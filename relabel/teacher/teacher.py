"""`Teacher`: uint8 images in, dense logits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.manifest import Preprocessing, TeacherRecord
from relabel.teacher.blame import blaming
from relabel.teacher.devices import DTYPES
from relabel.teacher.heads.dense import DenseClassifier
from relabel.teacher.proof import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A proved teacher on its device.

    `forward` maps normalised images (B, 3, h, w) to logits (B, C, H, W); `grid` is (H, W) for the size in
    `preprocessing`; `record` is what a store's manifest says of it; `class_names` are C names, None where not known.
    """

    forward: Callable[[Tensor], Tensor]
    num_classes: int
    grid: Grid
    preprocessing: Preprocessing
    record: TeacherRecord
    proof: Proof
    device: torch.device
    channels_last: bool = False
    class_names: tuple[str, ...] | None = None
    _scale: Tensor = field(init=False, repr=False, compare=False)
    _shift: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once: a small copy to a GPU in every call would wait for the batch before to finish.
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.preprocessing.mean, self.preprocessing.std))
        for name, value in (("_scale", 1 / (255 * std)), ("_shift", -mean / std)):
            object.__setattr__(self, name, value.float()[:, None, None].to(self.device))

    def __call__(self, images: Tensor) -> Tensor:
        """Dense logits (B, C, H, W) float32 of images uint8 (B, 3, h, w), on the teacher's device.

        Raises:
            TeacherError: the images are of another shape or dtype, or the answer is; or it raises anything but a want
                of memory.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != (3, *self.preprocessing.image_size_hw):
            raise TeacherError(
                f"{self.record.name} takes uint8 images (B, 3, {self.preprocessing.image_size_hw[0]}, "
                f"{self.preprocessing.image_size_hw[1]}); got {tuple(images.shape)} of {images.dtype}"
            )
        dtype = DTYPES[self.record.precision]
        with torch.inference_mode():
            pixels = self.normalised(images.to(self.device, non_blocking=True))
            if self.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            with (
                blaming(f"{self.record.name} fails", "Mend it, or take another teacher", spares_memory=True),
                torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32),
            ):
                return self._checked(self.forward(pixels), len(images)).float()

    def of_whole_images(self) -> Teacher:
        """The same with one answer an image, logits (B, C, 1, 1), as for a crop's pixels.

        By the model's own head where there is one to be had, else the mean over the map.
        """
        forward = self.forward
        if isinstance(forward, DenseClassifier):
            own: Callable[[Tensor], Tensor] = forward.model
            return replace(self, forward=lambda images: own(images)[..., None, None], grid=Grid(1, 1))
        return replace(self, forward=lambda images: forward(images).mean((2, 3), keepdim=True), grid=Grid(1, 1))

    def _checked(self, logits: object, count: int) -> Tensor:
        """What was proved of one batch need not hold of another."""
        expected = (count, self.num_classes, *self.grid.size_hw)
        if not isinstance(logits, Tensor):
            raise TeacherError(f"{self.record.name} answers a {type(logits).__name__}; expected logits {expected}")
        if logits.shape != expected or not logits.is_floating_point():
            raise TeacherError(
                f"{self.record.name} answers {tuple(logits.shape)} of {logits.dtype} for {count} images, and answered "
                f"otherwise when it was proved; expected floating point logits {expected}"
            )
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) to float32 (B, 3, h, w), the teacher's mean and deviation taken off."""
        return torch.addcmul(self._shift, images.float(), self._scale)
