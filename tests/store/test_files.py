"""A store behind a URL reads like one in a folder, from copies that are never half, stale or another store's."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from store.samples import Sample, assert_maps, assert_tables, sample, write

from relabel.errors import DamagedStoreError, ReplacedStoreError, StoreError
from relabel.store import StoreReader, read_manifest
from relabel.store.files import store_files

_MEMORY = type(fsspec.filesystem("memory"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where copies go."""
    monkeypatch.setenv("RELABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def upload(tmp_path):
    """Writes a sample to memory://store, in place of what was there."""
    system = fsspec.filesystem("memory")

    def put(data: Sample) -> str:
        path = tmp_path / f"local{len(list(tmp_path.iterdir()))}"
        write(path, data)
        if system.exists("/store"):
            system.rm("/store", recursive=True)
        system.put(str(path), "/store", recursive=True)
        return "memory://store"

    yield put
    system.rm("/store", recursive=True)


def _assert_whole(reader: StoreReader, data: Sample) -> None:
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))
    for shard in range(reader.num_shards):
        assert_tables(reader.table(shard), data.table(shard, whole=True))


def _assert_rows(reader: StoreReader, data: Sample, shard: int) -> None:
    rows = shard * reader.rows_per_shard + data.rows(shard)
    assert_maps(reader.read(rows), data.maps(rows))


def test_rows_come_from_memory_and_from_file_urls(tmp_path, upload):
    data = sample()
    url = upload(data)
    write(tmp_path / "store", data)
    for where in (url, url + "/", f"file://{tmp_path}/store"):
        reader = StoreReader(where)
        _assert_whole(reader, data)
        assert reader.files.size_bytes() == StoreReader(tmp_path / "store").files.size_bytes()
        assert read_manifest(where) == data.manifest
        _assert_whole(pickle.loads(pickle.dumps(reader)), data)


def test_each_file_is_copied_once_by_all_workers_together(upload, monkeypatch):
    data = sample()
    url, copied = upload(data), []
    start = threading.Barrier(6)

    def counted(self, source, target, **options):
        copied.append(source.rpartition("/store/")[2])
        return real(self, source, target, **options)

    def work(_):
        reader = StoreReader(url)
        start.wait()
        _assert_whole(reader, data)

    real = _MEMORY.get_file
    monkeypatch.setattr(_MEMORY, "get_file", counted)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    _assert_whole(StoreReader(url), data)
    assert sorted(copied) == sorted(set(copied))
    assert "scores/c.1.0.0.0.0" in copied


def test_another_store_in_the_place_of_the_first_is_not_mistaken_for_it(upload):
    first, second = sample(seed=1), sample(seed=2, num_classes=51)
    _assert_whole(StoreReader(upload(first)), first)
    _assert_whole(StoreReader(upload(second)), second)


def test_another_store_is_not_mixed_with_the_copies_of_the_first(upload):
    first = sample(seed=1)
    reader = StoreReader(upload(first))
    assert reader.keys(0) == first.arrays["key"][0].tolist()
    _assert_rows(reader, first, 1)
    upload(sample(seed=2, num_classes=51))
    with pytest.raises(ReplacedStoreError, match="the store was replaced by another"):
        reader.read([0])
    _assert_rows(reader, first, 1)
    # One that says the same.
    reader = StoreReader(upload(first))
    reader.keys(0)
    upload(replace(sample(seed=3), manifest=first.manifest))
    with pytest.raises(ReplacedStoreError, match="shard 0 was labelled again"):
        reader.read([0])


def test_a_store_with_the_same_manifest_takes_the_place_of_the_first_and_of_its_copies(upload, cache):
    first = sample(seed=1)
    second = replace(sample(seed=2), manifest=first.manifest)
    url = upload(first)
    opened, pins = StoreReader(url), [StoreReader(url).digest()]
    opened.keys(0)
    _assert_whole(StoreReader(url), first)
    upload(second)
    # All of its copies are there.
    _assert_rows(opened, first, 0)
    _assert_whole(StoreReader(url), second)
    bound = StoreReader(upload(first))
    bound.digest()
    upload(second)
    _assert_whole(StoreReader(url), second)
    for reader in (bound, pickle.loads(pickle.dumps(bound))):
        for row in (0, 6):
            with pytest.raises(ReplacedStoreError, match="was labelled again"):
                reader.read([row])
    pins.append(StoreReader(url).digest())
    assert pins[0] != pins[1]
    _assert_whole(StoreReader(url, digest=pins[1]), second)
    with pytest.raises(StoreError, match=f"digest is {pins[1]}, and not {pins[0]}.* copies are in {cache}"):
        StoreReader(url, digest=pins[0])


