"""Rows come back as they were written, and every row that cannot come back is named, with the reason."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store.samples import KINDS, Sample, assert_maps, assert_tables, sample, write
from stores import seal

from relabel.errors import LabelError, StoreError
from relabel.store import StoreReader, read_manifest
from relabel.store.descriptors import OpenShards
from relabel.store.layout import arrays_of

_GROUP = {"zarr_format": 3, "node_type": "group"}
_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    """A store of 12 shards."""
    path, data = tmp_path_factory.mktemp("many") / "store", sample(12)
    write(path, data)
    return path, data


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_come_back_in_any_order_and_as_often_as_asked(tmp_path, kind):
    data = sample(**kind)
    write(tmp_path / "store", data)
    reader = StoreReader(tmp_path / "store")
    rows = np.random.default_rng(1).choice(data.labeled, 200)
    assert_maps(reader.read(rows), data.maps(rows))
    for row in data.labeled:
        assert_maps(reader.read([row]), data.maps([row]))
    assert_maps(reader.read(np.array([], np.int64)), data.maps(np.array([], np.int64)))


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_batch_of_many_slabs_is_whole(tmp_path, compression):
    data = sample(3, 70, grid_hw=(20, 25), compression=compression)
    write(tmp_path / "store", data)
    rows = np.random.default_rng(2).permutation(data.labeled)
    assert rows.size * data.arrays["scores"][0, 0].nbytes > 3 * 100_000
    assert_maps(StoreReader(tmp_path / "store").read(rows), data.maps(rows))


def test_classes_beyond_two_bytes_keep_their_ids(tmp_path):
    data = sample(num_classes=70_000)
    assert (data.maps(data.labeled)["classes"] > 65_535).any()
    write(tmp_path / "store", data)
    assert_maps(StoreReader(tmp_path / "store").read(data.labeled), data.maps(data.labeled))


def test_a_shard_tells_its_rows(many):
    path, data = many
    reader = StoreReader(path)
    assert reader.manifest == data.manifest == read_manifest(path)
    assert (reader.num_shards, reader.rows_per_shard, reader.published) == (12, 6, frozenset(range(12)))
    for shard in (0, 11):
        assert_tables(reader.table(shard), data.table(shard, whole=True))
        assert reader.keys(shard) == data.arrays["key"][shard].tolist()
    assert reader.files.size_bytes() == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0, 1], r"class/é00_1.jpg' \(row 1\) has no label, it failed .*: cannot be decoded: cut"),
        ([70], "row 70 holds no image"),
        ([0, 72], r"rows must lie in \[0, 72\); got 0 .. 72"),
        ([-1], r"rows must lie in \[0, 72\); got -1 .. -1"),
    ],
)
def test_a_row_without_a_map_is_refused_with_the_reason(many, rows, said):
    with pytest.raises(LabelError, match=said):
        StoreReader(many[0]).read(np.array(rows))


def test_an_unfinished_store_opens_only_when_asked(tmp_path):
    data = sample(3)
    write(tmp_path / "store", data, range(1, 2))
    with pytest.raises(StoreError, match=r"2 of 3 shards .* not published"):
        StoreReader(tmp_path / "store")
    reader = StoreReader(tmp_path / "store", partial=True)
    assert reader.published == {1}
    assert_maps(reader.read([6]), data.maps([6]))
    with pytest.raises(LabelError, match=r"shard 0 .* is not published"):
        reader.read([0, 6])
    for ask in (reader.table, reader.keys):
        with pytest.raises(StoreError, match=r"shard 2 .* is not published"):
            ask(2)


def test_files_that_are_no_shards_are_not_taken_for_one(tmp_path):
    writer = write(tmp_path / "store", sample(3), range(1))
    for name in ("c.1", "c.x.0", "c.2.0.bak", "c.9.0", ".c.2.0.tmp", "c.-1.0", "c"):
        (tmp_path / "store" / "status" / name).touch()
    assert writer.published() == StoreReader(tmp_path / "store", partial=True).published == {0}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "not a relabel store: it has no zarr.json"),
        ({"zarr.json": "{"}, "zarr.json is not JSON"),
        ({"zarr.json": "[]"}, "not that of a zarr v3 group"),
        ({"zarr.json": json.dumps(_GROUP | {"node_type": "array"})}, "not that of a zarr v3 group"),
        ({"zarr.json": json.dumps(_GROUP)}, "no attribute 'relabel'"),
        ({"zarr.json": json.dumps(_GROUP | {"attributes": []})}, "no attribute 'relabel'"),
        (
            {"zarr.json": '{"zarr_format": 3, "node_type": "group", "attributes": {"relabel": {"format": 2}}}'},
            "format 2",
        ),
    ],
)
def test_what_is_no_store_is_refused(tmp_path, made, said):
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(StoreError, match=said) as caught:
        StoreReader(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_not_called_missing(tmp_path):
    (tmp_path / "zarr.json").symlink_to("zarr.json")
    with pytest.raises(StoreError, match=r"zarr.json is damaged: Too many levels of symbolic links"):
        StoreReader(tmp_path)


def test_threads_read_at_once(many):
    path, data = many
    reader = StoreReader(path)
    reader._open.most_opened = 2  # so that they close each other's files all the time
    batches = [np.random.default_rng(seed).choice(data.labeled, 64) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for found, rows in zip(pool.map(reader.read, batches), batches, strict=True):
            assert_maps(found, data.maps(rows))
    reader.read(data.labeled)
    assert len(reader._open.opened) <= 2


def _read_into(queue, reader, rows):
    queue.put(reader.read(rows))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_with_the_reader_of_their_parent(many, method):
    path, data = many
    reader, rows = StoreReader(path), data.labeled[::-1]
    reader.read(rows[:9])
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    worker = context.Process(target=_read_into, args=(queue, reader, rows))
    worker.start()
    found = queue.get()
    worker.join(60)
    assert worker.exitcode == 0
    assert_maps(found, data.maps(rows))
    assert_maps(reader.read(rows), data.maps(rows))


def test_a_pickle_carries_neither_files_nor_maps(many):
    path, data = many
    reader = StoreReader(path)
    fresh = len(pickle.dumps(reader))
    reader.read(data.labeled)
    assert len(pickle.dumps(reader)) == fresh
    assert_maps(pickle.loads(pickle.dumps(reader)).read(data.labeled), data.maps(data.labeled))


_MANY_FILES = """
import resource, sys
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store.samples import assert_maps, sample
from relabel.errors import StoreError
from relabel.store import StoreReader
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
data, reader = sample(200), StoreReader(sys.argv[1])
rows = np.add.outer(np.arange(200)[::-1] * 6, data.rows(0)).reshape(-1)
for _ in range(2):
    assert_maps(reader.read(rows), data.maps(rows % 6))
for number in list(reader._open.opened)[1:]:
    del reader._open.opened[number]
held = []
try:
    while True:
        held.append(open(sys.argv[1] + "/zarr.json"))
except OSError:
    pass
assert_maps(reader.read(rows), data.maps(rows % 6))
try:
    StoreReader(sys.argv[1])
except StoreError as error:
    print(error)
"""


def test_two_hundred_shards_are_read_with_64_descriptors_and_with_none_left(tmp_path):
    path, data = tmp_path / "store", sample(200)
    write(path, data, range(1))
    for array in arrays_of(data.manifest).values():
        for shard in range(1, 200):
            file = path / array.name / array.file_name(shard)
            file.touch() if array.name == "digest" else file.hardlink_to(path / array.name / array.file_name(0))
    seal(path)
    command = [sys.executable, "-c", _MANY_FILES, str(path), str(_TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_TESTS.parent)
    assert done.stderr == ""
    assert "zarr.json: Too many open files" in done.stdout


def test_an_unlimited_number_of_descriptors_is_not_taken_for_none(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    assert OpenShards(id, id, id).most_opened == 512
