"""From keys to rows to score maps, and everything that can be wrong with a key or a row."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import make_store, random_logits

import relabel
from relabel.errors import LabelError, StoreError
from relabel.geometry import WHOLE
from relabel.store import StoreReader
from relabel.store.keys import KeyIndex

KEYS = [["a/0.jpg", "a/1.jpg", "b/2.jpg"], ["b/ü.jpg", "c/4.jpg"]]
EVERY = [key for shard in KEYS for key in shard]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "s.zarr", KEYS, random_logits(5, 12, (3, 4)), failed=frozenset({"c/4.jpg"}))
    return tmp_path / "s.zarr"


def test_a_store_says_what_it_is(store: Path) -> None:
    maps = relabel.open(store)
    assert (len(maps), maps.num_classes, maps.grid.size_hw) == (4, 12, (3, 4))
    assert maps.manifest.teacher.name == "by hand"
    assert "3 planes + 4 profile classes of 12" in repr(maps)


def test_a_key_leads_to_the_map_of_its_image(tmp_path: Path) -> None:
    made = make_store(tmp_path / "s.zarr", KEYS, random_logits(5, 12, (3, 4))).coded()
    maps = relabel.open(tmp_path / "s.zarr")
    order = [3, 0, 4, 0]
    rows = maps.rows([EVERY[i] for i in order])
    assert rows.dtype == torch.int64
    assert rows.tolist() == [3, 0, 4, 0]
    read = maps[rows]
    assert torch.equal(read.classes.long(), made.classes[order])
    assert torch.equal(read.planes, made.planes[order])
    assert torch.equal(read.rest, made.rest[order])
    assert torch.equal(read.profile, made.profile[order])
    assert read.footprint == WHOLE
    assert (read.num_classes, read.holes) == (12, False)


def test_rows_may_be_a_tensor_an_array_or_a_list_and_none_at_all(store: Path) -> None:
    maps = relabel.open(store)
    for rows in (torch.tensor([1, 2]), np.array([1, 2]), [1, 2]):
        assert torch.equal(maps[rows].planes, maps[torch.tensor([1, 2])].planes)
    assert len(maps[[]]) == 0
    assert maps.rows([]).shape == (0,)


@pytest.mark.parametrize("each", [False, True])
def test_a_footprint_comes_with_the_map(tmp_path: Path, each: bool) -> None:
    one = torch.tensor([0.125, 0.0, 0.875, 1.0])
    footprint = torch.stack([one - i / 64 for i in range(5)]) if each else one
    make_store(tmp_path / "s.zarr", KEYS, random_logits(5, 12, (3, 4)), footprint=footprint)
    read = relabel.open(tmp_path / "s.zarr")[[0, 3]]
    assert torch.equal(read.footprints_xyxy(), footprint[[0, 3]] if each else one.expand(2, 4))
    assert read.to("cpu").pool(torch.tensor([[0.2, 0, 0.5, 1]]).expand(2, 4)).sum(1).tolist() == pytest.approx([1, 1])


def test_unknown_keys_are_listed_beside_one_that_is_there(store: Path) -> None:
    maps = relabel.open(store)
    with pytest.raises(LabelError, match=r"2 of 3 keys: '0\.jpg', 'x'.*look like 'a/0\.jpg'"):
        maps.rows(["a/0.jpg", "0.jpg", "x"])
    with pytest.raises(LabelError, match=r"'n6', 'n7' and 12 more\."):
        maps.rows([f"n{i}" for i in range(20)])
    with pytest.raises(LabelError, match=r"8 of 8 keys: 'n0', .* 'n7'\."):
        maps.rows([f"n{i}" for i in range(8)])
    assert maps.find(["a/1.jpg", "x"]).tolist() == [1, -1]


def test_one_string_is_not_taken_for_many_keys(store: Path) -> None:
    with pytest.raises(LabelError, match="one string"):
        relabel.open(store).rows("a/0.jpg")


def test_a_failed_image_has_a_row_but_no_label_and_its_reason_is_told(store: Path) -> None:
    maps = relabel.open(store)
    rows = maps.rows(EVERY)
    assert maps.has_label(rows).tolist() == [True] * 4 + [False]
    with pytest.raises(LabelError, match=r"'c/4\.jpg'.*not a readable image: cut"):
        maps[rows]


def test_what_is_no_row_is_not_taken_for_one(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [["1", "0", "2"]], random_logits(3, 12, (3, 4)))
    maps = relabel.open(tmp_path / "s.zarr")
    # A key of digits, a mask and a fraction are each one conversion away from the number of another row.
    for rows in (["1"], "1", torch.tensor([True, False, True]), [0.5], 0, torch.tensor(1), [[0]]):
        for ask in (maps.__getitem__, maps.has_label):
            with pytest.raises(LabelError, match=r"rows are whole numbers .* maps\[maps\.rows\(keys\)\]"):
                ask(rows)  # type: ignore[operator]


def test_a_slice_is_of_the_rows(store: Path) -> None:
    maps = relabel.open(store)
    assert torch.equal(maps[1:4].planes, maps[[1, 2, 3]].planes)
    assert torch.equal(maps[-4:-6:-1].planes, maps[[2, 1]].planes)


def test_an_unknown_keys_row_has_no_label(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [["a", "b"]], random_logits(2, 12, (3, 4)))
    maps = relabel.open(tmp_path / "s.zarr")
    assert maps.has_label(maps.find(["b", "x"])).tolist() == [True, False]
    assert maps.has_label([0, 2]).tolist() == [True, False]
    assert maps.has_label([]).shape == (0,)


def test_keys_of_another_kind_are_refused_and_of_no_encoding_unknown(store: Path) -> None:
    maps = relabel.open(store)
    for key in (Path("a/0.jpg"), b"a/0.jpg", 0):
        with pytest.raises(LabelError, match=r"keys are strings, as 'a/0\.jpg'; got .*, a \w+"):
            maps.rows(["a/0.jpg", key])  # type: ignore[list-item]
    assert maps.find(["\udcff.jpg"]).tolist() == [-1]


def test_an_unfinished_store_opens_only_when_asked_and_lacks_the_missing_keys(store: Path) -> None:
    for file in store.glob("*/c.1.*"):
        file.unlink()
    with pytest.raises(StoreError, match=r"1 of 2 shards .* not published"):
        relabel.open(store)
    maps = relabel.open(store, partial=True)
    assert len(maps) == 3
    assert maps.find(["b/2.jpg", "c/4.jpg"]).tolist() == [2, -1]


def test_a_pickled_store_brings_its_keys_and_no_mapped_files(store: Path) -> None:
    maps = relabel.open(store)
    maps[maps.rows(EVERY[:2])]
    again = pickle.loads(pickle.dumps(maps))
    (store / "key").rename(store / "gone")
    assert again.rows(EVERY).tolist() == maps.rows(EVERY).tolist()
    assert torch.equal(again[[0]].planes, maps[[0]].planes)
    assert len(pickle.dumps(maps)) < 20_000


def test_labels_of_a_store_that_took_its_place_are_refused(store: Path, tmp_path: Path) -> None:
    digest = StoreReader(store).digest()
    maps = relabel.open(store, digest=digest)
    rows, whole = maps.rows(EVERY[:4]), maps[[0]]
    make_store(tmp_path / "new.zarr", KEYS, random_logits(5, 12, (3, 4), seed=1), failed=frozenset({"c/4.jpg"}))
    store.rename(tmp_path / "old.zarr")
    (tmp_path / "new.zarr").rename(store)
    assert torch.equal(maps[[0]].planes, whole.planes)
    for each in (maps, pickle.loads(pickle.dumps(maps))):
        with pytest.raises(relabel.ReplacedStoreError, match="the store was made anew"):
            each[rows[3:]]
    with pytest.raises(StoreError, match=f"its digest is .*, and not {digest}"):
        relabel.open(store, digest=digest)


@given(st.lists(st.lists(st.text(max_size=8), max_size=6), max_size=4), st.lists(st.text(max_size=8), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_index_answers_as_a_dict_does(shards: list[list[str]], others: list[str]) -> None:
    rows = {key: 6 * s + r for s, keys in enumerate(shards) for r, key in enumerate(keys) if key}
    used = [key for keys in shards for key in keys if key]
    entries = [(6 * s, keys) for s, keys in enumerate(shards)]
    if len(set(used)) < len(used):
        with pytest.raises(LabelError, match="same key"):
            KeyIndex(entries)
        return
    index = KeyIndex(entries)
    wanted = [*used, *others]
    assert index.rows(wanted).tolist() == [rows.get(key, -1) for key in wanted]
    assert len(index) == len(used)
