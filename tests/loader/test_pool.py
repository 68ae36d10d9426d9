"""Labels of tickets: what the same rows and views give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stores import make_store, random_logits

import relabel
from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View, Views
from relabel.store import StoreReader
from relabel.tickets import Tickets, ticket

KEYS = [["a", "b", "c"], ["d"]]
VIEWS = (
    View(Box(0.1, 0.2, 0.7, 0.9), flip=True),
    View(Box(0.3, 0.1, 0.8, 0.6), flip_vertical=True),
    View.affine(((0.4, 0.1, 0.2), (-0.1, 0.5, 0.3))),
)
SIZES = [None, (2, 3)]


@pytest.fixture
def maps(tmp_path: Path) -> relabel.LabelMaps:
    make_store(tmp_path / "s", KEYS, random_logits(4, 12, (4, 4)))
    return relabel.open(tmp_path / "s")


def tickets(maps: relabel.LabelMaps, upright: bool = False) -> torch.Tensor:
    """Of the rows 3, 2, 1."""
    made = [ticket(maps.ticket_id, 3 - i, view, i, upright=upright) for i, view in enumerate(VIEWS)]
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize("size", SIZES)
def test_labels_of_tickets_are_those_of_rows_and_views(
    maps: relabel.LabelMaps, size: tuple[int, int] | None, device: torch.device
) -> None:
    expected = maps[[3, 2, 1]].pool(Views.of(VIEWS), size, temperature=2.0)
    given = tickets(maps)
    for found in (
        maps.pool(given.to(device), size, temperature=2.0),
        maps.pool(given, size, device=device, temperature=2.0),
        maps.pool(given.to(device), size, sparse=True, temperature=2.0).dense(),
    ):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected)
    assert maps.pool(given.to(device), device="cpu").device.type == "cpu"
    # As webdataset's own collate leaves them.
    torch.testing.assert_close(maps.pool(given.numpy(), size, temperature=2.0), expected)


@pytest.mark.parametrize("size", SIZES)
def test_each_ticket_has_the_map_of_its_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None
) -> None:
    make_store(tmp_path / "s", KEYS, random_logits(4, 12, (4, 4)))
    turned = np.array([1, 6, 8, 3], np.uint8)
    column = StoreReader.columns

    def columns(reader: StoreReader, shard: int, *names: str) -> dict[str, object]:
        found = column(reader, shard, *names)
        return found | ({"orientation": turned[3 * shard :][:3]} if "orientation" in names else {})

    monkeypatch.setattr(StoreReader, "columns", columns)
    maps = relabel.open(tmp_path / "s")
    mixed = torch.cat([tickets(maps)[:1], tickets(maps, upright=True)[1:]])
    decoded, upright = (maps.in_frame(frame)[[3, 2, 1]].pool(Views.of(VIEWS), size) for frame in ("decoded", "upright"))
    assert not torch.allclose(decoded, upright, atol=1e-3)
    torch.testing.assert_close(maps.pool(mixed, size), torch.cat([decoded[:1], upright[1:]]))
    torch.testing.assert_close(maps.in_frame("upright").pool(mixed, size), maps.pool(mixed, size))


def test_a_loader_that_says_its_boxes_makes_tickets(maps: relabel.LabelMaps) -> None:
    boxes, flips = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 0.5, 1.0]]), torch.tensor([1, 0])
    for where in (maps, maps.in_frame("upright")):
        made = where.tickets([3, 1], boxes, flips, torch.tensor([5, -100]))
        read = Tickets.read(made)
        assert (read.rows.tolist(), read.ground_truth.tolist()) == ([3, 1], [5, -1])
        assert read.upright.tolist() == [where.frame == "upright"] * 2
        torch.testing.assert_close(maps.pool(made, 3), maps[[3, 1]].pool(boxes, 3, flip=flips.bool()))
    by_hand = [ticket(maps.ticket_id, row, View(Box(*box))) for row, box in zip([3, 1], boxes.tolist(), strict=True)]
    assert torch.equal(maps.tickets(torch.tensor([3, 1]), boxes.double()), maps.tickets([3, 1], boxes))
    assert Tickets.read(maps.tickets([3, 1], boxes)).pack().equal(Tickets.read(np.stack(by_hand)).pack())


def test_boxes_and_rows_that_are_none_make_no_tickets(maps: relabel.LabelMaps) -> None:
    box = torch.tensor([[0.1, 0.2, 0.7, 0.9]])
    with pytest.raises(InvalidValueError, match=r"one an image; got 2, 1, 1 and 2"):
        maps.tickets([3, 1], box)
    with pytest.raises(InvalidValueError, match="x0 < x1"):
        maps.tickets([3], box.flip(1))
    with pytest.raises(LabelError, match="rows are whole numbers"):
        maps.tickets([0.5], box)  # type: ignore[list-item]
    with pytest.raises(LabelError, match=r"-1 \.\. 3"):
        maps.pool(maps.tickets([-1, 3], box.repeat(2, 1)))


def test_tickets_of_another_store_are_refused_and_both_are_named(maps: relabel.LabelMaps, tmp_path: Path) -> None:
    make_store(tmp_path / "t", [["a", "x"]], random_logits(2, 12, (4, 4)))
    other = relabel.open(tmp_path / "t")
    names = [store.manifest.identity().hex()[:15] for store in (maps, other)]
    with pytest.raises(LabelError, match=f"another store, that of the identity {names[0]}, and .*/t is {names[1]}"):
        other.pool(tickets(maps))


def test_tokens_of_a_view_that_is_not_exact_are_refused(maps: relabel.LabelMaps) -> None:
    ignored = torch.from_numpy(ticket(maps.ticket_id, 1, VIEWS[0].ignoring()))[None]
    assert maps.pool(ignored).shape == (1, 12)
    with pytest.raises(LabelError, match="ignore"):
        maps.pool(ignored, 2)


def test_what_shows_padding_alone_has_the_nearest_label_where_maps_cover_images(tmp_path: Path) -> None:
    beside, partly = View(Box(-0.5, 0.0, -0.1, 1.0)), View(Box(-0.5, 0.0, 0.5, 1.0))
    turned = View.affine(((0.5, 0.1, -0.8), (-0.1, 0.9, 0.1)))
    for name, footprint in (
        ("whole", None),
        ("letterbox", [0.0, -0.25, 1.0, 1.25]),
        ("center", [0.125, 0.0, 0.875, 1.0]),
    ):
        square = None if footprint is None else torch.tensor(footprint)
        make_store(tmp_path / name, [["a", "b"]], random_logits(2, 12, (4, 4)), footprint=square)
        maps = relabel.open(tmp_path / name)
        for views, size in (([beside, beside], None), ([partly, partly], (4, 4)), ([turned, beside], (2, 2))):
            both = torch.from_numpy(np.stack([ticket(maps.ticket_id, row, view) for row, view in enumerate(views)]))
            if name == "center":
                with pytest.raises(LabelError, match="lies outside the part of the image"):
                    maps.pool(both, size)
            else:
                assert torch.equal(maps.pool(both, size), maps.pool(both, size, uncovered="nearest"))
                torch.testing.assert_close(maps.pool(both, size).sum(1), torch.ones(2, *(size or ())))
