"""What rows promise besides their score maps, broken one promise at a time, with every checksum right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relabel.verify import verify_shards

INF = float("inf")


@pytest.mark.parametrize(
    ("array", "place", "value", "found"),
    [
        ("status", (0, 1), 3, [(0, 1, "status 3 is none of 0, 1, 2"), (0, 1, "its status and its score map")]),
        ("status", (0, 1), 2, [(0, 1, "a row has an error if and only if"), (0, 1, "its status and its score map")]),
        ("status", (1, 1), 1, [(1, 1, "a row has an error if and only if"), (1, 1, "its status and its score map")]),
        ("key", (0, 1), "", [(0, 1, "a row has a key if and only if")]),
        ("key", (1, 2), "d.jpg", [(1, 2, "a row has a key if and only if")]),
        ("error", (0, 0), "why", [(0, 0, "a row has an error if and only if")]),
        ("label", (0, 2), -2, [(0, 2, "label -2 is neither a class nor -1")]),
        ("label", (1, 2), 0, [(1, 2, "no image must have the fill value -1 in label")]),
        ("image_hash", (1, 2), 7, [(1, 2, "no image must have the fill value 0 in image_hash")]),
        ("size_hw", (1, 2), 7, [(1, 2, "no image must have the fill value 0 in size_hw"), (1, 2, "if and only if")]),
        ("orientation", (1, 2), 1, [(1, 2, "no image must have the fill value 0 in orientation")]),
        ("orientation", (0, 1), 9, [(0, 1, "orientation 9 is none of EXIF's 1 to 8")]),
        ("orientation", (0, 1), 0, [(0, 1, "a row has its image's size if and only if it has its orientation")]),
        ("size_hw", (0, 1), 0, [(0, 1, "a row has its image's size if and only if it has its orientation")]),
        ("size_hw", (0, 1, 0), 0, [(0, 1, "size (0, 90) is neither (height, width) in pixels nor (0, 0)")]),
        ("classes", (1, 1, 0), 4, [(1, 1, "no score map must have the fill value 65535 in classes")]),
        ("classes", (1, 2), 0, [(1, 2, "no score map must have the fill value 65535 in classes")]),
        ("profile", (1, 1, -1), 1, [(1, 1, "no score map must have the fill value 0 in profile")]),
        ("scores", (1, 1), 80, [(1, 1, "its status and its score map disagree")]),
        ("scores", (1, 2), 80, [(1, 2, "its status and its score map disagree")]),
        ("scores", (0, 0), 255, [(0, 0, "its status and its score map disagree")]),
    ],
)
def test_a_broken_promise_is_found_at_its_row(
    store: Path, edit: Callable[..., None], array: str, place: Any, value: Any, found: list[tuple[int, int, str]]
) -> None:
    edit(store, array, place, value)
    findings = [f for f in verify_shards(store, show_progress=False).findings if f.row >= 0]
    for shard, row, what in found:
        assert any((f.shard, f.row) == (shard, row) and what in f.what for f in findings), findings
    assert {(f.shard, f.row) for f in findings} == {(shard, row) for shard, row, _ in found}


def test_a_gap_between_rows_is_found(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "status", (0, 1), 0)
    found = [(f.shard, f.row, f.what) for f in verify_shards(store, show_progress=False).findings]
    for row in (1, 2):
        assert (0, row, "rows with an image must come first, and this one breaks the order") in found
    assert (0, -1, "2 rows hold an image, and the manifest says 3") in found


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0, 1, 1, 0), (1, 0, 2, 1), (0, -1, 1, 0), (0, 0, INF, 1), (0, float("nan"), 1, 1)]
)
def test_a_footprint_that_is_no_box_of_the_image_is_found(
    make: Callable[..., Path], edit: Callable[..., None], box: tuple[float, ...]
) -> None:
    store = make(footprints=(-0.25, 0.0, 1.25, 1.0))
    assert verify_shards(store, show_progress=False).is_clean
    edit(store, "footprint", (0, 1), box)
    (finding,) = verify_shards(store, show_progress=False).findings
    assert (finding.shard, finding.row, finding.key) == (0, 1, "a/1.jpg")
    assert "no box (x0, y0, x1, y1) that overlaps the image" in finding.what


def test_a_row_without_a_map_has_no_footprint(make: Callable[..., Path], edit: Callable[..., None]) -> None:
    store = make(footprints=(0.0, 0.0, 1.0, 1.0))
    edit(store, "footprint", (1, 1), (0.0, 0.0, 1.0, 1.0))
    (finding,) = verify_shards(store, show_progress=False).findings
    assert (finding.row, finding.what) == (1, "a row with no score map must have the fill value nan in footprint")


def test_a_ground_truth_may_be_of_other_classes_than_the_teachers(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "label", (0, 0), 20_000)
    edit(store, "label", (0, 1), -1)
    assert verify_shards(store, show_progress=False).is_clean


def test_an_image_may_be_held_in_any_of_the_ways_that_exif_knows(store: Path, edit: Callable[..., None]) -> None:
    edit(store, "orientation", (0, slice(0, 2)), [2, 8])
    assert verify_shards(store, show_progress=False).is_clean
