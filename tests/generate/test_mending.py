"""A store that lost or broke files is finished by the command that made it, and is then the same as ever."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from generating import make_teacher, options, write_tars
from store.samples import contents

from relabel.errors import ManifestMismatchError, StoreError
from relabel.generate import GenerateSummary, generate
from relabel.verify import ShardsOptions, verify_shards

COUNTS = (3, 2, 3, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Images, and a store of them."""
    folder = tmp_path_factory.mktemp("mending")
    tars = write_tars(folder / "tars", COUNTS)
    generate(tars, folder / "whole", make_teacher(), options())
    return tars, folder / "whole"


@pytest.fixture
def store(made: tuple[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "store"))


def again(made: tuple[str, Path], store: Path, **given: object) -> GenerateSummary:
    """The same run once more; afterwards the store is as it was at first."""
    summary = generate(made[0], store, make_teacher(), options(**given))
    assert contents(store) == contents(made[1])
    assert verify_shards(store, show_progress=False, workers=1).is_clean
    return summary


def lost(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_socket(file: Path) -> None:
    file.unlink()
    # Its name may be longer than a socket's address.
    here = os.open(file.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/{file.name}")
    os.close(here)


def a_link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def a_link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def another_shards(file: Path) -> None:
    file.write_bytes(next(file.parent.glob("c.2.*")).read_bytes())


@pytest.mark.parametrize(
    "damage", [lost, cut, emptied, a_folder, a_pipe, a_socket, a_link_to_nothing, a_link_to_itself, another_shards]
)
def test_shards_whose_files_are_broken_are_labelled_again_and_no_others(
    made: tuple[str, Path], store: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for shard, array in ((0, "scores"), (1, "status"), (3, "digest")):
        damage(next((store / array).glob(f"c.{shard}.*")))
    untouched = (store / "scores/c.2.0.0.0.0").stat().st_ino
    summary = again(made, store)
    assert (store / "scores/c.2.0.0.0.0").stat().st_ino == untouched
    assert (summary.shards_published, summary.shards_skipped) == (3, 1)
    # A shard without a status is only missing.
    told = {failure.shard: failure.reason for failure in summary.broken}
    assert told.keys() == ({0, 3} if damage is lost else {0, 1, 3})
    assert ("do not belong together" if damage is another_shards else "scores/c.0.0.0.0.0") in told[0]
    assert f"{len(told)} shards that were published are broken" in caplog.text
    assert again(made, store).had_nothing_to_do


def test_each_process_of_a_run_mends_its_share(made: tuple[str, Path], store: Path) -> None:
    for shard in range(4):
        lost(store / f"key/c.{shard}.0")
    parts = [
        generate(made[0], store, make_teacher(), options(rank=rank, world_size=2, retry_failed=True)) for rank in (0, 1)
    ]
    assert [len(part.broken) for part in parts] == [2, 2]
    assert contents(store) == contents(made[1])


@pytest.mark.parametrize("damage", [lost, cut, a_folder, a_pipe, a_link_to_itself])
def test_the_metadata_of_arrays_and_of_the_store_is_made_anew(
    made: tuple[str, Path], store: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("zarr.json", "scores/zarr.json", "status/zarr.json"):
        damage(store / name)
    assert again(made, store).had_nothing_to_do


def test_a_whole_array_that_is_gone_is_made_anew(made: tuple[str, Path], store: Path) -> None:
    shutil.rmtree(store / "label")
    assert len(again(made, store).broken) == 4


def test_the_metadata_of_a_store_that_is_none_of_this_run_is_left_alone(made: tuple[str, Path], store: Path) -> None:
    (store / "zarr.json").unlink()
    before = contents(store)
    with pytest.raises(StoreError, match="known by any finished shard of this teacher"):
        generate(made[0], store, make_teacher(), options(planes=2))
    assert contents(store) == before


@pytest.mark.parametrize("other", [{"record": {"name": "another"}}, {"planes": 2}])
def test_a_manifest_of_another_run_costs_no_label(made: tuple[str, Path], store: Path, other: dict[str, Any]) -> None:
    theirs = store.with_name("theirs")
    given = {name: value for name, value in other.items() if name != "record"}
    generate(made[0], theirs, make_teacher(record=other.get("record", {})), options(**given))
    shutil.copy(theirs / "zarr.json", store)
    before = contents(store)
    for copy in (None, theirs):
        if copy is None or given:
            mend = ShardsOptions(repair=True, copy=None if copy is None else str(copy))
            try:
                report = verify_shards(store, options=mend, show_progress=False, workers=1)
                assert report.repair.retracted == []
                told = [finding.what for finding in report.repair.unmended]
            except StoreError as error:
                told = [str(error)]
            assert any("no shard belongs to this zarr.json" in what for what in told)
            assert contents(store) == before
    # Its own copy restores it, and so does the command that made it.
    mine = ShardsOptions(repair=True, copy=str(made[1]))
    assert verify_shards(store, options=mine, show_progress=False, workers=1).is_good
    assert contents(store) == contents(made[1])
    shutil.copy(theirs / "zarr.json", store)
    assert again(made, store).had_nothing_to_do
    # Where any shard is theirs, the store is, although another is this run's.
    for file in made[1].glob("*/c.0.*"):
        shutil.copy(file, theirs / file.parent.name)
    with pytest.raises(ManifestMismatchError):
        generate(made[0], theirs, make_teacher(), options())


def test_a_folder_that_is_not_empty_is_named_and_never_deleted(made: tuple[str, Path], store: Path) -> None:
    a_folder(store / "scores/c.1.0.0.0.0")
    (store / "scores/c.1.0.0.0.0/mine.txt").write_text("mine")
    lost(store / "label/c.2.0")
    before = contents(store)
    report = verify_shards(store, options=ShardsOptions(repair=True), show_progress=False, workers=1)
    assert report.repair.retracted == [2]
    assert any("is a folder that is not empty" in found.what for found in report.repair.unmended)
    summary = generate(made[0], store, make_teacher(), options())
    (failure,) = summary.failures
    assert (failure.shard, failure.key, summary.is_good, summary.shards_published) == (1, "", False, 1)
    assert "c.1.0.0.0.0 is a folder that is not empty" in failure.reason
    assert before.items() <= contents(store).items()
    assert (store / "scores/c.1.0.0.0.0/mine.txt").read_text() == "mine"
    shutil.rmtree(store / "scores/c.1.0.0.0.0")
    again(made, store)


@pytest.mark.parametrize("damage", [lost, a_pipe, a_link_to_nothing, a_folder])
def test_what_a_dead_run_left_is_removed_and_never_written_through(
    made: tuple[str, Path], store: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("scores/.c.0.0.0.0.0.tmp", "status/.c.0.0.tmp", "../.store.lock", "../.store.tmp"):
        (store / name).touch()
        damage(store / name)
    lost(store / "key/c.0.0")
    again(made, store)
    assert {file.name for file in store.parent.iterdir()} == {"store"}
    assert not (store / "status/nowhere").exists()
