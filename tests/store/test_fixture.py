"""Stores that earlier versions wrote still read as they did; a fixture that is missing fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from make_fixture import freeze
from store.samples import contents

from relabel.manifest import FORMAT
from relabel.score_map import ScoreMap
from relabel.store import StoreReader
from relabel.store.files import LocalFiles
from relabel.store.metadata import check_arrays

_TESTS = Path(__file__).parents[1]
_FROZEN = {1: ("uint8-zstd", "uint8-raw-footprints", "float16-zstd-holes")}
_STORES = [pytest.param(v, name, id=f"v{v}-{name}") for v in _FROZEN for name in _FROZEN[v]]


def test_every_format_has_its_fixture():
    assert _FROZEN.keys() == set(range(1, FORMAT + 1))


@pytest.mark.parametrize(("version", "name"), _STORES)
def test_a_frozen_store_reads_as_it_was_written(version, name):
    folder = _TESTS / "fixture" / f"v{version}"
    expected = np.load(folder / f"{name}.npz")
    reader = StoreReader(folder / name)
    labeled = np.flatnonzero(expected["status"].reshape(-1) == 1)
    batch = reader.read(labeled)
    for array in ("classes", "scores", "profile", "footprint"):
        found = getattr(batch, array)
        assert (found is None) == (array not in expected)
        if found is not None:
            values = expected[array].reshape(-1, *expected[array].shape[2:])[labeled]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
    for shard in range(reader.num_shards):
        table = reader.table(shard)
        found = [table.keys, table.image_hashes, table.labels, table.statuses, table.errors]
        for values, array in zip(found, ("key", "image_hash", "label", "status", "error"), strict=True):
            np.testing.assert_array_equal(values, expected[array][shard])


@pytest.mark.parametrize(("version", "name"), _STORES)
def test_a_frozen_store_means_what_it_meant(version, name):
    folder = _TESTS / "fixture" / f"v{version}"
    expected = np.load(folder / f"{name}.npz")
    reader = StoreReader(folder / name)
    batch = reader.read(np.flatnonzero(expected["status"].reshape(-1) == 1))
    scores = torch.from_numpy(batch.scores)
    maps = ScoreMap(
        torch.from_numpy(batch.classes.astype(np.int64)),
        scores[:, :-1],
        scores[:, -1],
        torch.from_numpy(batch.profile),
        num_classes=reader.manifest.scores.num_classes,
        holes=reader.manifest.scores.select == "cell",
        step=reader.manifest.scores.step,
    )
    np.testing.assert_allclose(maps.to_dense().numpy(), expected["dense"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("version", "name"), _STORES)
def test_a_store_of_before_the_step_was_a_choice_has_that_of_then(version, name):
    folder = _TESTS / "fixture" / f"v{version}" / name
    assert "step" not in json.loads((folder / "zarr.json").read_text())["attributes"]["relabel"]["scores"]
    manifest = StoreReader(folder).manifest
    assert manifest.scores.step == 1 / 8
    # And it can be gone on with: the same layout, by a run that asks for that step.
    check_arrays(LocalFiles(folder), manifest)


def test_a_fixture_is_never_overwritten(tmp_path):
    freeze(tmp_path / "v9")
    assert set(_FROZEN[FORMAT]) == {file.stem for file in (tmp_path / "v9").glob("*.npz")}
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match=r"v9 is frozen: a new one is made only for a new format"):
        freeze(tmp_path / "v9")
    assert contents(tmp_path) == before
