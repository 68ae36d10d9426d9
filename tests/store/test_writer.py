"""A shard is published whole or not at all, by one writer, whatever ends the writer and whenever."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store.samples import KINDS, Sample, assert_maps, contents, leftovers, sample, write

from relabel.errors import InvalidValueError, StoreBusyError, StoreError
from relabel.geometry import WHOLE, Footprint
from relabel.manifest import PER_ROW
from relabel.store import StoreReader, StoreWriter, create_or_open
from relabel.store import writer as writing
from relabel.store.locks import lock_file

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@contextlib.contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A forked process that does some work; it is killed in the end, if it has not ended before."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextlib.contextmanager
def disk(at: int = -1, act: Callable[[str, Any], None] | None = None) -> Iterator[list[tuple[str, str]]]:
    """Lists the calls that change the disk, as (call, file); just before number `at` of them, something happens."""
    seen: list[tuple[str, str]] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            seen.append((name, str(args[1]) if name == "replace" else str(Path(f"/proc/self/fd/{args[0]}").readlink())))
            if act is not None and len(seen) - 1 == at:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                act(name, args)
            return real(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "ftruncate", "fsync", "replace"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield seen


def full(*_: object) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


def publish(writer: StoreWriter, data: Sample, shard: int) -> None:
    """Write a shard of a sample."""
    with writer.claim(shard) as claimed:
        claimed.add(data.rows(shard), data.batch(shard, data.rows(shard)))
        claimed.publish(data.table(shard))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """The calls that change the disk while a shard is written, by file of the store."""
    path = tmp_path_factory.mktemp("calls") / "store"
    writer = create_or_open(path, sample().manifest)
    with disk() as seen:
        publish(writer, sample(), 0)
    return [(name, file.removeprefix(f"{path}/")) for name, file in seen]


@pytest.fixture(scope="module", params=["uint8, zstd", "float16, none, a footprint a row"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample, Any]:
    """A store, what is in it, and its files."""
    path, data = tmp_path_factory.mktemp("whole") / "store", sample(**KINDS[request.param])
    write(path, data)
    return path, data, contents(path)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.permutations(sample().rows(1).tolist()),
    cuts=st.lists(st.integers(0, len(sample().rows(1))), max_size=3).map(sorted),
    padded=st.booleans(),
)
def test_the_bytes_of_a_shard_depend_on_its_rows_alone(whole, rows, cuts, padded):
    path, data, before = whole
    for file in path.glob("*/c.1.*"):
        file.unlink()
    with StoreWriter(path, data.manifest).claim(1) as claimed:
        for part in np.split(np.array(rows), cuts):
            claimed.add(part, data.batch(1, part))
        claimed.publish(data.table(1, whole=padded))
    assert contents(path) == before


def test_a_kill_at_any_disk_call_leaves_whole_shards_only(tmp_path, calls):
    data, path = sample(len(calls)), tmp_path / "store"
    write(tmp_path / "reference", data)
    writer = create_or_open(path, data.manifest)
    for at in range(len(calls)):

        def work(at=at):
            with disk(at, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
                publish(writer, data, at)

        with child(work) as pid:
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        reader = StoreReader(path, partial=True)
        # After its name a shard's status only waits for the disk to have it.
        is_published = at == len(calls) - 1
        assert reader.published == set(range(at + is_published))
        if is_published:
            assert_maps(reader.read(data.labeled), data.maps(data.labeled))
        else:
            publish(create_or_open(path, data.manifest), data, at)
    assert contents(path) == contents(tmp_path / "reference")


def test_the_disk_has_a_file_before_its_name_and_all_names_before_status(calls):
    """A power cut may undo only what was not waited for."""
    named = [file for name, file in calls if name == "replace"]
    assert len(named) == 12
    assert named[-1] == "status/c.0.0"
    written: list[tuple[str, str]] = []
    renamed: list[tuple[str, str]] = []
    for file in named:
        folder, _, name = file.partition("/")
        temporary = f"{folder}/.{name}.tmp"
        written += [("ftruncate", temporary), ("write", temporary), ("fsync", temporary)]
        renamed += [("replace", file), ("fsync", folder)]
    # Every file but `status` before any name: what is written again must not be half old.
    expected = [*written[:-3], *renamed[:-2], *written[-3:], *renamed[-2:]]
    assert calls == expected


def test_a_new_store_is_on_the_disk_before_it_has_its_name(tmp_path):
    with disk() as seen:
        create_or_open(tmp_path / "store", sample().manifest)
    synced = [file for name, file in seen if name == "fsync"]
    made = [str(file.relative_to(tmp_path / "store")) for file in (tmp_path / "store").rglob("*")]
    draft = f"{tmp_path}/.store.tmp"
    assert set(synced[:-1]) == {draft, *(f"{draft}/{name}" for name in made)}
    assert synced[-1] == str(tmp_path)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_at_any_call_loses_no_published_shard(tmp_path, calls, call):
    data, path = sample(), tmp_path / "store"
    write(tmp_path / "reference", data)
    writer = write(path, data, range(1))
    # But for the last, when the shard has its name.
    for at in [i for i, (name, _) in enumerate(calls[:-1]) if name == call]:
        said = r"cannot write to .*: No space left on device. Shards published so far are safe"
        with disk(at, full), pytest.raises(StoreError, match=said):
            publish(writer, data, 1)
        assert writer.published() == {0}
        assert list(leftovers(path)) == []
        assert_maps(StoreReader(path, partial=True).read([0, 2]), data.maps([0, 2]))
    publish(writer, data, 1)
    assert contents(path) == contents(tmp_path / "reference")


def test_a_shard_can_be_published_again_after_a_full_disk(tmp_path, calls):
    data, path = sample(), tmp_path / "store"
    write(tmp_path / "reference", data, range(1))
    with create_or_open(path, data.manifest).claim(0) as claimed:
        claimed.add(data.rows(0), data.batch(0, data.rows(0)))
        for at in (1, calls.index(("write", "status/.c.0.0.tmp"))):
            with disk(at, full), pytest.raises(StoreError, match="No space left"):
                claimed.publish(data.table(0, whole=True))
        claimed.publish(data.table(0))
    assert contents(path) == contents(tmp_path / "reference")


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(tmp_path, monkeypatch):
    write(tmp_path / "reference", sample())
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
        write(tmp_path / "store", sample())
    assert contents(tmp_path / "store") == contents(tmp_path / "reference")


def test_a_lock_on_a_file_that_lost_its_name_is_not_taken_for_one(tmp_path, monkeypatch):
    path, real = tmp_path / "lock", fcntl.flock
    renamed = iter([tmp_path / "published"])

    def slow(descriptor, how):
        if (target := next(renamed, None)) is not None:
            path.rename(target)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    lock = lock_file(path, patience_seconds=0)
    assert path.stat().st_ino == os.fstat(lock.descriptor).st_ino
    lock.release()


def test_two_writers_of_one_shard_are_impossible(tmp_path):
    data = sample()
    writer, other = (create_or_open(tmp_path / "store", data.manifest) for _ in range(2))
    with writer.claim(0), other.claim(1):
        for second in (writer, other):
            with pytest.raises(StoreBusyError, match="another process is writing shard 0"):
                second.claim(0, patience_seconds=0.05)
    with other.claim(0):
        pass
    publish(writer, data, 0)
    with pytest.raises(StoreBusyError, match="another process has published shard 0"):
        other.claim(0)
    with pytest.raises(InvalidValueError, match="the store has 2 shards; got shard 2"):
        other.claim(2)
    assert list(leftovers(tmp_path / "store")) == []


def test_many_writers_publish_each_shard_once(tmp_path):
    data = sample(8)
    write(tmp_path / "reference", data)
    path = tmp_path / "store"

    def work():
        writer = create_or_open(path, data.manifest)
        for shard in range(8):
            with contextlib.suppress(StoreBusyError):
                publish(writer, data, shard)
        os._exit(0)

    with contextlib.ExitStack() as stack:
        for pid in [stack.enter_context(child(work)) for _ in range(4)]:
            assert os.waitpid(pid, 0)[1] == 0
    write(path, data, range(0))
    assert contents(path) == contents(tmp_path / "reference")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_killed_writer_lets_go_of_its_shard_though_its_workers_live(tmp_path):
    data = sample()
    writer = create_or_open(tmp_path / "store", data.manifest)
    read_end, write_end = os.pipe()

    def work():
        claimed = create_or_open(tmp_path / "store", data.manifest).claim(0)
        worker = os.fork()
        if worker == 0:
            claimed.close()  # not the worker's to close
            os.write(write_end, os.getpid().to_bytes(4, "little"))
        signal.pause()

    with child(work) as pid:
        worker = int.from_bytes(os.read(read_end, 4), "little")
        try:
            assert list(leftovers(tmp_path / "store")) == ["status/.c.0.0.tmp"]
            with pytest.raises(StoreBusyError):
                writer.claim(0, patience_seconds=0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            writer.claim(0, patience_seconds=5).close()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path):
    data, path = sample(4), tmp_path / "store"
    writer = write(path, data, range(1))
    dead = {"scores/.c.0.0.0.0.0.tmp", "scores/.c.1.0.0.0.0.tmp", "status/.c.1.0.tmp", "key/.c.0.0.tmp"}
    living = {"scores/.c.2.0.0.0.0.tmp", "status/.c.2.0.tmp"}
    foreign = {"scores/.c.x.0.0.0.0.tmp", "status/.c.99.0.tmp", "status/..tmp"}
    with writer.claim(2) as claimed:
        claimed.add(data.rows(2), data.batch(2, data.rows(2)))
        for name in dead | living | foreign:
            (path / name).touch()
        create_or_open(path, data.manifest)
        assert set(leftovers(path)) == living | foreign
        claimed.publish(data.table(2))
    assert set(leftovers(path)) == foreign
    assert writer.published() == {0, 2}


def test_a_shard_that_is_written_again_is_old_missing_or_new_whatever_call_fails(tmp_path, monkeypatch):
    data = sample()
    newer = replace(data.table(1), labels=data.table(1).labels + 1)
    seen = set()

    def rewritten(path, calls):
        """A store whose shard 1 is written again, until the disk is full after so many calls; its contents."""
        write(path, data)
        left = [calls]

        def failing(real):
            def called(*given, **named):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*given, **named)

            return called

        writer = StoreWriter(path, data.manifest)
        with writer.claim(1, again=True) as claimed, monkeypatch.context() as broken:
            claimed.add(data.rows(1), data.batch(1, data.rows(1)))
            for owner, name in ((writing, "write_all"), (writing, "sync"), (Path, "replace")):
                broken.setattr(owner, name, failing(getattr(owner, name)))
            with contextlib.suppress(StoreError):
                claimed.publish(newer)
        return contents(path) if 1 in writer.published() else None

    old, new = rewritten(tmp_path / "old", 0), rewritten(tmp_path / "new", 10**6)
    assert old != new
    for calls in range(1, 40):
        found = rewritten(tmp_path / str(calls), calls)
        seen.add("missing" if found is None else "old" if found == old else "new" if found == new else "mixed")
    assert seen == {"old", "missing", "new"}


def test_a_store_made_otherwise_is_refused_with_the_difference(tmp_path):
    data = sample()
    write(tmp_path / "store", data)
    before = contents(tmp_path / "store")
    other = replace(data.manifest, teacher=replace(data.manifest.teacher, name="another"))
    with pytest.raises(StoreError, match=r"teacher.name: 'by hand' != 'another'\nGive another STORE"):
        create_or_open(tmp_path / "store", other)
    assert contents(tmp_path / "store") == before


def test_something_else_is_not_made_a_store(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(StoreError, match="not a relabel store: something else is there"):
            create_or_open(path, sample().manifest)
    with pytest.raises(StoreError, match=r"cannot write to .*file/store: "):
        create_or_open(tmp_path / "file" / "store", sample().manifest)


def test_a_store_is_made_in_an_empty_folder_behind_a_link_and_below_new_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for path in (tmp_path / "link", tmp_path / "new" / "deep" / "store"):
        write(path, sample())
        assert StoreReader(path).published == {0, 1}
    assert (tmp_path / "link").is_symlink()


def test_a_mount_point_is_refused_with_the_way_out(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(StoreError, match=r"is a mount point .*; give a folder inside it"):
        create_or_open(tmp_path / "store", sample().manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StoreError, match=r"no file locks .* -o flock"):
        create_or_open(tmp_path / "store", sample().manifest)


def test_a_draft_of_a_creator_that_died_is_replaced(tmp_path):
    draft = tmp_path / ".store.tmp"
    (draft / "scores").mkdir(parents=True)
    (draft / "scores" / "c.0.0.0.0.0").touch()
    (draft / "half").touch()
    (tmp_path / ".store.lock").touch()
    write(tmp_path / "store", sample())
    assert not (tmp_path / "store" / "half").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert StoreReader(tmp_path / "store").published == {0, 1}


@pytest.fixture
def claimed(tmp_path):
    """A claimed shard of `sample(footprint=PER_ROW)`."""
    with create_or_open(tmp_path / "store", sample(footprint=PER_ROW).manifest).claim(0) as writer:
        yield writer


@pytest.mark.parametrize(
    ("rows", "change", "said"),
    [
        ([0, 6], {}, r"rows must lie in \[0, 6\); got 0 .. 6"),
        ([0, -1], {}, r"rows must lie in \[0, 6\); got -1 .. 0"),
        ([2, 2], {}, "each row of shard 0 can be added once"),
        ([3, 4], {}, "each row of shard 0 can be added once"),
        ([0, 2], {"footprint": WHOLE}, r"this store has a footprint per row; got Footprint\("),
        ([0, 2], {"scores": np.zeros((2, 4, 4, 5), np.int16)}, "scores must be .* of uint8; got .* of int16"),
        ([0, 2], {"classes": np.zeros((2, 6), np.uint16)}, r"classes must be \(2, 7\) of uint16; got \(2, 6\)"),
        ([0, 2], {"footprint": np.zeros((2, 4))}, "footprint must be .* of float32; got .* of float64"),
    ],
)
def test_maps_that_do_not_fit_are_refused(claimed, rows, change, said):
    data = sample(footprint=PER_ROW)
    claimed.add([4], data.batch(0, np.array([4])))
    with pytest.raises(InvalidValueError, match=said):
        claimed.add(np.array(rows), replace(data.batch(0, np.array([0, 2])), **change))


@pytest.mark.parametrize(
    ("footprint", "what"),
    [(np.zeros((1, 4), np.float32), "one per row"), (Footprint(0.0, 0.0, 0.5, 1.0), r"Footprint\(.*x1=0\.5")],
)
def test_a_footprint_that_would_be_lost_is_refused(tmp_path, footprint, what):
    with create_or_open(tmp_path / "store", sample().manifest).claim(0) as claimed:
        batch = replace(sample().batch(0, np.array([0])), footprint=footprint)
        with pytest.raises(InvalidValueError, match=f"this store has one footprint for all rows, .*got {what}"):
            claimed.add([0], batch)


def test_tables_and_maps_must_agree(claimed):
    data = sample(footprint=PER_ROW)
    with pytest.raises(InvalidValueError, match="got 6 rows, 5 labelled and 0 maps"):
        claimed.publish(data.table(0))
    claimed.add(data.rows(0), data.batch(0, data.rows(0)))
    table = data.table(0)
    with pytest.raises(InvalidValueError, match=r"UTF-8, which cannot say 'a/\\udcff.jpg'"):
        claimed.publish(replace(table, keys=["a/\udcff.jpg", *table.keys[1:]]))
    with pytest.raises(InvalidValueError, match="got 7 rows"):
        claimed.publish(sample(rows=7, footprint=PER_ROW).table(0))
    with pytest.raises(InvalidValueError, match=r"labels of int32.*; got uint64, int64, uint32, uint8, uint8"):
        replace(table, labels=table.labels.astype(np.int64))
    claimed.publish(table)
    for again in (lambda: claimed.publish(table), lambda: claimed.add([0], data.batch(0, np.array([0])))):
        with pytest.raises(StoreError, match="shard 0 was published or closed before"):
            again()
