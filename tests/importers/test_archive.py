"""Which file an image has, and which it has not."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.errors import SourceError
from relabel.images import Listing, SourcePart
from relabel.importers.archive import (
    AMBIGUOUS,
    NO_MAP,
    Archive,
    list_archive,
    numbers_of_files,
    published_stem,
    rows_of_files,
    rows_of_images,
)


@pytest.mark.parametrize(
    ("key", "root", "stem"),
    [
        ("n01440764/n01440764_10026.JPEG", "", "n01440764/n01440764_10026"),
        ("train/n01/a.b.JPEG", "", "n01/a"),
        ("001.Albatross/x.jpg", "", "001"),
        ("a.jpg", "train", "train/a"),
        ("a.jpg", "", "a"),
        ("./n01/a.jpg", "", "n01/a"),
        ("./a.jpg", "", "a"),
        ("./a.jpg", "train", "train/a"),
        ("../a.jpg", "", ""),
        ("/etc/passwd", "", "etc/passwd"),
    ],
)
def test_the_published_name_is_the_last_two_parts_cut_at_the_first_dot(key, root, stem):
    assert published_stem(key, root) == stem


def test_files_are_looked_for_where_the_published_codes_look(tmp_path):
    for name in ("b/2.pt", "a/1.pt", "top.pt", "a/deep/3.pt", "a/text.txt", "b/.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    counted: list[int] = []
    archive = list_archive(tmp_path, counted.append)
    assert archive.stems == ("a/1", "b/2", "top")
    assert sum(counted) == 3


def test_names_that_are_no_utf8_are_refused(tmp_path):
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a\udcff.pt").touch()
    with pytest.raises(SourceError, match=r"1 file names are not valid UTF-8: .*Rename them"):
        list_archive(tmp_path, lambda _: None)


def test_a_name_without_a_folder_finds_the_one_file_that_has_it():
    archive = Archive("", ("n01/a", "n01/b", "n02/b", "c"))
    found = numbers_of_files(archive, ("n01/a", "a", "b", "c", "d", "n02/a"))
    assert found == [0, 0, AMBIGUOUS, 3, NO_MAP, NO_MAP]


def test_rows_of_files_are_cut_into_shards_with_a_name_each():
    rows = rows_of_files(Archive("", ("a", "b", "c")), ".png", 2)
    assert rows.keys == ("a.png", "b.png", "c.png")
    assert [(task.first, task.count) for task in rows.tasks] == [(0, 2), (2, 1)]
    assert rows.record.shards == ("images 0 to 2", "images 2 to 3")
    assert (rows.record.counts, rows.record.rows_per_shard) == ((2, 1), 2)
    assert [rows.first(task) for task in rows.tasks] == [0, 2]


def test_rows_know_their_maps_or_why_they_have_none():
    keys = ("n01/a.jpg", "n01/a.png", "n01/b.jpg", "n02/b.jpg", "n03/z.jpg")
    listing = Listing.of("folder", (SourcePart(".", keys),), None)
    archive = Archive("", ("n01/a", "n01/b", "n02/b", "n09/c"))
    rows = rows_of_images(archive, listing, "photos")
    assert rows.maps.tolist() == [0, 0, 1, 2, NO_MAP]
    assert [rows.name(row) for row in range(5)] == ["", "", "n01/b.pt", "n02/b.pt", ""]
    faults = [rows.fault(row).split(" ")[0] for row in range(5)]
    assert faults == ["2", "2", "", "", "the"]
    assert (rows.with_map, rows.maps_without_image) == (2, 1)
    np.testing.assert_array_equal(rows.sharing, [2, 1, 1, 0])
