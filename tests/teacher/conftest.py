"""Small teachers with random weights, each built and proved once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relabel.teacher import Teacher, TeacherSpec, load_teacher


@functools.cache
def _loaded(name: str, size_hw: tuple[int, int] | None = None) -> Teacher:
    return load_teacher(TeacherSpec(name=name, random_weights=0, image_size_hw=size_hw, device="cpu"))


@pytest.fixture
def taught() -> Callable[..., Teacher]:
    """A timm model's name, and maybe a (height, width), to its teacher on the CPU."""
    return _loaded


@pytest.fixture
def photos() -> Callable[..., Tensor]:
    """Random pixels uint8 (count, 3, h, w) of a teacher's size."""

    def made(teacher: Teacher, count: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        size = (count, 3, *teacher.preprocessing.image_size_hw)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)

    return made