def test_digests_of_all_shards_are_asked_for_at_once_and_once(upload, monkeypatch):
    data, asked = sample(3), []
    url, real = upload(data), _MEMORY.cat_ranges

    def counted(self, paths, *args, **options):
        asked.append(len(paths))
        return real(self, paths, *args, **options)

    monkeypatch.setattr(_MEMORY, "cat_ranges", counted)
    reader = StoreReader(url)
    reader.keys(1)
    _assert_whole(reader, data)
    _assert_whole(pickle.loads(pickle.dumps(reader)), data)
    assert asked == [3]
    StoreReader(url).digest()
    assert asked == [3, 3]
    StoreReader(url).read([0])
    assert asked == [3, 3, 1]


def test_copies_of_several_stores_are_copied_again(tmp_path, upload, cache):
    data = sample(seed=1)
    write(tmp_path / "other", replace(sample(seed=2), manifest=data.manifest))
    url = upload(data)
    for has_read_keys in (False, True):
        reader = StoreReader(url)
        reader.check(0)
        (copy,) = cache.glob("*/key/c.0.0")
        copy.unlink()
        copy.write_bytes((tmp_path / "other" / "profile" / "c.0.0.0").read_bytes())
        reader = StoreReader(url)
        if has_read_keys:
            reader.digest()
            with pytest.raises(ReplacedStoreError, match=f"copies of shard 0 in {cache}.* were of several stores"):
                reader.read([0])
        _assert_whole(StoreReader(url), data)


def test_shards_published_later_are_seen(tmp_path, upload):
    data = sample()
    url = upload(data)
    system = fsspec.filesystem("memory")
    system.mv("/store/status/c.1.0", "/store/later")
    assert StoreReader(url, partial=True).published == {0}
    system.mv("/store/later", "/store/status/c.1.0")
    _assert_whole(StoreReader(url), data)


def test_what_is_missing_there_is_named(upload):
    system, url = fsspec.filesystem("memory"), upload(sample())
    reader = StoreReader(url)
    system.rm("/store/scores/c.0.0.0.0.0")
    with pytest.raises(DamagedStoreError, match=r"memory://store lacks 1 files .*scores/c.0.0.0.0.0"):
        StoreReader(url)
    with pytest.raises(DamagedStoreError, match=r"memory://store lacks the file scores/c.0.0.0.0.0"):
        reader.read([0])
    system.rm("/store/scores", recursive=True)
    assert store_files(url).names("scores") == set()
    system.rm("/store/zarr.json")
    with pytest.raises(StoreError, match=r"memory://store is not a relabel store: it has no zarr.json"):
        StoreReader(url)


def test_a_damaged_copy_says_where_it_is(upload, cache):
    reader = StoreReader(upload(sample()))
    reader.read([0])
    (copy,) = cache.glob("*/scores/c.0.0.0.0.0")
    whole = copy.read_bytes()
    # There, too: else it would be copied once more.
    fsspec.filesystem("memory").pipe("/store/scores/c.0.0.0.0.0", bytes([whole[0] ^ 1]) + whole[1:])
    copy.unlink()
    with pytest.raises(DamagedStoreError, match=f"delete {copy.parents[1]}"):
        StoreReader("memory://store").read([0])


def test_a_copy_that_was_cut_is_not_kept(upload, cache, monkeypatch):
    data = sample()
    url = upload(data)
    with monkeypatch.context() as patch:
        patch.setattr(_MEMORY, "get_file", lambda self, source, target, **_: Path(target).write_bytes(b"half"))
        with pytest.raises(StoreError, match=r"cannot copy memory://store/.*zarr.json to .*: got 4 of \d+ bytes"):
            StoreReader(url)
    assert [file for file in cache.rglob("*") if file.is_file()] == []
    _assert_whole(StoreReader(url), data)


def test_copies_are_private(upload, cache):
    StoreReader(upload(sample())).read([0])
    for file in cache.rglob("*"):
        if file.is_file():
            assert (file.stat().st_mode | file.parent.stat().st_mode) & 0o077 == 0
            assert not file.name.startswith(".")


def test_errors_of_a_file_system_become_ours(upload, monkeypatch, tmp_path):
    url = upload(sample())

    class TeapotError(Exception):
        """As HTTP clients have them."""

    def refuse(*_, **__):
        raise TeapotError("418")

    reader = StoreReader(url)
    for name, doing in {"cat_file": "open memory://store", "ls": "list memory://store/classes"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(_MEMORY, name, refuse)
            with pytest.raises(StoreError, match=f"cannot {doing}: 418"):
                StoreReader(url)
    monkeypatch.setattr(_MEMORY, "get_file", refuse)
    with pytest.raises(StoreError, match=r"cannot copy memory://store/classes/c.0.0.0 to .*: 418"):
        reader.read([0])
    monkeypatch.setattr(_MEMORY, "cat_file", refuse)
    with pytest.raises(StoreError, match=r"cannot read memory://store/digest/c.1.0.0: 418"):
        reader.read([6])
    with pytest.raises(StoreError, match="cannot open nonsense://store: Protocol not known"):
        StoreReader("nonsense://store")


def test_a_cache_that_cannot_be_written_is_said(upload, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RELABEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot copy memory://store/.*zarr.json to .*/file/"):
        StoreReader(upload(sample()))
