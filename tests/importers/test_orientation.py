"""Boxes around objects tell whether maps are stored [y, x] or [x, y], or it is not guessed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import store_bytes
from importers.archives import CLASSES, Lists, imported, make_archive, make_photos

from relabel.errors import InvalidValueError
from relabel.importers.boxes import read_boxes
from relabel.store import StoreReader, read_manifest

COUNT = 40
GRID = (6, 8)
STEMS = [f"n0{i % 2}/{i:02d}" for i in range(COUNT)]
LABELS = [i % 2 for i in range(COUNT)]


def drawn(seed: int = 0) -> tuple[np.ndarray, Lists]:
    """Boxes (COUNT, 4) of half the image's sides, and maps whose ground truth class wins inside its box alone."""
    random = np.random.default_rng(seed)
    starts = random.uniform(0, 0.5, (COUNT, 2))
    boxes = np.concatenate([starts, starts + 0.5], axis=1)
    scores = torch.from_numpy(random.normal(size=(COUNT, 3, *GRID)).astype(np.float32)) - 5
    ids = torch.from_numpy(random.permuted(np.tile(np.arange(5, CLASSES), (COUNT, 1)), axis=1)[:, :3])
    ids = ids[:, :, None, None].repeat(1, 1, *GRID)
    x, y = (np.arange(GRID[1]) + 0.5) / GRID[1], (np.arange(GRID[0]) + 0.5) / GRID[0]
    for image, (x0, y0, x1, y1) in enumerate(boxes):
        ids[image, 2] = LABELS[image]
        inside = torch.from_numpy(np.outer((y >= y0) & (y < y1), (x >= x0) & (x < x1)))
        scores[image, 2] += torch.where(inside, 2.0, -1.0)
    return boxes, Lists(scores, ids)


def turned(lists: Lists) -> Lists:
    return Lists(lists.scores.transpose(2, 3), lists.ids.transpose(2, 3))


def write_boxes(path: Path, boxes: np.ndarray, *, sizes_hw: Sequence[tuple[int, int]] = (), label: bool = True) -> Path:
    """A table of boxes; in pixels where sizes are given."""
    header = ["key", "x0", "y0", "x1", "y1", *(["class"] if label else []), *(["width", "height"] if sizes_hw else [])]
    lines = [",".join(header)]
    for number, box in enumerate(boxes.tolist()):
        height, width = sizes_hw[number] if sizes_hw else (1, 1)
        corners = [corner * side for corner, side in zip(box, (width, height) * 2, strict=True)]
        row = [f"{STEMS[number]}.JPEG", *corners, *([LABELS[number]] if label else [])]
        lines.append(",".join(map(str, row + ([width, height] if sizes_hw else []))))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("stored", ["yx", "xy"])
def test_boxes_tell_how_maps_are_stored_and_the_store_is_the_same(stored, tmp_path):
    boxes, lists = drawn()
    table = write_boxes(tmp_path / "boxes.csv", boxes)
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, lists if stored == "yx" else turned(lists))
    store, given = tmp_path / "auto.zarr", tmp_path / "given.zarr"
    summary = json.loads(imported("relabel", archive, store, "--orientation", "auto", "--boxes", table, "--json"))
    assert (summary["orientation"], summary["evidence"]["images"]) == (stored, COUNT)
    way = ["yx", "xy"].index(stored)
    inside, outside = (summary["evidence"][name][way] for name in ("inside", "outside"))
    assert inside > outside + 0.4
    assert summary["evidence"]["better"][way] >= 0.9 * COUNT
    imported("relabel", archive, given, "--orientation", stored)
    assert store_bytes(given) == store_bytes(store)
    manifest = read_manifest(store)
    assert manifest.imported is not None
    assert (manifest.imported.orientation, manifest.scores.grid_hw) == (stored, GRID)
    straight = make_archive(tmp_path / "straight", "relabel", STEMS, lists)
    imported("relabel", straight, tmp_path / "straight.zarr")
    rows = np.arange(COUNT)
    np.testing.assert_array_equal(
        StoreReader(store).read(rows).scores, StoreReader(tmp_path / "straight.zarr").read(rows).scores
    )


