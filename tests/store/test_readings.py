"""reading.json: written whole, read by whoever opens the store, and refused if it is not the store's own."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import relabel
from relabel import DamagedStoreError, InvalidValueError, Reading, StoreError
from relabel.store import StoreReader
from relabel.store.readings import Gain, ReadingRecord, write_reading

_RECORD = ReadingRecord(
    reading=Reading(1.25, 0.25, 0.5, tokens=Reading(0.75)),
    images=200,
    crops=800,
    seed=0,
    image=Gain(as_is=0.7, read=0.5, error=0.01),
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two images' maps, with a reading."""
    path = tmp_path / "labels.zarr"
    maps = relabel.ScoreMap.from_logits(torch.randn(2, 9, 4, 4), planes=3, profile=2)
    relabel.write(path, ["a", "b"], maps)
    write_reading(StoreReader(path), _RECORD)
    return path


def test_a_store_is_read_by_its_file_says_so_once_and_is_the_same_store(store: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        maps, again = relabel.open(store), relabel.open(store)
    (said,) = caplog.messages
    assert "fitted to 200 images (KL from the teacher on crops: labels 0.700 -> 0.500 nats)" in said
    assert maps.reading == again.reading == maps[[0]].reading == _RECORD.reading
    as_is, own = relabel.open(store, reading=None), relabel.open(store, reading=Reading(2.0))
    assert (as_is.reading, own.reading) == (None, Reading(2.0))
    box = torch.tensor([[0.1, 0.2, 0.6, 0.9]])
    tickets = maps.tickets([1], box)
    labels = [each.pool(tickets) for each in (maps, as_is, own)]
    torch.testing.assert_close(labels[2], (2 * labels[1].log()).softmax(1))
    assert not torch.allclose(labels[0], labels[1])
    assert torch.equal(labels[0], maps.in_frame("upright").in_frame("decoded").pool(tickets, sparse=True).dense())
    assert relabel.verify_shards(store, show_progress=False).is_clean


def test_the_file_of_a_url_is_the_one_that_is_there_now(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RELABEL_CACHE", str(tmp_path / "cache"))
    url = f"file://{store}"
    assert relabel.open(url).reading == _RECORD.reading
    with pytest.raises(StoreError, match="is a URL"):
        write_reading(StoreReader(url), _RECORD)
    (store / "reading.json").unlink()
    assert relabel.open(url).reading is None


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        told = json.loads(file.read_text())
        change(told)
        file.write_text(json.dumps(told))

    return edit


def _of_another(file: Path) -> None:
    maps = relabel.ScoreMap.from_logits(torch.randn(2, 9, 4, 4), planes=3, profile=2)
    relabel.write(file.parent.parent / "other.zarr", ["a", "c"], maps)
    write_reading(StoreReader(file.parent.parent / "other.zarr"), _RECORD)
    shutil.copy(file.parent.parent / "other.zarr" / "reading.json", file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_of_another, "it is of another store"),
        (_edited(lambda told: told["reading"].update(pooled=1.5)), "its digest is not that of its numbers"),
        (_edited(lambda told: told["reading"].update(pooled=math.nan)), "pooled of a Reading must be a number"),
        (_edited(lambda told: told["reading"].update(whole=1e300)), "whole of a Reading must be a number"),
        (_edited(lambda told: told["reading"].update(pooled="1")), "pooled"),
        (_edited(lambda told: told.update(format=2)), "this version reads format 1"),
        (_edited(lambda told: told.pop("images")), "images"),
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), "cannot be used"),
        (lambda file: file.write_bytes(b"[" * 60_000), "cannot be used"),
        (lambda file: file.write_bytes(b"\xff\x00"), "cannot be used"),
        (lambda file: file.write_bytes(b" " * 70_000), "too large"),
        (_folder, "a folder"),
    ],
    ids=[
        "another store's",
        "edited",
        "nan",
        "huge",
        "text",
        "format",
        "lacking",
        "cut",
        "deep",
        "bytes",
        "long",
        "folder",
    ],
)
def test_a_file_that_is_not_the_stores_own_is_refused_with_the_way_out(
    spoil: Callable[[Path], object], said: str, store: Path
) -> None:
    spoil(store / "reading.json")
    with pytest.raises(DamagedStoreError, match=f"(?s){said}.*reading=None"):
        relabel.open(store)
    assert relabel.open(store, reading=None).reading is None
    (found,) = relabel.verify_shards(store, show_progress=False).findings
    assert said in found.what


def test_an_open_takes_readings_only(store: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"reading must be a relabel\.Reading, None"):
        relabel.open(store, reading=(1, 0, 0, 0))  # type: ignore[arg-type]
