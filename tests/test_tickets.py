"""Tickets: what goes in comes out, and what is no ticket is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relabel.errors import LabelError
from relabel.geometry import Box
from relabel.geometry.views import View, Views
from relabel.tickets import Tickets, ticket

VIEWS = (
    View(Box(0.1, 0.2, 0.7, 0.9), flip=True),
    View(Box(-0.1, 0.0, 1.0, 1.1), flip_vertical=True, is_exact=False),
    View.affine(((0.4, 0.1, 0.2), (-0.1, 0.5, 0.3))),
)


def batch() -> torch.Tensor:
    tickets = [ticket(2**61 + 7, 10 + i, view, ground_truth=i - 1, upright=i == 1) for i, view in enumerate(VIEWS)]
    return torch.from_numpy(np.stack(tickets))


def test_what_goes_in_comes_out():
    read = Tickets.read(batch())
    expected = Views.of(VIEWS)
    assert read.store == 2**61 + 7
    assert read.rows.tolist() == [10, 11, 12]
    assert read.upright.tolist() == [False, True, False]
    assert read.ground_truth.tolist() == [-1, 0, 1]
    assert torch.equal(read.views.boxes, expected.boxes)
    assert torch.equal(read.views.flips, expected.flips)
    assert torch.equal(read.views.flips_vertical, expected.flips_vertical)
    assert torch.equal(read.views.is_exact, expected.is_exact)
    torch.testing.assert_close(read.views.matrices, expected.matrices, rtol=0, atol=0, equal_nan=True)
    again = Tickets.read(read.pack())
    assert torch.equal(again.pack(), read.pack())


@pytest.mark.parametrize("column", range(11))
def test_a_ticket_that_was_changed_is_none(column):
    changed = batch()
    changed[1, column] += 1
    with pytest.raises(LabelError, match=r"were changed|of one store"):
        Tickets.read(changed)
