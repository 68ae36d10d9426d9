"""A repair retracts what was found and nothing else, restores it from a copy that is whole, and says what is left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import parsed, run
from store.samples import contents
from stores import change_manifest

from relabel.errors import InvalidValueError, StoreError
from relabel.store import StoreReader, StoreWriter
from relabel.verify import ShardsOptions, ShardsReport, verify_shards

REPAIR = ShardsOptions(repair=True)


def repaired(store: Path, copy: Path | None = None, **given: str) -> ShardsReport:
    options = ShardsOptions(repair=True, copy=None if copy is None else str(copy), **given)
    return verify_shards(store, options=options, workers=2, show_progress=False)


def flip(file: Path, at: int = -9) -> None:
    """Change a byte."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.fixture
def copy(store: Path) -> Path:
    """The store as it was."""
    return Path(shutil.copytree(store, store.with_name("copy.zarr")))


def test_a_damaged_shard_is_retracted_and_the_others_are_left(store: Path, copy: Path) -> None:
    flip(store / "label/c.1.0")
    report = repaired(store)
    assert (report.damaged, report.repair.retracted, report.is_good) == ((1,), [1], False)
    whole = contents(copy)
    assert contents(store) == {name: data for name, data in whole.items() if not name.split("/")[-1].startswith("c.1.")}
    # Once more, there is nothing to retract.
    assert (repaired(store).repair.retracted, repaired(store).repair.missing) == ([], [1])


def test_what_is_damaged_or_missing_is_restored_from_a_copy(store: Path, copy: Path) -> None:
    flip(store / "scores/c.0.0.0.0.0")
    (store / "status/c.1.0").unlink()
    (store / "label/zarr.json").write_text("{}")
    report = repaired(store, copy)
    assert (report.repair.restored, report.repair.remade, report.is_good) == ([0, 1], ["label/zarr.json"], True)
    assert not report.is_clean
    assert contents(store) == contents(copy)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), flip])
def test_the_stores_own_metadata_is_restored_from_a_copy_of_it_and_of_no_other(
    store: Path, copy: Path, damage: Callable[[Path], None]
) -> None:
    damage(store / "zarr.json")
    with pytest.raises(StoreError):
        repaired(store)
    other = Path(shutil.copytree(copy, store.with_name("other.zarr")))
    change_manifest(other, teacher__name="another")
    with pytest.raises(StoreError):
        repaired(store, other)
    assert repaired(store, copy).is_good
    assert contents(store) == contents(copy)


def test_a_copy_that_is_damaged_too_or_of_another_run_restores_nothing(store: Path, copy: Path) -> None:
    flip(store / "label/c.1.0")
    before = contents(store)
    flip(copy / "scores/c.1.0.0.0.0")
    report = repaired(store, copy)
    assert "the copy's shard is damaged or missing, too" in {finding.what for finding in report.repair.unmended}
    change_manifest(copy, teacher__name="another")
    with pytest.raises(StoreError, match=r"is no copy of the store.*\n.*teacher\.name"):
        repaired(store, copy)
    assert contents(store) == before


def test_a_shard_that_another_process_writes_is_left_alone(store: Path) -> None:
    flip(store / "label/c.1.0")
    before = contents(store)
    with StoreWriter(store, StoreReader(store).manifest).claim(1, again=True):
        report = repaired(store)
    assert (report.repair.left_alone, report.repair.retracted, report.is_good) == ([1], [], False)
    assert contents(store) == before


def test_leftovers_are_removed_and_what_a_user_put_there_is_not(store: Path) -> None:
    (store / "label/.c.0.0.tmp").touch()
    (store / "notes.txt").write_text("mine")
    (store.parent / ".labels.zarr.lock").touch()
    report = repaired(store)
    assert [f.what.partition(" ")[0] for f in report.findings] == ["label/.c.0.0.tmp", "notes.txt"]
    assert [f.what.partition(" ")[0] for f in report.repair.unmended] == ["notes.txt"]
    assert {file.name for file in store.parent.iterdir()} == {"labels.zarr"}
    assert (store / "notes.txt").read_text() == "mine"


def test_nothing_is_retracted_for_what_labelling_does_not_mend(store: Path, tmp_path: Path) -> None:
    change_manifest(store, data__fingerprint="0" * 32)
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "photos/a/0.jpg").write_bytes(b"other bytes")
    before = contents(store)
    report = verify_shards(store, str(tmp_path / "photos"), REPAIR, workers=1, show_progress=False)
    assert len(report.findings) > 3
    assert report.repair.unmended == sorted(report.findings)
    assert contents(store) == before


def test_a_store_that_nothing_can_make_again_is_only_restored(store: Path, copy: Path) -> None:
    for one in (store, copy):
        change_manifest(one, data__kind="written")
    flip(store / "label/c.1.0")
    (store / "status/c.0.0").unlink()
    before = contents(store)
    report = repaired(store)
    done = report.repair
    assert (done.retracted, done.missing, report.is_good, contents(store) == before) == ([], [], False, True)
    assert any("nothing labels a store again that relabel.write made" in found.what for found in done.unmended)
    shown = run("verify", "shards", store, "--quiet", "--repair").stdout
    assert "retracted" not in shown
    assert "next:" not in shown
    assert repaired(store, copy).repair.restored == [0, 1]
    assert contents(store) == contents(copy)


