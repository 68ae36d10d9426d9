"""What takes the place of a store or a shard, before or after it was opened, is never served in its stead."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from store.samples import KINDS, assert_maps, sample, write

from relabel.errors import DamagedStoreError, InvalidValueError, ReplacedStoreError, StoreError
from relabel.store import StoreReader

_KINDS = {name: KINDS[name] for name in ("uint8, zstd", "float16, none, a footprint a row")}


def _swap(one: Path, other: Path) -> None:
    away = one.with_name("away")
    one.rename(away)
    other.rename(one)
    away.rename(other)


def _again(path: Path, data, shard: int) -> None:
    """Label a shard again."""
    writer = write(path, data, range(0))
    with writer.claim(shard, again=True) as claimed:
        claimed.add(data.rows(shard), data.batch(shard, data.rows(shard)))
        claimed.publish(data.table(shard))


@pytest.mark.parametrize("kind", _KINDS.values(), ids=_KINDS)
def test_no_file_of_another_shard_run_or_store_is_used(tmp_path, kind):
    data, other = sample(**kind), sample(seed=1, **kind)
    stranger = replace(data, manifest=replace(data.manifest, flip_average=True))
    for name, each in {"store": data, "anew": other, "stranger": stranger}.items():
        write(tmp_path / name, each)
    store = tmp_path / "store"
    for array in StoreReader(store).arrays.values():
        own = store / array.name / array.file_name(0)
        foreign = [store / array.name / array.file_name(1)]
        foreign += [tmp_path / name / array.name / array.file_name(0) for name in ("anew", "stranger")]
        whole = own.read_bytes()
        for file in foreign:
            # The second store has the same teacher, shards and keys, and some of its files say the same.
            if file.read_bytes() == whole:
                continue
            own.unlink()
            shutil.copyfile(file, own)
            for ask in (lambda r: r.read([0]), lambda r: r.keys(0), lambda r: r.statuses(0), lambda r: r.table(0)):
                with pytest.raises(DamagedStoreError, match=r"shard 0 do not belong together, .* --repair"):
                    ask(StoreReader(store))
            assert_maps(StoreReader(store).read([6]), data.maps([6]))
        own.unlink()
        own.write_bytes(whole)
    StoreReader(store).check(0)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_row_of_another_place_is_refused_whatever_the_files_say(tmp_path, compression):
    data = sample(compression=compression)
    write(tmp_path / "store", data)
    reader = StoreReader(tmp_path / "store")
    checksum = reader._open.map(0).checksum.copy()
    checksum[[0, 2]] = checksum[[2, 0]]
    reader._open.mapped[0] = replace(reader._open.map(0), checksum=checksum)
    assert_maps(reader.read([3, 6]), data.maps([3, 6]))
    with pytest.raises(DamagedStoreError, match="row 2: its map is that of another row or run"):
        reader.read([3, 2, 6])


@pytest.mark.parametrize("file", ["scores/c.0.0.0.0.0", "key/c.0.0", "status/c.0.0", "digest/c.0.0.0"])
def test_a_check_names_what_is_cut_or_missing(tmp_path, file):
    write(tmp_path / "store", sample())
    path = tmp_path / "store" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedStoreError, match=f"{file} is damaged"):
        StoreReader(tmp_path / "store", partial=True).check(0)
    path.unlink()
    reader = StoreReader(tmp_path / "store", partial=True)
    said = "shard 0 .* is not published" if "status" in file else f"{file}: No such file"
    with pytest.raises(StoreError, match=said):
        reader.check(0)
    reader.check(1)


@pytest.mark.parametrize("travels", [lambda reader: reader, lambda reader: pickle.loads(pickle.dumps(reader))])
@pytest.mark.parametrize("how", ["order", "teacher", "anew", "deleted", "again", "no store"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_what_is_opened_later_is_of_what_was_opened_first(tmp_path, how, travels, compression, monkeypatch):
    monkeypatch.setattr("relabel.store.descriptors.LOOK_SECONDS", np.inf)
    data, path = sample(3, compression=compression), tmp_path / "store"
    write(path, data)
    reader = StoreReader(path)
    keys = [reader.keys(shard) for shard in range(3)]
    assert_maps(reader.read([0]), data.maps([0]))
    manifest = data.manifest
    if how == "order":
        manifest = replace(manifest, data=replace(manifest.data, shards=manifest.data.shards[::-1]))
    if how == "teacher":
        manifest = replace(manifest, teacher=replace(manifest.teacher, name="another"))
    new = replace(sample(3, seed=1, compression=compression), manifest=manifest)
    if how == "deleted":
        shutil.rmtree(path)
    elif how == "again":
        _again(path, new, 0)
    elif how == "no store":
        path.rename(tmp_path / "away")
        path.mkdir()
    else:
        write(tmp_path / "new", new)
        _swap(path, tmp_path / "new")
    # What it holds it may serve.
    assert_maps(reader.read([0]), data.maps([0]))
    reader._open.opened.clear()
    said = {"order": "replaced", "teacher": "replaced", "anew": "made anew", "again": "shard 0 was labelled again"}
    for each in (reader, travels(reader)):
        with pytest.raises(ReplacedStoreError, match=said.get(how, "gone, or no store any more")):
            each.read([2])
    if how != "again":
        with pytest.raises(ReplacedStoreError):
            reader.read([12])
    else:
        assert_maps(reader.read([12]), data.maps([12]))
        assert reader.keys(2) == keys[2]


def _write_and_open(path: Path, data, monkeypatch) -> StoreReader:
    """A store, open and read, of which each reading looks whether its files were written into."""
    write(path, data)
    for file in path.rglob("*"):
        os.utime(file, (0, 0))  # what is written later has another time, however soon
    monkeypatch.setattr("relabel.store.descriptors.LOOK_SECONDS", 0.0)
    reader = StoreReader(path)
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))
    return reader


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_store_that_is_copied_over_an_open_one_is_not_served(tmp_path, compression, monkeypatch):
    data, path = sample(compression=compression), tmp_path / "store"
    manifest = replace(data.manifest, data=replace(data.manifest.data, shards=data.manifest.data.shards[::-1]))
    write(tmp_path / "new", replace(sample(seed=1, compression=compression), manifest=manifest))
    reader = _write_and_open(path, data, monkeypatch)
    inode = (path / "classes" / "c.0.0.0").stat().st_ino
    shutil.copytree(tmp_path / "new", path, dirs_exist_ok=True)
    assert (path / "classes" / "c.0.0.0").stat().st_ino == inode
    for _ in range(2):
        for row in data.labeled:
            with pytest.raises(ReplacedStoreError, match="the store was replaced by another"):
                reader.read([row])


@pytest.mark.parametrize("array", ["classes", "profile", "checksum", "scores"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_file_that_is_copied_over_an_open_one_is_not_served(tmp_path, array, compression, monkeypatch):
    data, path = sample(compression=compression), tmp_path / "store"
    write(tmp_path / "new", replace(sample(seed=1, compression=compression), manifest=data.manifest))
    reader = _write_and_open(path, data, monkeypatch)
    name = f"{array}/{reader.arrays[array].file_name(0)}"
    whole = (path / name).read_bytes()
    shutil.copyfile(tmp_path / "new" / name, path / name)
    for rows in ([0], [0], data.labeled):
        with pytest.raises(DamagedStoreError, match="shard 0 do not belong together"):
            reader.read(rows)
    assert_maps(reader.read([6]), data.maps([6]))
    # The same content is the same shard.
    (path / name).write_bytes(whole)
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))
    (path / name).write_bytes(whole)
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))


def test_files_are_looked_at_once_in_a_while(tmp_path, monkeypatch):
    data, clock, looked = sample(), [100.0], []
    write(tmp_path / "store", data)
    monkeypatch.setattr("relabel.store.descriptors.time.monotonic", lambda: clock[0])
    reader = StoreReader(tmp_path / "store")
    monkeypatch.setattr(reader._open, "_is_kept", lambda shard: looked.append(shard) or True)
    for moment, rows in ((100, [0, 6]), (100.5, [0, 2]), (100.9, [6]), (101, [6, 0, 8]), (101.5, [0])):
        clock[0] = moment
        assert_maps(reader.read(rows), data.maps(rows))
    assert looked == [0, 1, 0, 1]


def test_a_shard_that_is_being_labelled_again_is_not_called_damaged(tmp_path):
    data, path = sample(), tmp_path / "store"
    write(path, data)
    reader = StoreReader(path)
    reader.check(1)
    (path / "status" / "c.0.0").unlink()
    with pytest.raises(ReplacedStoreError, match="a file of shard 0 is gone, as while it is labelled again"):
        reader.read([0])
    assert_maps(reader.read([6]), data.maps([6]))


def test_a_copy_and_a_restored_store_are_the_store(tmp_path):
    data, path = sample(), tmp_path / "store"
    write(path, data)
    reader = StoreReader(path)
    reader.read(data.labeled)
    shutil.copytree(path, tmp_path / "copy")
    _swap(path, tmp_path / "copy")
    again = pickle.loads(pickle.dumps(reader))
    assert_maps(again.read(data.labeled), data.maps(data.labeled))
    reader._open.mapped.clear()
    reader._open.opened.clear()
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))


def test_an_evicted_shard_is_opened_again_without_its_checksums(tmp_path, monkeypatch):
    data, path = sample(8), tmp_path / "store"
    write(path, data)
    reader = StoreReader(path)
    monkeypatch.setattr("relabel.store.descriptors.MOST_MAPPED", 3)
    rows = np.random.default_rng(0).permutation(np.repeat(data.labeled, 3))
    reader.read(data.labeled)
    monkeypatch.setattr(reader._belonging, "check", None)
    monkeypatch.setattr("relabel.store.codecs.CRC32C.content", None)
    for row in rows:
        assert_maps(reader.read([row]), data.maps([row]))
        assert len(reader._open.mapped) <= 3


def test_a_store_is_pinned_by_its_digest(tmp_path):
    data, other = sample(), sample(seed=1)
    digests = {}
    for name, each in {"store": data, "anew": other}.items():
        write(tmp_path / name, each)
        bound = b"".join((tmp_path / name / f"digest/c.{shard}.0.0").read_bytes()[:64] for shard in (0, 1))
        digests[name] = hashlib.sha256(each.manifest.identity() + bound).hexdigest()
        assert StoreReader(tmp_path / name).digest() == digests[name]
    reader = StoreReader(tmp_path / "store", digest=digests["store"])
    assert_maps(reader.read(data.labeled), data.maps(data.labeled))
    with pytest.raises(StoreError, match=f"its digest is {digests['anew']}, and not {digests['store']}"):
        StoreReader(tmp_path / "anew", digest=digests["store"])
    with pytest.raises(InvalidValueError, match=r"64 hexadecimal digits .* got 'ABC'"):
        StoreReader(tmp_path / "store", digest="ABC")
    # Each shard is bound, though none of its files was read.
    pinned = StoreReader(tmp_path / "store", digest=digests["store"])
    _again(tmp_path / "store", other, 1)
    with pytest.raises(ReplacedStoreError, match="shard 1 was labelled again"):
        pinned.read([6])
    (tmp_path / "store" / "status" / "c.1.0").unlink()
    with pytest.raises(StoreError, match="has no digest before it is finished: 1 of its 2 shards are not published"):
        StoreReader(tmp_path / "store", partial=True, digest=digests["store"])


def test_a_want_of_anything_is_never_told_as_damage(tmp_path, monkeypatch):
    data, path = sample(3), tmp_path / "store"
    write(path, data)
    for what, advice in ((errno.ENOMEM, "vm.max_map_count"), (errno.EMFILE, "ulimit -n"), (errno.EAGAIN, "ulimit -l")):
        reader = StoreReader(path)
        reader.read([0, 6])

        def wanting(*_, what=what, **__):
            raise RuntimeError(f"unable to mmap 7 bytes from file <x>: {os.strerror(what)} ({what})")

        with monkeypatch.context() as patch:
            patch.setattr(torch, "from_file", wanting)
            with pytest.raises(StoreError, match=f"{os.strerror(what)}. .*{advice}") as caught:
                reader.read([12])
        assert not isinstance(caught.value, (DamagedStoreError, ReplacedStoreError))
        # Half of what was held was let go of, for more.
        assert len(reader._open.mapped) == 0
        assert_maps(reader.read([0, 6, 12]), data.maps([0, 6, 12]))
