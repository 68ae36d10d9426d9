"""The teacher run on every crop that a student sees: what no label of a store can beat, for a forward pass a crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipelines.recipe import Recipe
from pipelines.student_data import check_classes
from relabel.errors import InvalidValueError
from relabel.paths import expanded
from relabel.teacher import TeacherSpec, load_teacher


class OnlineTeacher:
    """Crops, uint8 (B, 3, s, s), to what the teacher of a recipe says of their pixels: probabilities (B, C), float32.

    Answers are the model's own, of the whole crop, resized to its input.

    Args:
        recipe: its teacher, and the precision of its forward pass.
        class_names: the C classes of the student.
        device: where it runs.

    Raises:
        TeacherError: it cannot be built, loaded or proved.
        InvalidValueError: it has other classes than the student, or the same in another order.
    """

    def __init__(self, recipe: Recipe, class_names: Sequence[str], device: torch.device) -> None:
        checkpoint, size = recipe.teacher_checkpoint, recipe.teacher_size
        spec = TeacherSpec(
            name=recipe.teacher or "",
            checkpoint=None if checkpoint is None else expanded(checkpoint),
            image_size_hw=None if size is None else (size, size),
            precision=recipe.precision,
            device=str(device),
            channels_last=True,
        )
        self._teacher = load_teacher(spec).of_whole_images()
        name = self._teacher.record.name
        if self._teacher.num_classes != len(class_names):
            raise InvalidValueError(
                f"{name} answers {self._teacher.num_classes} classes, and the folders are {len(class_names)} "
                f"({', '.join(class_names[:3])} ...): they must be the same classes in the same order"
            )
        check_classes(self._teacher.class_names, class_names, name)

    def __call__(self, crops: Tensor) -> Tensor:
        """On the device; nothing waits for it."""
        like = self._teacher.preprocessing
        crops = crops.to(self._teacher.device, non_blocking=True)
        seen = F.resize(crops, list(like.image_size_hw), InterpolationMode(like.interpolation), antialias=True)
        # Outside of the teacher's inference mode, so that a loss may keep it for its gradient.
        return self._teacher(seen)[..., 0, 0].softmax(1)
