"""Codes: a byte a score in steps of some nats, 255 for what is not stored, and what rounding costs a label."""

from __future__ import annotations

import math
import pickle

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError
from relabel.score_map import NOT_STORED, ScoreMap
from relabel.score_map.coding import decode_offsets, decode_scores, encode_offsets, encode_scores

STEPS = [1 / 16, 1 / 8, 0.3, 1 / 2, 1]


@pytest.mark.parametrize("step", STEPS)
def test_every_code_stands_for_a_score_that_has_this_code(step):
    codes = torch.arange(NOT_STORED, dtype=torch.uint8)
    scores = decode_scores(codes, step, holes=True)
    np.testing.assert_allclose(scores.numpy(), [-code * step for code in range(255)], rtol=1e-6)
    assert encode_scores(scores, step).tolist() == codes.tolist()


def test_every_offset_code_stands_for_an_offset_that_has_this_code():
    codes = torch.arange(-128, 128).to(torch.int8)
    offsets = decode_offsets(codes, torch.float32)
    assert offsets.tolist() == [code / 8 for code in range(-128, 128)]
    assert encode_offsets(offsets).tolist() == codes.tolist()


@given(st.floats(0, 254, width=32), st.sampled_from(STEPS))
@settings(max_examples=60, deadline=None)
def test_a_score_moves_by_half_a_step_at_most(steps, step):
    score = torch.tensor([-steps * step])
    code = encode_scores(score, step)
    assert abs(decode_scores(code, step, holes=False).item() - score.item()) <= step / 2 * (1 + 1e-4)


def test_offsets_keep_their_eighths_whatever_the_step():
    maps = ScoreMap.from_logits(torch.randn(2, 30, 3, 4) * 4, 4, 6)
    assert maps.coded(1.0).profile.tolist() == maps.coded(1 / 8).profile.tolist()
    torch.testing.assert_close(maps.coded(1.0).decoded().profile, maps.profile, atol=1 / 16, rtol=0)


@pytest.mark.parametrize("score", [-63.51, -64.0, -1e4, -3e38, -math.inf])
def test_no_real_score_has_the_code_of_what_is_not_stored(score):
    assert encode_scores(torch.tensor([score])).item() == NOT_STORED - 1


def test_scores_and_offsets_are_clamped_to_what_codes_hold():
    assert encode_scores(torch.tensor([1e-6, 0.0, -math.nan])).tolist() == [0, 0, NOT_STORED]
    assert encode_offsets(torch.tensor([-1e9, -16.0, 15.9, 1e9])).tolist() == [-128, -128, 127, 127]


def test_without_holes_255_is_a_code_like_any_other():
    assert decode_scores(torch.tensor([NOT_STORED], dtype=torch.uint8), holes=False).item() == -NOT_STORED / 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_precision_are_coded(dtype):
    assert encode_scores(torch.tensor([-1.0, -63.5], dtype=dtype)).tolist() == [4, 254]


def test_coding_twice_is_coding_once():
    maps = ScoreMap.from_logits(torch.randn(3, 20, 4, 5) * 4, 5, 6)
    once = maps.coded()
    assert (once.planes.dtype, once.rest.dtype, once.profile.dtype) == (torch.uint8, torch.uint8, torch.int8)
    assert once.coded() is once
    assert maps.decoded() is maps
    again = once.decoded().coded()
    for name in ("classes", "planes", "rest", "profile"):
        torch.testing.assert_close(getattr(again, name), getattr(once, name), atol=0, rtol=0)


def test_maps_carry_their_step_wherever_they_go():
    maps = ScoreMap.from_logits(torch.randn(3, 20, 4, 5) * 4, 5, 6).coded(1 / 2)
    assert {m.step for m in (maps, maps[1:], maps.to("cpu"), pickle.loads(pickle.dumps(maps)), maps.decoded())} == {0.5}
    again = maps.decoded().coded()
    assert again.step == 1 / 2
    assert torch.equal(again.planes, maps.planes)


def test_codes_of_one_step_become_those_of_another():
    maps = ScoreMap.from_logits(torch.randn(3, 20, 4, 5) * 4, 5, 6)
    fine = maps.coded(1 / 8)
    assert torch.equal(fine.coded(1 / 2).planes, fine.decoded().coded(1 / 2).planes)
    # Every score of the coarser is one of the finer.
    assert torch.equal(maps.coded(1 / 2).coded(1 / 8).decoded().planes, maps.coded(1 / 2).decoded().planes)


@pytest.mark.parametrize("space", ["logit", "probability"])
@pytest.mark.parametrize("size", [None, (3, 2)])
@pytest.mark.parametrize("step", [1 / 8, 1 / 4, 1])
def test_codes_pool_to_the_labels_of_their_scores(space, size, step):
    maps = ScoreMap.from_logits(torch.randn(4, 30, 5, 6) * 4, 5, 6).coded(step)
    boxes = torch.tensor(oracle.random_boxes(4, 1, 0.2), dtype=torch.float32)
    plain = maps.decoded().pool(boxes, size, space=space)
    torch.testing.assert_close(maps.pool(boxes, size, space=space), plain, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("step", [0, -1 / 8, 1 / 32, 2, math.nan, math.inf, "1/4"])
def test_what_is_no_step_is_refused(step):
    maps = ScoreMap.from_logits(torch.zeros(1, 3, 2, 2), 2, 1)
    with pytest.raises(InvalidValueError, match=r"lies in \[0.0625, 1\] nats; got"):
        maps.coded(step)
    with pytest.raises(InvalidValueError, match=r"lies in \[0.0625, 1\] nats; got"):
        ScoreMap(maps.classes, maps.planes, maps.rest, maps.profile, num_classes=3, step=step)


def test_raw_logits_have_no_codes():
    raw = ScoreMap(torch.tensor([[0]]), torch.full((1, 1, 2, 2), 7.5), torch.zeros(1, 2, 2), num_classes=3)
    with pytest.raises(InvalidValueError, match=r"at most 0; got a score of 7\.5.*logsumexp"):
        raw.coded()


@pytest.mark.parametrize("step", [1 / 8, 1 / 4])
def test_coding_costs_a_label_less_than_a_thousandth_of_a_nat(step):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(24, 200, 3, 3, generator=generator) * 4
    logits = torch.nn.functional.interpolate(coarse, (9, 9), mode="bilinear").double()
    maps = ScoreMap.from_logits(logits, 16, 64)
    boxes = torch.tensor(oracle.random_boxes(24, 0, 0.3))
    plain, coded = maps.pool(boxes).numpy(), maps.coded(step).pool(boxes).double().numpy()
    lost = [oracle.kl_divergence(*pair) for pair in zip(plain, coded, strict=True)]
    assert 0 < np.mean(lost) <= 1e-3