def test_content_that_was_written_so_is_told_and_not_retracted(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "label", (1, 0), -5)
    before = contents(store)
    report = repaired(store)
    assert "label -5 is neither" in report.findings[0].what
    assert (report.damaged, report.repair.retracted, report.is_good) == ((), [], False)
    assert report.repair.unmended == list(report.findings)
    assert contents(store) == before
    # The same content where the digest says otherwise is no longer what was written.
    other = Path(shutil.copytree(store, store.with_name("other.zarr")))
    edit(other, "label", (1, 0), -6)
    shutil.copy(other / "label/c.1.0", store / "label/c.1.0")
    assert repaired(store).repair.retracted == [1]


def test_damage_everywhere_is_retracted_and_a_manifest_that_owns_nothing_is_not_believed(store: Path) -> None:
    other = Path(shutil.copytree(store, store.with_name("other.zarr")))
    change_manifest(other, teacher__name="another")
    whole = Path(shutil.copytree(store, store.with_name("whole.zarr")))
    shutil.copy(other / "zarr.json", store)
    flip(store / "label/c.1.0")
    before = contents(store)
    assert (repaired(store).repair.retracted, contents(store) == before) == ([], True)
    assert repaired(store, subset="1/2").repair.retracted == []
    for shard in (0, 1):
        flip(whole / f"label/c.{shard}.0")
    assert repaired(whole).repair.retracted == [0, 1]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_want_of_descriptors_memory_or_permission_is_no_damage(
    store: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = contents(store), os.open

    def refusing(path: object, *given: int, **more: object) -> int:
        if str(path).endswith("label/c.1.0"):
            raise OSError(code, os.strerror(code))
        return real(path, *given, **more)

    monkeypatch.setattr(os, "open", refusing)
    if code == errno.EACCES:
        report = repaired(store)
        assert "Mend its permissions" in report.findings[0].what
        assert (report.damaged, report.repair.retracted, report.is_good) == ((), [], False)
    else:
        with pytest.raises(StoreError, match=r"cannot be read.* Raise "):
            repaired(store)
    monkeypatch.undo()
    assert contents(store) == before


def test_parts_are_disjoint_together_all_and_say_what_they_cannot_show(store: Path) -> None:
    for count in (1, 2, 7, 64):
        for parts in (1, 2, 3, 9):
            chosen = [s for i in range(parts) for s in ShardsOptions(subset=f"{i + 1}/{parts}").chosen(count)]
            assert sorted(chosen) == list(range(count))
    flip(store / "label/c.1.0")
    first, second = (repaired(store, subset=f"{i}/2") for i in (1, 2))
    assert (first.shards, first.findings, first.images) == (1, (), 3)
    assert (second.shards, second.repair.retracted, second.images) == (1, [1], 0)
    assert len(first.not_checked) == 2
    (finding,) = verify_shards(store, options=ShardsOptions(shards="1:"), show_progress=False).findings
    assert finding.shard == 1
    with pytest.raises(InvalidValueError, match="holds none of the store's shards 0 to 1"):
        repaired(store, shards="2:")


@pytest.mark.parametrize(
    "given", [{"shards": "3"}, {"shards": "2:2"}, {"subset": "0/3"}, {"subset": "4/3"}, {"subset": "x"}]
)
def test_a_part_that_is_none_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError):
        ShardsOptions(**given)


def test_the_command_says_what_it_did_and_what_to_do_next(store: Path, copy: Path) -> None:
    flip(store / "label/c.1.0")
    found = run("verify", "shards", store, "--quiet")
    assert (found.exit_code, "shard 1 damaged: run this again with --repair" in found.stdout) == (1, True)
    retracted = run("verify", "shards", store, "--quiet", "--repair", "--json")
    assert (retracted.exit_code, parsed(retracted.stdout)["repair"]["retracted"]) == (1, [1])
    again = run("verify", "shards", store, "--quiet", "--repair")
    assert "next: run what made the store again (generate or import), which labels shard 1" in again.stdout
    restored = run("verify", "shards", store, "--quiet", "--repair", "--from", copy)
    assert (restored.exit_code, "restored from the copy: shard 1" in restored.stdout) == (0, True)
    flip(store / "label/c.1.0")
    itself = run("verify", "shards", store, "--quiet", "--repair", "--from", store).stdout
    assert "next: shard 1 cannot be had from that copy: give another, or run --repair without --from" in itself
    assert "\n1 finding\n" in itself
    none = run("verify", "shards", store, "--quiet", "--subset", "5/9").stdout
    assert ("no shard of the store's 2 falls into that part" in none, "clean" in none) == (True, False)
    part = run("verify", "shards", store, "--quiet", "--shards", "0:1")
    assert (part.exit_code, "1 of 2 shards, 3 images" in part.stdout, "not checked" in part.stdout) == (0, True, True)
    for wrong in (["--from", copy], ["--shards", "0:1", "--subset", "1/2"]):
        assert run("verify", "shards", store, *wrong).exit_code == 2


def test_a_key_of_any_length_is_cut_where_it_is_shown(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "key", (0, 0), "x" * 60_000)
    edit(store, "label", (0, 0), -5)
    shown = run("verify", "shards", store, "--quiet").stdout
    assert max(map(len, shown.splitlines())) < 400
    assert "x... (60000 characters)" in shown
    key = parsed(run("verify", "shards", store, "--quiet", "--json").stdout)["findings"][-1]["key"]
    assert len(key) == 60_000
