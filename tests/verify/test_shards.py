"""The store as a whole: what is counted, what is missing or too much, and that no fault hides another."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from stores import change_manifest

from relabel.errors import StoreError
from relabel.findings import Finding, abridged, class_text
from relabel.manifest import fingerprint
from relabel.store import StoreReader
from relabel.verify import shards as shards_module
from relabel.verify import verify_shards


def findings(store: Path) -> list[Finding]:
    """What is found."""
    return list(verify_shards(store, show_progress=False).findings)


def test_a_sound_store_is_clean_and_counted(store: Path) -> None:
    report = verify_shards(store, show_progress=False)
    assert report.is_clean
    assert (report.shards, report.images, report.labeled, report.failed, report.images_compared) == (2, 5, 4, 1, 0)


def test_findings_are_ordered_and_a_damaged_shard_hides_no_other(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "label", (1, 0), -5)
    edit(store, "label", (0, 2), -5)
    file = store / "profile/c.0.0.0"
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert [(f.shard, f.row, f.key) for f in findings(store)] == [(0, -1, ""), (0, 2, "b/2.jpg"), (1, 0, "b/3.jpg")]


def test_a_damaged_map_is_found_once_and_the_others_are_checked(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "scores", (0, 0), 0)
    file = store / "scores/c.0.0.0.0.0"
    whole = file.read_bytes()
    second = whole.index(b"\x28\xb5\x2f\xfd", whole.index(b"\x28\xb5\x2f\xfd") + 1)
    file.write_bytes(whole[:second] + b"\0" + whole[second + 1 :])
    damaged, wrong = sorted(findings(store), key=lambda finding: "damaged" not in finding.what)
    assert damaged.what.startswith("its map in scores/c.0.0.0.0.0 is damaged")
    assert wrong.what.startswith("the planes' probabilities sum to 3.")
    assert damaged.row != wrong.row == 0


def test_a_shard_that_is_not_published_is_found_and_the_others_are_checked(
    store: Path, edit: Callable[..., None]
) -> None:
    edit(store, "label", (1, 0), -5)
    (store / "status/c.0.0").unlink()
    found = findings(store)
    assert [(f.shard, f.row) for f in found] == [(0, -1), (1, 0)]
    assert found[0].what.startswith("the shard is not published")


def test_keys_that_stand_twice_are_found_across_shards(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "key", (1, slice(2)), ["a/0.jpg", "a/1.jpg"])
    edit(store, "key", (0, 2), "a/1.jpg")
    whole, *twice = findings(store)
    assert whole.what == "the keys are not those that the manifest's fingerprint was made of"
    assert twice == [
        Finding(0, 2, "a/1.jpg", "the key stands twice; first in shard 0 row 1"),
        Finding(1, 0, "a/0.jpg", "the key stands twice; first in shard 0 row 0"),
        Finding(1, 1, "a/1.jpg", "the key stands twice; first in shard 0 row 1"),
    ]


def test_keys_in_another_order_are_not_the_fingerprints(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "key", (0, slice(2)), ["a/1.jpg", "a/0.jpg"])
    assert [f.what for f in findings(store)] == ["the keys are not those that the manifest's fingerprint was made of"]


def test_without_a_listing_the_fingerprint_is_of_the_shards(store: Path) -> None:
    change_manifest(store, data__counts=[], data__fingerprint=fingerprint(["part 0", "part 1"]))
    assert findings(store) == []
    change_manifest(store, data__shards=["part 0", "part 2"])
    assert len(findings(store)) == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data__counts": [3, 1]}, "2 rows hold an image, and the manifest says 1"),
        ({"data__counts": [2, 2]}, "the manifest's largest count is 2, and its rows_per_shard 3"),
        ({"data__shards": ["part 0", "part 0"]}, "the manifest names two shards alike"),
        ({"scores__num_classes": 8}, "a class id lies outside [0, 8)"),
    ],
)
def test_a_manifest_that_the_store_contradicts_is_found(store: Path, changes: dict[str, Any], what: str) -> None:
    change_manifest(store, **changes)
    assert any(f.what.startswith(what) for f in findings(store)), findings(store)


def test_squashed_images_are_covered_whole(make: Callable[..., Path]) -> None:
    store = make(footprints=(-0.25, 0.0, 1.25, 1.0))
    change_manifest(store, preprocessing__fit="squash")
    assert [f.what for f in findings(store)] == [
        "the manifest says that whole images were squashed, and that each row has a footprint of its own"
    ]


@pytest.mark.parametrize(
    ("box", "sound"),
    [
        ((0.0, 0.0, 1.0, 1.0), {"center", "letterbox", "squash"}),
        ((0.125, 0.0, 0.875, 1.0), {"center"}),
        ((0.0, 0.0, 1.0, 0.75), {"center"}),
        ((-0.25, 0.0, 1.25, 1.0), {"letterbox"}),
        ((0.0, -0.1, 1.0, 1.0), {"letterbox"}),
        ((0.0, 0.0, 1.1, 1.0), {"letterbox"}),
        ((0.1, 0.0, 1.0, 1.0), {"center"}),
        ((-0.25, 0.1, 1.25, 0.9), set()),
    ],
)
def test_footprints_are_those_of_the_fit(make: Callable[..., Path], box: tuple[float, ...], sound: set[str]) -> None:
    of_rows = make(footprints=box)
    for fit in ("center", "letterbox"):
        change_manifest(of_rows, preprocessing__fit=fit)
        found = [(f.shard, f.row) for f in findings(of_rows)]
        assert found == ([] if fit in sound else [(0, 0), (0, 1), (0, 2), (1, 0)])
    shutil.rmtree(of_rows)
    of_all = make()
    for fit in ("center", "letterbox", "squash"):
        change_manifest(of_all, footprint=box, preprocessing__fit=fit)
        assert ([f.what.partition(",")[0] for f in findings(of_all)] == []) is (fit in sound)


def test_a_report_is_abridged_by_what_findings_say_but_for_their_numbers() -> None:
    names = ["a name", "another's"]
    first, second = (f"label {class_text(number, names)} is wrong" for number in (0, 1))
    said = ["no image", first, "no image", "no image", second, "another"]
    found = tuple(Finding(0, row, f"k{row}", what) for row, what in enumerate(said))
    shown, more = abridged(found, 1)
    assert shown == [found[0], found[1], found[5]]
    assert more == {"no image": 2, first: 1}
    assert abridged(found, 3) == (list(found), {})


@pytest.mark.parametrize(
    "changes",
    [{"scores__planes": 4}, {"scores__grid_hw": [3, 2]}, {"data__rows_per_shard": 4}],
)
def test_a_manifest_that_the_arrays_contradict_is_found(store: Path, changes: dict[str, Any]) -> None:
    change_manifest(store, **changes)
    assert "scores/zarr.json does not agree with the manifest in shape" in " ".join(f.what for f in findings(store))
    change_manifest(store, scores__planes="3")
    with pytest.raises(StoreError):
        findings(store)


def test_a_damaged_file_of_metadata_hides_no_other(store: Path) -> None:
    (store / "label/zarr.json").unlink()
    (store / "key/zarr.json").write_text("{")
    (store / "profile/c.1.0.0").write_bytes(b"")
    told = [f.what.partition(" ")[0] for f in findings(store)]
    assert told == ["key/zarr.json", "label/zarr.json", "profile/c.1.0.0"]


def test_files_that_do_not_belong_to_the_store_are_found(store: Path) -> None:
    for name in ("notes.txt", "label/.c.0.0.tmp", "label/c.2.0", "scores/c.0"):
        (store / name).write_bytes(b"")
    assert sorted(f.what.partition(" ")[0] for f in findings(store)) == [
        "label/.c.0.0.tmp",
        "label/c.2.0",
        "notes.txt",
        "scores/c.0",
    ]


@pytest.mark.parametrize("file", ["zarr.json", "label/zarr.json"])
def test_a_field_that_zarr_does_not_know_is_found(store: Path, file: str) -> None:
    metadata = json.loads((store / file).read_text())
    (store / file).write_text(json.dumps(metadata | {"extra": 1}))
    report = verify_shards(store, show_progress=False)
    assert [f.what for f in report.findings] == [f"{file} holds 'extra', which is no field of zarr v3"]
    assert not report.is_clean


def test_consolidated_metadata_is_found(store: Path) -> None:
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(store)
    (finding,) = findings(store)
    assert finding.what.startswith("zarr.json holds consolidated metadata")


def test_no_number_of_threads_changes_the_findings(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "label", (slice(None), 0), -5)
    one, three = (verify_shards(store, workers=n, show_progress=False).findings for n in (1, 3))
    assert one == three
    assert len(one) == 2


def test_ctrl_c_stops_the_threads(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, seen = threading.Event(), []

    def check(reader: StoreReader, shard: int, advance: Callable[[int], None]) -> None:
        if shard == 0:
            assert first.wait(10)
            raise KeyboardInterrupt
        first.set()
        while True:
            advance(1)
            seen.append(shard)

    monkeypatch.setattr(shards_module, "check_shard", check)
    with pytest.raises(KeyboardInterrupt):
        verify_shards(store, workers=2, show_progress=False)
    assert seen


@pytest.mark.parametrize("lost", [[], ["scores/c.1.0.0.0.0"], ["status/c.1.0"]])
def test_the_progress_bar_reaches_its_end(store: Path, capsys: pytest.CaptureFixture[str], lost: list[str]) -> None:
    for name in lost:
        (store / name).unlink()
    verify_shards(store)
    assert "6/6" in capsys.readouterr().err