def test_what_was_found_is_printed(tmp_path):
    boxes, lists = drawn()
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, turned(lists))
    table = write_boxes(tmp_path / "boxes.csv", boxes)
    printed = imported("relabel", archive, tmp_path / "store", "--orientation", "auto", "--boxes", table)
    assert "orientation  stored [x, y]: " in printed
    assert f"for [x, y], of {COUNT} looked at" in printed
    assert "boxes        share of the ground truth as [y, x] 0." in printed


@pytest.mark.parametrize("stored", ["yx", "xy"])
def test_classes_come_from_the_images_folders_and_centre_squares_from_their_size(stored, tmp_path):
    boxes, lists = drawn()
    keys, sizes = [f"{stem}.png" for stem in STEMS], [(30, 60 + i) for i in range(COUNT)]
    photos = make_photos(tmp_path / "photos", keys, sizes)
    archive = make_archive(tmp_path / "archive", "tokenlabeling", STEMS, lists if stored == "yx" else turned(lists))
    whole = ["--orientation", "auto", "--boxes", write_boxes(tmp_path / "whole.csv", boxes), "--json"]
    whole += ["--footprint", "whole"]
    expected = json.loads(imported("tokenlabeling", archive, tmp_path / "whole", *whole))["evidence"]
    # The maps cover the middle of wide images, so the boxes lie there too.
    for box, (height, width) in zip(boxes, sizes, strict=True):
        box[[0, 2]] = 0.5 + (box[[0, 2]] - 0.5) * height / width
    table = write_boxes(tmp_path / "boxes.csv", boxes, label=False)
    given = ["--images", photos, "--orientation", "auto", "--boxes", table, "--json"]
    found = json.loads(imported("tokenlabeling", archive, tmp_path / "store", *given))["evidence"]
    assert found["better"][["yx", "xy"].index(stored)] >= 0.9 * COUNT
    for name in ("inside", "outside", "better"):
        assert found[name] == pytest.approx(expected[name])
    given[5] = write_boxes(tmp_path / "pixels.csv", boxes, sizes_hw=sizes)
    again = json.loads(imported("tokenlabeling", archive, tmp_path / "other", *given))["evidence"]
    assert again["inside"] == pytest.approx(found["inside"])


def test_tars_say_classes_and_sizes_too(tmp_path):
    boxes, lists = drawn()
    photos = make_photos(tmp_path / "photos", [f"{stem}.png" for stem in STEMS], [(9, 9)] * COUNT)
    for tar in range(2):
        with tarfile.open(tmp_path / f"{tar}.tar", "w") as out:
            for stem, label in list(zip(STEMS, LABELS, strict=True))[tar::2]:
                for suffix, data in (("png", (photos / f"{stem}.png").read_bytes()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{stem.rpartition('/')[2]}.{suffix}")
                    member.size = len(data)
                    out.addfile(member, io.BytesIO(data))
    archive = make_archive(tmp_path / "archive", "tokenlabeling", STEMS, turned(lists))
    given = ["--images", tmp_path / "{0..1}.tar", "--orientation", "auto", "--json", "--boxes"]
    given += [write_boxes(tmp_path / "boxes.csv", boxes[:30], label=False)]
    summary = json.loads(imported("tokenlabeling", archive, tmp_path / "store", *given))
    assert (summary["orientation"], summary["evidence"]["images"]) == ("xy", 30)


def test_boxes_of_other_objects_tell_nothing_and_nothing_is_guessed(tmp_path):
    _, lists = drawn(0)
    boxes, _ = drawn(1)
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, lists)
    table = write_boxes(tmp_path / "boxes.csv", boxes)
    said = imported("relabel", archive, tmp_path / "store", "--orientation", "auto", "--boxes", table, code=2)
    assert f"the boxes do not tell how the maps are stored: of {COUNT} images" in said
    assert "say --orientation yx or xy" in said
    assert not (tmp_path / "store").exists()


def test_few_boxes_are_not_enough_however_well_they_fit(tmp_path):
    boxes, lists = drawn()
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, lists)
    table = write_boxes(tmp_path / "boxes.csv", boxes[:8])
    said = imported("relabel", archive, tmp_path / "store", "--orientation", "auto", "--boxes", table, code=2)
    assert "of 8 images with a box" in said


