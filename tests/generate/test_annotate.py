"""The device stage: what a store takes, and which images have no finite scores."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable
from typing import Any

import generating
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relabel.errors import TeacherError
from relabel.generate.annotate import Annotator
from relabel.manifest import ScoreRecord
from relabel.score_map import ScoreMap
from relabel.store import RowBatch
from relabel.teacher import Ensemble, Teacher

Forward = Callable[[Tensor], Tensor]


def record(classes: int = generating.CLASSES, **given: Any) -> ScoreRecord:
    sizes = {"num_classes": classes, "planes": 3, "profile": 4, "grid_hw": generating.GRID.size_hw} | given
    return ScoreRecord(**sizes)


def pixels(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *generating.IMAGE_SIZE_HW), dtype=torch.uint8, generator=generator)


def annotator(teacher: Teacher, scores: ScoreRecord | None = None) -> Annotator:
    return Annotator(Ensemble.of(teacher), scores or record())


def annotated(forward: Forward, scores: ScoreRecord, batch: Tensor | None = None, **given: Any) -> tuple[RowBatch, Any]:
    teacher = generating.make_teacher(forward, num_classes=scores.num_classes, **given)
    found = annotator(teacher, scores).annotate((pixels() if batch is None else batch,)).wait()
    return found.scores, found.finite


def same(one: RowBatch, other: RowBatch, rows: list[int]) -> bool:
    return all(np.array_equal(getattr(one, n)[rows], getattr(other, n)[rows]) for n in ("classes", "scores", "profile"))


@pytest.mark.parametrize("profile", [0, 4])
def test_codes_are_those_of_the_score_maps(device, profile):
    batch, finite = annotated(generating.answer, record(profile=profile), device=device)
    maps = ScoreMap.from_logits(generating.make_teacher()(pixels()), 3, profile).coded()
    assert batch.scores.dtype == np.uint8
    assert batch.classes.dtype == np.uint16
    # One step of a code, where the devices round differently.
    assert np.abs(batch.scores[:, :3].astype(int) - maps.planes.numpy().astype(int)).max() <= (device.type == "cuda")
    assert np.abs(batch.scores[:, 3].astype(int) - maps.rest.numpy().astype(int)).max() <= (device.type == "cuda")
    assert np.array_equal(batch.classes, maps.classes.numpy())
    assert batch.profile.shape == (5, profile + 1)
    assert finite.tolist() == [True] * 5


def test_scores_beyond_the_range_of_float16_stay_finite():
    batch, finite = annotated(lambda images: generating.answer(images) * 1e5, record(dtype="float16"))
    assert finite.all()
    assert np.isfinite(batch.scores).all()
    assert batch.scores.min() == np.finfo(np.float16).min


@settings(max_examples=30, deadline=None)
@given(
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    image=st.integers(0, 4),
    place=st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(0, 2)),
    planes=st.sampled_from([1, 3, 10]),
)
def test_a_logit_that_is_not_finite_fails_its_image_alone(value, image, place, planes):
    def forward(images: Tensor) -> Tensor:
        logits = generating.answer(images)
        logits[(image, *place)] = value
        return logits

    scores = record(planes=planes, profile=min(4, 10 - planes))
    batch, finite = annotated(forward, scores)
    others = [i for i in range(5) if i != image]
    assert finite.tolist() == [i != image for i in range(5)]
    assert same(batch, annotated(generating.answer, scores)[0], others)


def test_logits_whose_sum_is_infinite_are_not_finite_scores():
    def huge(images: Tensor) -> Tensor:
        return torch.where(torch.arange(len(images))[:, None, None, None] == 2, 3e38, generating.answer(images))

    assert annotated(huge, record())[1].tolist() == [True, True, False, True, True]


def test_nothing_looks_at_a_value_before_the_wait(monkeypatch):
    # A tensor on the meta device has no values, so whatever must look at one fails; nor does meta know autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    teacher = generating.make_teacher(device=torch.device("meta"))
    (part,) = annotator(teacher).annotate((pixels(),)).parts
    assert part.tensors["scores"].shape == (5, 4, *generating.GRID.size_hw)


# Memory


class SmallMemory:
    """A teacher on a device that holds `most` images; it remembers what it was given."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.sizes = most, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error
        return generating.answer(images)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(5, 5, [5]), (5, 4, [5, 3, 2]), (8, 2, [8, 4, 2, 2, 2, 2]), (7, 1, [7, 4, 2, *[1] * 7]), (1, 1, [1])],
)
def test_a_batch_that_does_not_fit_is_halved_and_its_rows_stay(count, most, sizes):
    teacher = SmallMemory(most)
    batch, finite = annotated(teacher, record(), pixels(count))
    assert teacher.sizes == sizes
    assert same(batch, annotated(generating.answer, record(), pixels(count))[0], list(range(count)))
    assert finite.tolist() == [True] * count


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_may_run_out_below_torch(error):
    assert annotated(SmallMemory(3, error), record())[1].tolist() == [True] * 5


