"""Labels of tickets: what the same rows and views give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stores import make_store, random_logits

import relabel
from relabel.errors import LabelError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tickets import ticket

VIEWS = (View(Box(0.1, 0.2, 0.7, 0.9), flip=True), View(Box(0.3, 0.1, 0.8, 0.6)))


@pytest.fixture
def maps(tmp_path: Path) -> relabel.LabelMaps:
    make_store(tmp_path / "s", [["a", "b", "c"]], random_logits(3, 12, (4, 5)))
    return relabel.open(tmp_path / "s")


def tickets(maps: relabel.LabelMaps) -> torch.Tensor:
    return torch.from_numpy(np.stack([ticket(maps.ticket_id, 2 - i, view) for i, view in enumerate(VIEWS)]))


@pytest.mark.parametrize("size", [None, (2, 3)])
def test_labels_of_tickets_are_those_of_rows_and_boxes(maps: relabel.LabelMaps, size: tuple[int, int] | None) -> None:
    boxes, flips = torch.tensor([view.box.xyxy for view in VIEWS]), torch.tensor([True, False])
    expected = maps[[2, 1]].pool(boxes, size, flip=flips)
    assert torch.equal(maps.pool(tickets(maps), size), expected)
    assert torch.equal(maps.pool(tickets(maps), size, sparse=True).dense(), expected)


def test_tickets_of_another_store_are_refused(maps: relabel.LabelMaps, tmp_path: Path) -> None:
    make_store(tmp_path / "t", [["a", "x"]], random_logits(2, 12, (4, 5)))
    with pytest.raises(LabelError, match="another store"):
        relabel.open(tmp_path / "t").pool(tickets(maps))
