"""What `relabel inspect` says of a store, against numbers taken from the logits it was made of."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from stores import RAW_LOGITS, make_store, random_logits, seal

from relabel import summary
from relabel.errors import StoreError
from relabel.manifest import ScoreRecord
from relabel.store import RowBatch, StoreReader
from relabel.summary import summarise

LOGITS = random_logits(6, 12, (2, 3)) * 0.3
SHARDS = [["0", "1", "2", "3"], ["4", "5"]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six images in two shards, of which number 4 failed."""
    make_store(tmp_path / "s.zarr", SHARDS, LOGITS, failed=frozenset({"4"}))
    return tmp_path / "s.zarr"


def test_images_labels_and_bytes_are_counted(store: Path) -> None:
    zarr.open_group(store, mode="r+")["label"][:] = np.array([[2, 2, -1, 500], [2, 2, -1, -1]], np.int32)
    seal(store)
    found = summarise(store)
    assert (found.shards_published, found.labeled, found.failed, found.sampled) == (2, 5, 1, 5)
    assert found.labels == {-1: 1, 2: 3, 500: 1}
    assert found.bytes == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    assert found.bytes_per_image == found.bytes / 6
    assert found.digest == StoreReader(store).digest()
    next(store.glob("status/c.1.*")).unlink()
    assert summarise(store).digest is None


def test_the_unstored_mass_is_that_of_the_logits(store: Path) -> None:
    probabilities = LOGITS.double().softmax(1).numpy()[[0, 1, 2, 3, 5]]
    classes = zarr.open_group(store, mode="r")["classes"]
    kept = np.concatenate([classes[0, :4, :3], classes[1, 1:2, :3]]).astype(np.int64)
    stored = np.take_along_axis(probabilities, kept[:, :, None, None], 1).sum(1)
    # Coding changes a score by up to half a code, 6 %, one way here and the other there.
    assert summarise(store).unstored_mass == pytest.approx(1 - stored.mean(), abs=0.02)


def test_how_often_the_first_class_is_the_truth_where_it_is_known(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    first = group["classes"][:, :, 0].astype(np.int32)
    group["label"][:] = np.where([[True, True, False, False], [True] * 4], first, -1)
    group["label"][0, 1] = (first[0, 1] + 1) % 12
    seal(store)
    # Rows 0 and 5 are right, row 1 wrong, rows 2 and 3 unknown, row 4 failed.
    found = summarise(store)
    assert found.first_class_is_label == pytest.approx(2 / 3)
    assert found.first_classes == Counter([*first[0].tolist(), int(first[1, 1])])


def test_a_truth_of_other_classes_is_none(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    group["label"][:] = np.full((2, 4), 12, np.int32)
    seal(store)
    found = summarise(store)
    assert (found.first_class_is_label, found.class_spaces.are_same) == (None, False)
    assert found.class_spaces.why == "a ground truth is 12, and the teacher's classes end at 11"


def test_what_cannot_be_known_is_none(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [["0"]], LOGITS[:1], failed=frozenset({"0"}))
    found = summarise(tmp_path / "s.zarr")
    assert (found.sampled, found.unstored_mass, found.first_class_is_label, found.labels) == (0, None, None, {})


def test_mass_that_coding_alone_makes_is_none() -> None:
    record = ScoreRecord(num_classes=9, planes=2, profile=0, grid_hw=(1, 1), step=1 / 8)
    # Two planes of one cell, then the rest: 0.6065 + 0.4169 are above 1.
    read = RowBatch(
        scores=np.array([4, 7, 80], np.uint8).reshape(1, 3, 1, 1),
        classes=np.array([[0, 1]], np.uint16),
        profile=np.zeros((1, 1), np.int8),
    )
    reader: Any = SimpleNamespace(manifest=SimpleNamespace(scores=record), read=lambda rows: read)
    mass, agreement, firsts = summary._sampled(reader, np.array([0]), np.array([-1], np.int32))
    assert (mass, agreement, firsts.tolist()) == (0.0, None, [0])
    assert summary._sampled(reader, np.array([0]), np.array([0], np.int32))[1] == 1.0


def test_raw_logits_have_no_mass(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", SHARDS, LOGITS, **RAW_LOGITS)
    found = summarise(tmp_path / "s.zarr")
    assert found.unstored_mass is None
    assert found.sampled == 6


def test_a_store_that_is_not_finished_is_summarised_so_far(store: Path) -> None:
    (store / "status/c.0.0").unlink()
    found = summarise(store)
    assert (found.shards_published, found.labeled, found.failed) == (1, 1, 1)
    (store / "status/c.1.0").unlink()
    assert summarise(store).bytes_per_image is None


def test_no_store_at_all_is_an_error(store: Path) -> None:
    shutil.rmtree(store / "status")
    with pytest.raises(StoreError):
        summarise(store)
