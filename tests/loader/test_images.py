"""Rows by the bytes of an image."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import make_store, random_logits

import relabel
from relabel.errors import LabelError
from relabel.images import image_hash
from relabel.store.keys import ImageIndex

KEYS = [["a", "b", "c"], ["d", "e", "unknown"]]
FILES = [b"first", b"twice", b"cannot be read", b"fourth", b"twice"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    hashes = [*map(image_hash, FILES), 0]
    logits = random_logits(6, 12, (3, 4))
    make_store(tmp_path / "s", KEYS, logits, failed=frozenset({"b", "c"}), image_hashes=hashes)
    return tmp_path / "s"


def test_the_bytes_of_a_file_lead_to_its_row(store: Path) -> None:
    maps = relabel.open(store)
    rows = maps.rows_of([FILES[i] for i in (3, 0, 3)])
    assert torch.equal(rows, maps.rows(["d", "a", "d"]))
    assert maps.rows_of([]).shape == (0,)


def test_of_two_rows_of_one_image_the_labeled_one_serves_and_a_failed_image_has_a_row(store: Path) -> None:
    maps = relabel.open(store)
    rows = maps.rows_of([b"twice", b"cannot be read"])
    assert torch.equal(rows, maps.rows(["e", "c"]))
    assert maps.has_label(rows).tolist() == [True, False]


def test_unknown_images_are_told(store: Path) -> None:
    maps = relabel.open(store)
    assert maps.find_images([b"other", b"first"]).tolist() == [-1, 0]
    with pytest.raises(LabelError, match=r"bytes of 2 of 3 images, numbers 0, 2\. It knows 4 different images"):
        maps.rows_of([b"", b"first", b"other"])
    with pytest.raises(LabelError, match=r"numbers 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"):
        maps.rows_of([b"x"] * 10)
    for strange in (b"first", ["a"], [np.zeros(3, np.uint8)]):
        with pytest.raises(LabelError, match="a sequence of bytes, one an image"):
            maps.rows_of(strange)  # type: ignore[arg-type]


def test_the_index_travels_to_workers_once_it_is_made(store: Path) -> None:
    maps = relabel.open(store)
    upright = maps.in_frame("upright")
    maps.rows_of([])
    (store / "image_hash").rename(store / "taken away")
    for sent in (pickle.loads(pickle.dumps(maps)), upright):
        assert sent.rows_of([b"fourth"]).tolist() == [3]


def test_a_store_that_knows_no_hash_has_no_image() -> None:
    index = ImageIndex(np.zeros(3, np.uint64), np.ones(3, bool))
    assert index.rows(np.array([0, 1], np.uint64)).tolist() == [-1, -1]
