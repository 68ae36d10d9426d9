"""Stores that earlier versions wrote still read as they did; a fixture that is missing fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_fixture import freeze
from store.samples import MAPS, assert_maps, contents

from relabel.manifest import FORMAT
from relabel.store import StoreReader

_TESTS = Path(__file__).parents[1]
_FROZEN = {1: ("uint8-zstd", "uint8-raw-footprints", "float16-zstd-holes")}
_STORES = [pytest.param(v, name, id=f"v{v}-{name}") for v in _FROZEN for name in _FROZEN[v]]


def test_every_format_has_its_fixture():
    assert _FROZEN.keys() == set(range(1, FORMAT + 1))


@pytest.mark.parametrize(("version", "name"), _STORES)
def test_a_frozen_store_reads_as_it_was_written_and_means_what_it_meant(version, name):
    folder = _TESTS / "fixture" / f"v{version}"
    with np.load(folder / f"{name}.npz") as file:
        expected = dict(file)
    reader = StoreReader(folder / name)
    labeled = np.flatnonzero(expected["status"].reshape(-1) == 1)
    batch = reader.read(labeled)
    names = [name for name in MAPS if name in expected]
    assert_maps(batch, {name: expected[name].reshape(-1, *expected[name].shape[2:])[labeled] for name in names})
    for shard in range(reader.num_shards):
        table = reader.table(shard)
        for array, values in table.columns.items():
            np.testing.assert_array_equal(values, expected[array][shard])
    dense = batch.maps(reader.manifest.scores).to_dense()
    np.testing.assert_allclose(dense.numpy(), expected["dense"], rtol=0, atol=1e-5)


def test_a_fixture_is_never_overwritten(tmp_path):
    freeze(tmp_path / "v9")
    assert set(_FROZEN[FORMAT]) == {file.stem for file in (tmp_path / "v9").glob("*.npz")}
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match=r"v9 is frozen: a new one is made only for a new format"):
        freeze(tmp_path / "v9")
    assert contents(tmp_path) == before
