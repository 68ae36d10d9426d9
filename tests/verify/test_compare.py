"""A store held against images, in a folder or in tars, moved, changed, lost, found, and unreadable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from generating import write_tar
from stores import change_manifest

from relabel.errors import SourceError
from relabel.findings import Finding
from relabel.images import files, image_hash
from relabel.verify import ShardsReport, verify_shards

KEYS = ["a/0", "a/1", "b/2", "b/3", "c/4"]
IMAGES = {key: f"the bytes of {key}".encode() for key in KEYS}
LABELS = {key: "abc".index(key[0]) for key in KEYS}


@pytest.fixture
def labels_of(make: Callable[..., Path], edit: Callable[..., None]) -> Callable[[str], Path]:
    """Makes a store of `IMAGES`, whose keys end with some suffix."""

    def made(suffix: str) -> Path:
        store = make(suffix=suffix)
        hashes = [image_hash(data) for data in IMAGES.values()] + [0]
        edit(store, "image_hash", slice(None), np.array(hashes, np.uint64).reshape(2, 3))
        edit(store, "label", slice(None), np.array([*LABELS.values(), -1], np.int32).reshape(2, 3))
        return store

    return made


@pytest.fixture
def labels(labels_of: Callable[[str], Path]) -> Path:
    return labels_of(".jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The images as a folder of class folders."""
    for key, data in IMAGES.items():
        path = tmp_path / "photos" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


def pack(path: Path, keys: list[str]) -> None:
    """A webdataset tar of some of the images and their ground truths."""
    members = ((f"{key}.jpg", IMAGES[key], f"{key}.cls", str(LABELS[key]).encode()) for key in keys)
    write_tar(path, [pair for image, data, cls, truth in members for pair in ((image, data), (cls, truth))])


def compared(store: Path, images: Path | str) -> ShardsReport:
    """The report."""
    return verify_shards(store, str(images), workers=2, show_progress=False)


@pytest.mark.parametrize("span", [1, 2, 4, 5])
def test_images_are_compared_once_however_the_work_is_shared(
    labels: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, span: int
) -> None:
    monkeypatch.setattr(files, "_SPAN", span)
    report = compared(labels, folder)
    assert (report.findings, report.images_compared) == ((), 5)


def test_changed_lost_and_new_images_are_found(labels: Path, folder: Path) -> None:
    (folder / "a/1.jpg").write_bytes(b"other bytes")
    (folder / "c/4.jpg").rename(folder / "c/5.jpg")
    report = compared(labels, folder)
    assert report.findings == (
        Finding(-1, -1, "c/5.jpg", "an image of this key is there, and the store has no row for it"),
        Finding(0, 1, "a/1.jpg", "the image's bytes are not those that were labelled"),
        Finding(1, 1, "c/4.jpg", "no image of this key is there"),
    )
    assert report.images_compared == 5


@pytest.mark.parametrize(("names", "stored"), [(None, "1"), (["a", "b", "c"], "1 'b'")])
def test_another_ground_truth_is_found(names: list[str] | None, stored: str, labels: Path, folder: Path) -> None:
    change_manifest(labels, data__class_names=names)
    (folder / "aa").mkdir()
    assert [f for f in compared(labels, folder).findings if f.shard == 0] == [
        Finding(0, 2, "b/2.jpg", f"its ground truth is 2 and the store says {stored}")
    ]


def test_images_may_be_moved_between_tars(labels_of: Callable[[str], Path], tmp_path: Path) -> None:
    pack(tmp_path / "x.tar", ["c/4", "a/1"])
    pack(tmp_path / "y.tar", ["b/2", "a/0", "b/3"])
    report = compared(labels_of(""), tmp_path / "[xy].tar")
    assert report.findings == ()
    assert report.images_compared == 5


def test_a_key_that_two_tars_hold_is_found(labels_of: Callable[[str], Path], tmp_path: Path) -> None:
    pack(tmp_path / "x.tar", KEYS)
    pack(tmp_path / "y.tar", ["a/1"])
    assert compared(labels_of(""), tmp_path / "[xy].tar").findings == (
        Finding(0, 1, "a/1", "more than one image has this key"),
    )


def test_a_damaged_tar_hides_no_other(labels_of: Callable[[str], Path], tmp_path: Path) -> None:
    pack(tmp_path / "x.tar", ["a/0", "a/1"])
    pack(tmp_path / "y.tar", ["b/2", "b/3", "c/4"])
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:700])
    (tmp_path / "y.tar").write_bytes((tmp_path / "y.tar").read_bytes().replace(b"bytes of b/3", b"bytes of b/4"))
    lost, damaged, changed = compared(labels_of(""), tmp_path / "[xy].tar").findings
    assert lost.what == "2 rows have no image that can be read; it may be among those that cannot"
    assert damaged.what.startswith("x.tar is damaged")
    assert (changed.key, changed.what) == ("b/3", "the image's bytes are not those that were labelled")


def test_an_image_that_cannot_be_read_hides_no_other(labels: Path, folder: Path) -> None:
    (folder / "a/0.jpg").unlink()
    (folder / "a/0.jpg").symlink_to("nowhere.jpg")
    report = compared(labels, folder)
    assert [(f.key, f.what) for f in report.findings] == [
        ("a/0.jpg", "its image was read when it was labelled, and now fails: cannot be read: No such file or directory")
    ]
    assert report.images_compared == 4


def test_images_of_a_shard_that_is_not_there_are_counted_not_listed(labels: Path, folder: Path) -> None:
    (labels / "status/c.0.0").unlink()
    what = "3 images have no row that can be read; shards are missing or damaged, and may hold theirs"
    assert [f.what for f in compared(labels, folder).findings if f.shard < 0] == [what]


@pytest.mark.parametrize("array", ["image_hash", "label"])
def test_rows_whose_hashes_or_labels_are_damaged_are_found_by_key_and_not_compared(
    labels: Path, folder: Path, array: str
) -> None:
    (labels / array / "c.0.0").write_bytes(b"")
    (folder / "b/3.jpg").write_bytes(b"other bytes")
    assert [(f.shard, f.row) for f in compared(labels, folder).findings] == [(0, -1), (1, 0)]


def test_other_images_altogether_are_told_in_one_line(labels: Path, folder: Path) -> None:
    probable, *others = compared(labels, folder / "a").findings
    assert probable == Finding(
        -1,
        -1,
        "",
        "no key of the store, such as 'a/0.jpg', is among these images: another image set, another root folder, or "
        "tars instead of a folder. Give what was labelled. Theirs are such as '0.jpg'.",
    )
    assert len(others) == 2 + 5
    (folder / "a/a").mkdir()
    (folder / "a/1.jpg").rename(folder / "a/a/1.jpg")
    # One that fits, and it is no other set.
    assert not any("no key of the store" in found.what for found in compared(labels, folder / "a").findings)


def test_images_that_are_not_there_at_all_are_an_error(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        compared(labels, tmp_path / "absent-{0..3}.tar")
