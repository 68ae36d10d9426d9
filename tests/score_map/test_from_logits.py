"""Which classes a map keeps of a teacher's logits, and what it says of the others."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError
from relabel.score_map import ScoreMap

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def random_logits(shape, seed=0, scale=3.0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


@given(
    st.integers(1, 14), st.integers(1, 16), st.integers(0, 16), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)
)
@example(classes=7, planes=3, profile=4, height=3, width=2, seed=0)  # K + M = C
@example(classes=7, planes=7, profile=0, height=3, width=2, seed=0)  # K = C
@example(classes=3, planes=16, profile=64, height=3, width=2, seed=0)  # C < K
@example(classes=9, planes=2, profile=0, height=1, width=1, seed=0)  # M = 0, one cell
@settings(max_examples=40, deadline=None)
def test_classes_planes_rest_and_profile_are_the_oracles(classes, planes, profile, height, width, seed):
    logits = random_logits((2, classes, height, width), seed)
    maps = ScoreMap.from_logits(logits, planes, profile)
    for image in range(2):
        expected = oracle.score_map(logits[image].numpy(), planes, profile)
        np.testing.assert_array_equal(maps.classes[image], expected.classes)
        np.testing.assert_allclose(maps.planes[image], expected.planes, atol=1e-10)
        np.testing.assert_allclose(maps.rest[image], expected.rest, atol=1e-10)
        np.testing.assert_allclose(maps.profile[image], expected.profile, atol=1e-10)
        np.testing.assert_allclose(maps.to_dense()[image], oracle.expand(expected), atol=1e-10)


def test_a_class_that_wins_in_one_corner_is_kept_before_one_that_is_second_everywhere():
    logits = torch.zeros(1, 20, 6, 6)
    logits[0, 3] = 8.0
    logits[0, 7, 4:, 4:] = 14.0
    logits[0, 11] = 3.0
    assert ScoreMap.from_logits(logits, 2, 1).classes.tolist() == [[3, 7, 11]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_any_precision_become_float32_maps(dtype):
    logits = random_logits((2, 50, 3, 3), dtype=torch.float32).to(dtype)
    maps = ScoreMap.from_logits(logits, 4, 8)
    assert {maps.planes.dtype, maps.rest.dtype, maps.profile.dtype} == {torch.float32}
    exact = ScoreMap.from_logits(logits.double(), 4, 8)
    torch.testing.assert_close(maps.classes, exact.classes)
    torch.testing.assert_close(maps.rest.double(), exact.rest, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scale", "shift", "error"), [(3.0, 0.0, 1e-5), (3.0, 1e4, 2e-2), (1e4, 0.0, 2e-2)])
@pytest.mark.parametrize("planes", [16, 999])
def test_float32_rounds_extreme_logits_no_more_than_their_size_explains(planes, scale, shift, error):
    logits = random_logits((2, 1000, 2, 2), scale=scale, dtype=torch.float32) + shift
    maps, exact = ScoreMap.from_logits(logits, planes, 1), logits.double().log_softmax(1)
    kept = torch.zeros(2, 1000, dtype=torch.bool).scatter_(1, maps.classes[:, :planes], True)[:, :, None, None]
    expected = exact.gather(1, maps.classes[:, :planes, None, None].expand(-1, -1, 2, 2))
    torch.testing.assert_close(maps.planes.double(), expected, atol=error, rtol=1e-6)
    rest = exact.masked_fill(kept, 0).sum(1) / (1000 - planes)
    torch.testing.assert_close(maps.rest.double(), rest, atol=error, rtol=1e-6)
    assert maps.coded().pool(WHOLE.expand(2, 4)).isfinite().all()


def test_more_classes_than_16_bits_hold():
    logits = random_logits((1, 70_000, 1, 2), dtype=torch.float32)
    logits[0, 69_999] += 30
    maps = ScoreMap.from_logits(logits)
    assert maps.classes[0, 0] == 69_999
    assert maps.coded().pool(WHOLE)[0].argmax() == 69_999


def test_a_map_of_no_images_is_one():
    maps = ScoreMap.from_logits(torch.zeros(0, 5, 2, 2), 2, 1)
    assert len(maps) == 0
    assert maps.coded().pool(torch.zeros(0, 4)).shape == (0, 5)


def test_a_map_keeps_no_graph_of_the_teacher():
    assert not ScoreMap.from_logits(torch.randn(1, 5, 2, 2, requires_grad=True)).planes.requires_grad


def test_autocast_does_not_choose_other_classes(device):
    logits = random_logits((4, 300, 7, 7), scale=0.1, dtype=torch.float32).to(device)
    expected = ScoreMap.from_logits(logits)
    with torch.autocast(device.type, torch.bfloat16):
        found = ScoreMap.from_logits(logits)
    torch.testing.assert_close(found.classes, expected.classes)
    torch.testing.assert_close(found.planes, expected.planes, atol=0, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("planes", [1, 5])
def test_logits_that_are_not_finite_are_refused(planes, value):
    logits = torch.zeros(2, 5, 2, 2)
    logits[1, 2, 0, 1] = value
    with pytest.raises(InvalidValueError, match="must be finite"):
        ScoreMap.from_logits(logits, planes, 1)


@pytest.mark.parametrize(
    ("logits", "arguments", "what"),
    [
        (torch.zeros(5, 2, 2), {}, r"\(B, C, H, W\); got \(5, 2, 2\)"),
        (torch.zeros(1, 5, 2, 2, dtype=torch.int64), {}, "int64"),
        (torch.zeros(1, 5, 2, 2), {"planes": 0}, "got 0 and 64"),
        (torch.zeros(1, 5, 2, 2), {"profile": -1}, "got 16 and -1"),
    ],
)
def test_what_is_no_teachers_answer_is_refused(logits, arguments, what):
    with pytest.raises(InvalidValueError, match=what):
        ScoreMap.from_logits(logits, **arguments)