def test_boxes_where_the_class_is_least_are_no_proof(tmp_path):
    # Of another class than the boxes' the maps say the opposite, and either way fits badly.
    boxes, lists = drawn()
    ids = lists.ids.clone()
    ids[:, 2], ids[:, 1] = lists.ids[:, 1], lists.ids[:, 2]
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, Lists(lists.scores, ids))
    table = write_boxes(tmp_path / "boxes.csv", boxes)
    said = imported("relabel", archive, tmp_path / "store", "--orientation", "auto", "--boxes", table, code=2)
    assert "the boxes do not tell" in said


def test_auto_and_boxes_belong_together(tmp_path):
    boxes, lists = drawn()
    archive = make_archive(tmp_path / "archive", "relabel", STEMS, lists)
    table = write_boxes(tmp_path / "boxes.csv", boxes, label=False)
    assert "belong together" in imported("relabel", archive, tmp_path / "store", "--orientation", "auto", code=2)
    assert "belong together" in imported("relabel", archive, tmp_path / "store", "--boxes", table, code=2)
    auto = ["--orientation", "auto", "--boxes"]
    said = imported("relabel", archive, tmp_path / "store", *auto, table, code=2)
    assert "add a column class, or give --images" in said
    assert "there is no file" in imported("relabel", archive, tmp_path / "store", *auto, tmp_path / "absent", code=2)


@pytest.mark.parametrize(
    "text",
    [
        "key,x0,y0,x1,y1,class\nn01/a.JPEG,0.1,0.2,0.5,0.6,3\nn01/a.JPEG,0.5,0.6,0.7,0.8,4\n",
        "\ufeffKEY\tx0\ty0\tx1\ty1\tclass\nn01/a\t0.1\t0.2\t0.5\t0.6\t3\nn01/a\t0.5\t0.6\t0.7\t0.8\t\n",
        "class,width,height,key,x0,y0,x1,y1\n3,200,100,x/n01/a.b,20,20,100,60\n,200,100,n01/a,100,60,140,80\n",
    ],
)
def test_tables_are_read_in_any_of_their_ways(text, tmp_path):
    (tmp_path / "boxes").write_text(text, encoding="utf-8")
    found = read_boxes(tmp_path / "boxes")
    assert list(found) == ["n01/a"]
    corners = [corner for box in found["n01/a"].boxes for corner in box.xyxy]
    assert corners == pytest.approx([0.1, 0.2, 0.5, 0.6, 0.5, 0.6, 0.7, 0.8])
    assert found["n01/a"].label == 3
    assert found["n01/a"].size_hw == ((100, 200) if "width" in text else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has none"),
        ("key,x0,y0,x1\na,0,0,1\n", "needs a header with key, x0, y0, x1, y1"),
        ("key,x0,y0,x1,y1,width\na,0,0,1,1,9\n", "pixels where width and height stand there too"),
        ("key,x0,y0,x1,y1\n", "holds no boxes"),
        (
            "key,x0,y0,x1,y1\na,0,0,1,1\nb,0,0,120,40\n",
            "line 3 of .* lies outside its image.* Give pixels with columns",
        ),
        ("key,x0,y0,x1,y1\na,0.5,0,0.5,1\n", "line 2 of .* x0 < x1"),
        ("key,x0,y0,x1,y1\na,0,0,1,x\n", "line 2 of .* could not convert"),
        ("key,x0,y0,x1,y1\na,0,0,1,nan\n", "line 2 of .* lies outside"),
        ("key,x0,y0,x1,y1\na,0,0\n", "line 2 of "),
        ("x0,y0,x1,y1,key\n0,0,1,1\n", "line 2 of "),
        ("key,x0,y0,x1,y1,width,height\na,0,0,1,1,0,9\n", "line 2 of .* must be above 0"),
    ],
)
def test_a_table_that_means_nothing_is_refused_by_its_line(text, said, tmp_path):
    (tmp_path / "boxes").write_text(text)
    with pytest.raises(InvalidValueError, match=said):
        read_boxes(tmp_path / "boxes")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "boxes").write_bytes(b"key,x0,y0,x1,y1\n\xff\xfe\n")
    with pytest.raises(InvalidValueError, match="no CSV or tab-separated text"):
        read_boxes(tmp_path / "boxes")