def test_the_size_that_fits_is_remembered_and_told_once(caplog):
    teacher = SmallMemory(2)
    used = annotator(generating.make_teacher(teacher))
    for _ in range(3):
        used.annotate((pixels(),)).wait()
    assert teacher.sizes == [5, 3, 2, 1, 2, *[2, 2, 1] * 2]
    (warning,) = caplog.messages
    assert "a batch of 5 images does not fit into the memory of cpu; 2 at a time do" in warning
    assert "--batch-size 2" in warning


def test_memory_that_is_too_small_for_one_image_says_what_to_do():
    with pytest.raises(TeacherError, match=r"not even one image .* CUDA out of memory.* give a smaller --image-size"):
        annotated(SmallMemory(0), record())


def test_what_did_not_fit_is_let_go_of_before_its_halves_begin():
    alive: list[weakref.ref[Tensor]] = []
    left: list[int] = []

    def forward(images: Tensor) -> Tensor:
        left.append(sum(ref() is not None for ref in alive))
        large = generating.answer(images)
        alive.append(weakref.ref(large))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generating.answer(images)

    annotated(forward, record())
    assert left[:3] == [0, 0, 0]


def test_another_fault_of_the_teacher_is_no_want_of_memory():
    with pytest.raises(TeacherError, match="by hand fails: RuntimeError: mat1 and mat2"):
        annotated(SmallMemory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), record())


@pytest.mark.cuda
def test_a_gpu_without_memory_is_given_halves():
    device = torch.device("cuda")

    def hungry(images: Tensor) -> Tensor:
        # More than any GPU has, for more than two images.
        torch.empty(2**45 if len(images) > 2 else 1, dtype=torch.uint8, device=images.device)
        return generating.answer(images)

    batch, _ = annotated(hungry, record(), device=device)
    assert same(batch, annotated(generating.answer, record(), device=device)[0], [0, 1, 2, 3, 4])


@pytest.mark.cuda
def test_batches_in_flight_do_not_spoil_each_other_on_a_gpu():
    used = annotator(generating.make_teacher(generating.convolutions().cuda(), device=torch.device("cuda")))
    images = [pixels(n).pin_memory() for n in range(1, 30)]
    expected = [used.annotate((batch,)).wait().scores for batch in images]
    pending = [used.annotate((batch,)) for batch in images]
    for (batch, one), other in zip(zip(images, pending, strict=True), expected, strict=True):
        assert same(one.wait().scores, other, list(range(len(batch))))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_gpu_is_waited_for_once_a_batch(dtype):
    teacher = generating.make_teacher(device=torch.device("cuda"))
    used = annotator(teacher, record(dtype=dtype))
    batch = pixels().pin_memory()
    expected = used.annotate((batch,)).wait().scores
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = used.annotate((batch,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert same(pending.wait().scores, expected, [0, 1, 2, 3, 4])
