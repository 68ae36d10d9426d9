"""Tickets after a batched step: every pixel shows what its new view says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tickets import Tickets, moved, ticket

STORE, SIZE_HW = 77, (48, 64)
VIEWS = (
    View(Box(0.1, 0.2, 0.7, 0.9), flip=True),
    View(Box(-0.1, 0.0, 1.0, 1.1), flip_vertical=True, is_exact=False),
    View.affine(((0.4, 0.1, 0.2), (-0.1, 0.5, 0.3))),
)
MIRRORED = [[-1.0, 0, 63], [0, 1, 0], [0, 0, 1]]
UPSIDE_DOWN = [[1.0, 0, 0], [0, -1, 47], [0, 0, 1]]


def tickets(views: tuple[View, ...] = VIEWS) -> torch.Tensor:
    return torch.from_numpy(np.stack([ticket(STORE, i, view, 5 - i, upright=i == 1) for i, view in enumerate(views)]))


def places(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 2) by a 2 x 3 or 3 x 3 map."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def shown(given: torch.Tensor, fractions: np.ndarray) -> np.ndarray:
    """(B, n, 2) places in the image, of places in what tickets show, told one by one."""
    views = Tickets.read(given).views
    return np.stack([places(np.array(view.as_matrix()), fractions) for view in views])


@given(
    st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.05),
    st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    st.sampled_from([SIZE_HW, (30, 20)]),
)
@settings(max_examples=40)
def test_every_pixel_shows_what_its_view_says(sides: list[float], shift: tuple[float, float], out_hw) -> None:
    matrix = np.array([[*sides[:2], shift[0]], [*sides[2:], shift[1]], [0, 0, 1]])
    after = moved(tickets(), torch.from_numpy(np.stack([matrix] * 3)), SIZE_HW, out_hw)
    # Pixels that go out, and where in what came in each of them was.
    pixels = np.random.default_rng(0).uniform(0, 20, (9, 2)).round()
    came_from = places(np.linalg.inv(matrix), pixels)
    expected = shown(tickets(), (came_from + 0.5) / SIZE_HW[::-1])
    # A map of less lean than a twentieth of a pixel counts as none.
    np.testing.assert_allclose(shown(after, (pixels + 0.5) / out_hw[::-1]), expected, atol=1e-3)


def test_mirrored_and_cropped_boxes_stay_boxes_to_the_half_pixel() -> None:
    matrices = torch.tensor([MIRRORED, UPSIDE_DOWN])
    read = Tickets.read(moved(tickets(VIEWS[:2]), matrices, SIZE_HW, SIZE_HW))
    before = Tickets.read(tickets(VIEWS[:2]))
    torch.testing.assert_close(read.views.boxes, before.views.boxes, atol=1e-6, rtol=0)
    assert read.views.matrices is None
    assert (read.views.flips.tolist(), read.views.flips_vertical.tolist()) == ([False, False], [False, False])
    # The right half, magnified twice: pixel 32, whose left edge is the middle, becomes pixels 0 and 1.
    half = torch.tensor([[[2.0, 0, -63.5], [0, 1, 0], [0, 0, 1]]])
    whole = tickets((View.whole(),))
    torch.testing.assert_close(
        Tickets.read(moved(whole, half, SIZE_HW, SIZE_HW)).views.boxes[0], torch.tensor([0.5, 0, 1, 1])
    )
    # Cut out as it is, 32 pixels wide.
    cut = torch.tensor([[[1.0, 0, -32], [0, 1, 0], [0, 0, 1]]])
    found = Tickets.read(moved(whole, cut, SIZE_HW, (48, 32))).views.boxes[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0, 1, 1]))


def test_what_does_not_move_keeps_all_else(device: torch.device) -> None:
    before = tickets().to(device)
    after = moved(before, torch.eye(3, device=device).repeat(3, 1, 1), SIZE_HW, SIZE_HW)
    assert after.device == before.device
    same, read = Tickets.read(before), Tickets.read(after)
    for name in ("rows", "upright", "ground_truth"):
        assert torch.equal(getattr(read, name), getattr(same, name))
    assert torch.equal(read.views.is_exact, same.views.is_exact)
    torch.testing.assert_close(read.views.boxes, same.views.boxes, atol=1e-6, rtol=0)
    assert read.views.is_affine.tolist() == [False, False, True]


def test_what_float32_leaves_of_a_crops_corners_is_no_turn() -> None:
    solved = torch.tensor([MIRRORED]) + torch.tensor([[[0, 2e-6, 0], [1e-6, 0, 0], [1e-8, 1e-8, 0]]])
    assert Tickets.read(moved(tickets(VIEWS[:1]), solved, SIZE_HW, SIZE_HW)).views.matrices is None
    turned = torch.tensor([MIRRORED]) + torch.tensor([[[0, 2e-2, 0], [1e-2, 0, 0], [0, 0, 0]]])
    views = Tickets.read(moved(tickets((View.whole(),)), turned, SIZE_HW, SIZE_HW)).views
    # The map says what is mirrored.
    assert (views.is_affine.tolist(), views.flips.tolist()) == ([True], [False])


def test_a_perspective_counts_as_what_it_is_around_the_centre_and_is_not_exact() -> None:
    matrix = np.array([[1.1, 0.1, 3], [-0.05, 0.9, 2], [2e-3, 1e-3, 1]])
    whole = tickets((View.whole(), View.whole()))
    after = moved(whole, torch.from_numpy(np.stack([matrix, np.eye(3)])), SIZE_HW, (40, 40))
    assert Tickets.read(after).views.is_exact.tolist() == [False, True]
    pixels = 19.5 + np.array([[0.0, 0], [0.5, 0], [0, 0.5]])
    came_from = np.c_[pixels, np.ones(3)] @ np.linalg.inv(matrix).T
    expected = (came_from[:, :2] / came_from[:, 2:] + 0.5) / SIZE_HW[::-1]
    np.testing.assert_allclose(shown(after, (pixels + 0.5) / 40)[0], expected, atol=1e-4)


EYE = torch.eye(3).repeat(3, 1, 1)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (EYE[:1], r"floating \(3, 3, 3\), one a ticket, .* got \(1, 3, 3\) of torch.float32"),
        (EYE[:, :2], r"got \(3, 2, 3\)"),
        (EYE.long(), "of torch.int64"),
        (EYE.numpy(), "got ndarray"),
        (EYE * torch.tensor([1.0, 0.0, 1.0]), "no inverse"),
        (EYE * torch.nan, "no inverse"),
        (torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]).repeat(3, 1, 1), "no inverse"),
    ],
)
def test_what_is_no_map_of_pixels_is_refused(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        moved(tickets(), matrix, SIZE_HW, SIZE_HW)
    with pytest.raises(LabelError, match="class ids"):
        moved(torch.tensor([1, 2, 3]), matrix, SIZE_HW, SIZE_HW)
