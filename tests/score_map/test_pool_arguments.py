"""What a pool is asked for in other words than (B, 4) fractions and (h, w): understood if plain, else refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from relabel.errors import InvalidValueError
from relabel.score_map import ScoreMap

MAPS = ScoreMap.from_logits(torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)), 2, 3)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)


def test_one_number_is_a_square_of_tokens() -> None:
    assert torch.equal(MAPS.pool(WHOLE, 3), MAPS.pool(WHOLE, (3, 3)))
    assert MAPS.covered(WHOLE, 2).shape == (2, 2, 2)


@pytest.mark.parametrize("size", [0, -1, (3,), (2, 3, 4), (2.0, 2.0), (0, 1), "14"])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    for ask in (MAPS.pool, MAPS.covered):
        with pytest.raises(InvalidValueError, match=r"size must be None .* at least 1; got"):
            ask(WHOLE, size)


def test_one_image_of_a_map_is_asked_for_by_a_slice() -> None:
    with pytest.raises(InvalidValueError, match=r"give \[1:2\]"):
        MAPS[1]  # type: ignore[index]


def test_logits_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"floating tensor .* got ndarray"):
        ScoreMap.from_logits(torch.zeros(1, 3, 2, 2).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [(0.0, 0.0, 224.0, 224.0), (30.0, 10.0, 90.0, 80.0), (0.0, 0.0, 8.5, 9.0)])
def test_boxes_in_pixels_are_refused_whatever_is_done_with_uncovered_ones(box: tuple[float, ...]) -> None:
    boxes = torch.stack([WHOLE[0], torch.tensor(box)])
    with pytest.raises(InvalidValueError, match=r"box 1, .* looks like pixels"):
        MAPS.pool(boxes, uncovered="nearest")


@pytest.mark.parametrize(
    "box",
    [
        (-9.0, -9.0, 10.0, 10.0),
        (0.0, -20.0, 21.0, 1.0),
        (0.0, -9.0, 10.0, 10.0),
        (0.0, 0.0, 9.0, 1.5),
        (0.0, 0.0, 7.9, 7.9),
    ],
)
def test_padded_crops_of_tiny_images_are_no_pixels(box: tuple[float, ...]) -> None:
    boxes = torch.tensor([box] * 2)
    assert MAPS.pool(boxes).sum(1).tolist() == pytest.approx([1, 1])


def test_a_box_far_away_that_is_empty_or_infinite_is_named_as_such() -> None:
    for wrong in (float("inf"), -20.0):
        with pytest.raises(InvalidValueError, match="box 1 is"):
            MAPS.pool(torch.tensor([[-9.0, 0, 1, 1], [0, 0, wrong, 1]]), uncovered="nearest")
    with pytest.raises(InvalidValueError, match="all finite"):
        MAPS.pool(torch.tensor([[-float("inf"), 0, 1, 1]] * 2), uncovered="nearest")
