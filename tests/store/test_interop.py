"""A store is a plain zarr v3 group: others read the same numbers from it, and we from what others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from store.samples import KINDS, Sample, assert_maps, assert_tables, contents, sample, write

from relabel.store import StoreReader, create_or_open
from relabel.store.layout import array_metadata, arrays_of


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    """A store of our writer, and what is in it."""
    path, data = tmp_path_factory.mktemp("interop") / "store", sample(**KINDS[request.param])
    write(path, data)
    return path, data


def test_zarr_python_reads_every_array(written):
    path, data = written
    group = zarr.open_group(path, mode="r", zarr_format=3)
    assert sorted(group.array_keys()) == sorted([*data.arrays, "checksum", "digest"])
    for name, expected in data.arrays.items():
        assert group[name].shape == expected.shape
        if expected.dtype != object:
            assert group[name].dtype == expected.dtype
        np.testing.assert_array_equal(group[name][:], expected)
    assert group.attrs.asdict() == data.manifest.to_json()


def test_xarray_names_the_axes_and_decodes_log_probabilities(written):
    path, data = written
    with xarray.open_zarr(path, consolidated=False) as store:
        assert store["scores"].dims == ("shard", "row", "plane", "y", "x")
        assert store["classes"].dims == ("shard", "row", "class")
        assert store["profile"].dims == ("shard", "row", "offset")
        assert store["key"].dims == ("shard", "row")
        codes, step = data.arrays["scores"], data.manifest.scores.step
        expected = np.where(codes == 255, np.nan, codes * -step) if codes.dtype == np.uint8 else codes
        np.testing.assert_array_equal(store["scores"].values, expected)
        np.testing.assert_array_equal(store["profile"].values, data.arrays["profile"] / 8.0)
        for name in data.arrays.keys() - {"scores", "profile"}:
            np.testing.assert_array_equal(store[name].values, data.arrays[name])


def test_tensorstore_reads_every_array_but_strings(written):
    path, data = written
    for name in data.arrays.keys() - {"key", "error"}:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}
        store = tensorstore.open(spec, read=True).result()
        np.testing.assert_array_equal(store.read().result(), data.arrays[name])
        assert store.domain.labels[:2] == ("shard", "row")


def test_our_metadata_is_that_of_zarr_python(written):
    path, data = written
    for name, spec in arrays_of(data.manifest).items():
        found = json.loads((path / name / "zarr.json").read_text())
        assert found == array_metadata(spec, data.manifest) | {"storage_transformers": []}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_zarr_python_wrote_reads_the_same(tmp_path, kind):
    data = sample(**kind)
    create_or_open(tmp_path / "theirs", data.manifest)
    group = zarr.open_group(tmp_path / "theirs", mode="r+", zarr_format=3)
    write(tmp_path / "ours", data)
    ours = zarr.open_group(tmp_path / "ours", mode="r")
    for name, values in (data.arrays | {name: ours[name][:] for name in ("checksum", "digest")}).items():
        # Without it a chunk of fill values only, such as `error` of a shard without failures, gets no file.
        with zarr.config.set({"array.write_empty_chunks": name != "scores"}):
            array = group[name]
        for shard, rows in enumerate(values):
            array[shard] = rows
    reader = StoreReader(tmp_path / "theirs")
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))
    for shard in range(2):
        assert_tables(reader.table(shard), data.table(shard, whole=True))
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def test_what_tensorstore_wrote_reads_the_same(tmp_path):
    data = sample()
    path = tmp_path / "store"
    write(path, data)
    for name in ("classes", "scores", "profile"):
        for file in (path / name).glob("c.*"):
            file.unlink()
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}
        tensorstore.open(spec, write=True).result().write(data.arrays[name]).result()
    assert_maps(StoreReader(path).read(data.labeled), data.maps(data.labeled))
