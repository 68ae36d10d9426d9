"""From a published archive to a store that gives the published labels, through the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from generating import write_tar
from importers.archives import (
    CLASSES,
    SAVE,
    Lists,
    cell_lists,
    imported,
    make_archive,
    make_photos,
    published_label,
    run,
)
from store.samples import contents

import relabel
import relabel.importers.run
import relabel.importers.shard
import relabel.importers.workers
from relabel.geometry import WHOLE
from relabel.published import relabel_targets, token_labeling_targets
from relabel.store import read_manifest

DATA = Path(__file__).parents[1] / "data"
SIZES = [(30, 40), (40, 30), (36, 36), (20, 60)]
STEMS = ["n01/a", "n01/b", "n02/c", "n02/d"]
KEYS = [f"{stem}.png" for stem in STEMS]


@pytest.fixture
def lists() -> Lists:
    return cell_lists(4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", KEYS, SIZES)


@pytest.fixture
def archive(lists: Lists, tmp_path: Path) -> Path:
    """Of ReLabel's kind."""
    return make_archive(tmp_path / "archive", "relabel", STEMS, lists)


@pytest.fixture
def tokens(lists: Lists, tmp_path: Path) -> Path:
    """Of Token Labeling's kind."""
    return make_archive(tmp_path / "archive", "tokenlabeling", STEMS, lists)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where labels go."""
    return tmp_path / "labels.zarr"


def make_tar(path: Path, photos: Path, keys: list[str]) -> Path:
    """A tar whose keys lack the class folder, as many published ones do."""
    return write_tar(path, [(key.rpartition("/")[2], (photos / key).read_bytes()) for key in keys])


@pytest.mark.parametrize("kind", ["relabel", "tokenlabeling"])
@pytest.mark.parametrize("with_images", [True, False])
def test_a_store_of_whole_images_gives_the_published_labels(kind, with_images, lists, photos, tmp_path):
    archive = make_archive(tmp_path / "archive", kind, STEMS, lists)
    store = tmp_path / "labels.zarr"
    given = ["--images", photos] if with_images else ["--extension", ".png"]
    printed = imported(kind, archive, store, *given, "--footprint", "whole")
    assert f"{store}: 1 shard published, 0 were there already, of 1" in printed
    assert run("verify", "shards", store, *(given if with_images else []), "--quiet").exit_code == 0
    maps = relabel.open(store)
    assert (len(maps), maps.grid.size_hw, maps.manifest.footprint) == (4, (5, 6), WHOLE)
    boxes = oracle.random_boxes(4, seed=1, smallest=0.3)
    labels = maps[maps.rows(KEYS)].pool(torch.tensor(boxes), fill="zero").numpy()
    for image, box in enumerate(boxes):
        rounded = Lists(lists.scores.half(), lists.ids).dense(image)
        np.testing.assert_allclose(labels[image], published_label(rounded, box), rtol=0, atol=1e-5)
        # Scores up to 16 in float16 are off by at most 0.004.
        np.testing.assert_allclose(labels[image], published_label(lists.dense(image), box), rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("as_shipped", [False, True])
@pytest.mark.parametrize(
    ("kind", "file", "name", "classes"),
    [("relabel", "relabel_crops", "labels", 1000), ("tokenlabeling", "tokenlabel_crops", "targets", 60)],
)
def test_the_golden_vectors_come_back_from_an_imported_archive(kind, file, name, classes, as_shipped, store, tmp_path):
    with np.load(DATA / f"{file}.npz") as golden:
        arrays = {key: torch.from_numpy(golden[key].astype(np.float32)) for key in golden.files}
    stems = [f"n01/{i:02d}" for i in range(len(arrays["logits"]))]
    archive = make_archive(tmp_path / "archive", kind, stems, Lists(arrays["logits"], arrays["classes"]))
    imported(kind, archive, store, "--classes", classes, "--footprint", "whole")
    maps = relabel.open(store)
    given = [maps[maps.rows([f"{stem}.JPEG" for stem in stems])], arrays["boxes"]]
    if kind == "relabel":
        found = relabel_targets(*given, as_shipped=as_shipped)
    else:
        found = token_labeling_targets(*given, arrays["ground_truth"].long(), as_shipped=as_shipped)
    expected = arrays[f"{name}_as_shipped" if as_shipped else name]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5 if kind == "relabel" else 1e-4)


def test_token_labelings_maps_cover_the_centre_square_of_each_image(tokens, store, lists, photos):
    assert "the centre square of each image" in imported("tokenlabeling", tokens, store, "--images", photos)
    verified = run("verify", "shards", store, "--images", photos, "--quiet", "--json")
    assert json.loads(verified.stdout)["findings"] == []
    maps = relabel.open(store)
    batch = maps[maps.rows(KEYS)]
    footprints = [(0.125, 0, 0.875, 1), (0, 0.125, 1, 0.875), (0, 0, 1, 1), (1 / 3, 0, 2 / 3, 1)]
    np.testing.assert_allclose(batch.footprint.numpy(), footprints, rtol=0, atol=1e-6)
    boxes = [[0.2, 0.1, 0.8, 0.9], [0.1, 0.3, 0.9, 0.8], [0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.6, 1.0]]
    labels = batch.pool(torch.tensor(boxes), fill="zero").numpy()
    for image, (box, footprint) in enumerate(zip(boxes, footprints, strict=True)):
        rounded = Lists(lists.scores.half(), lists.ids).dense(image)
        np.testing.assert_allclose(labels[image], published_label(rounded, box, footprint), rtol=0, atol=1e-5)


def test_the_manifest_says_what_was_imported_and_claims_no_more(tokens, store, photos, tmp_path):
    imported("tokenlabeling", tokens, store, "--images", photos)
    manifest = read_manifest(store)
    assert manifest.imported is not None
    assert (manifest.imported.archive, manifest.imported.orientation) == ("tokenlabeling", "yx")
    assert (manifest.teacher.name, manifest.teacher.weights) == ("dm_nfnet_f6", "unknown")
    assert (manifest.teacher.weights_digest, manifest.preprocessing.fit) == ("unknown", "center")
    scores = manifest.scores
    assert (scores.scores, scores.dtype, scores.select, scores.profile) == ("logit", "float16", "cell", 0)
    imported("tokenlabeling", tokens, tmp_path / "other.zarr", "--images", photos, "--teacher-name", "mine")
    assert read_manifest(tmp_path / "other.zarr").teacher.name == "mine"
    assert "dm_nfnet_f6, as is said: imported from tokenlabeling files, stored yx" in run("inspect", store).stdout


def test_images_give_keys_hashes_and_ground_truths(archive, store, photos):
    imported("relabel", archive, store, "--images", photos, "--samples-per-shard", 3)
    table = relabel.store.StoreReader(store).table(0)
    assert table.keys == KEYS[:3]
    assert table.labels.tolist() == [0, 0, 1]
    assert table.sizes_hw.tolist() == [list(size) for size in SIZES[:3]]
    assert table.orientations.tolist() == [1, 1, 1]
    assert read_manifest(store).data.class_names == ("n01", "n02")
    assert table.image_hashes[2] == relabel.images.image_hash((photos / KEYS[2]).read_bytes())


def test_without_images_keys_are_the_files_names_with_an_extension(archive, store):
    imported("relabel", archive, store)
    assert list(relabel.open(store).keys()) == [f"{stem}.JPEG" for stem in STEMS]


def test_every_class_of_the_richest_image_gets_a_plane_heaviest_first(archive, store, lists):
    printed = imported("relabel", archive, store)
    counts = [len(ids.unique()) for ids in lists.ids]
    assert f"{max(counts)} planes an image" in printed
    assert f"{np.mean(counts):.1f} classes on average, {max(counts)} at most" in printed
    assert "dropped" not in printed
    maps = relabel.open(store)
    batch = maps[slice(0, 4)]
    shares = torch.zeros(4, CLASSES).scatter_add_(1, lists.ids.flatten(1), lists.scores.softmax(1).flatten(1))
    for image, count in enumerate(counts):
        expected = shares[image].argsort(descending=True, stable=True)[:count].tolist()
        assert batch.classes[image, :count].tolist() == expected
        assert bool(batch.planes[image, count:].isnan().all())
        assert not bool(batch.planes[image, :count].isnan().flatten(1).all(1).any())


def test_few_planes_keep_the_heaviest_classes_and_tell_what_was_dropped(archive, store, lists, tmp_path):
    summary = json.loads(imported("relabel", archive, store, "--planes", 2, "--json"))
    shares = torch.zeros(4, CLASSES).scatter_add_(1, lists.ids.flatten(1), lists.scores.softmax(1).flatten(1))
    kept = shares.topk(2, dim=1).indices
    assert relabel.open(store)[slice(0, 4)].classes.tolist() == kept.tolist()
    inside = sum(int(torch.isin(ids, of).sum()) for ids, of in zip(lists.ids, kept, strict=True))
    assert (summary["scores"], summary["scores_dropped"]) == (lists.ids.numel(), lists.ids.numel() - inside)
    assert run("verify", "shards", store, "--quiet").exit_code == 0
    again = imported("relabel", archive, tmp_path / "text.zarr", "--planes", 2)
    assert f"{summary['scores_dropped']} of {lists.ids.numel()} scores dropped" in again


def test_planes_beyond_what_images_list_are_not_made(archive, store, lists):
    most = max(len(ids.unique()) for ids in lists.ids)
    assert json.loads(imported("relabel", archive, store, "--planes", CLASSES, "--json"))["planes"] == most


def test_a_rerun_skips_what_is_there(archive, store):
    imported("relabel", archive, store, "--samples-per-shard", 3)
    before = contents(store)
    printed = imported("relabel", archive, store, "--samples-per-shard", 3)
    assert f"{store}: nothing to do, all 2 shards were there already" in printed
    assert contents(store) == before


def test_an_interrupted_import_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    stems = [f"n0{i % 3}/{i}" for i in range(9)]
    archive = make_archive(tmp_path / "archive", "relabel", stems, cell_lists(9))
    whole, store = tmp_path / "whole.zarr", tmp_path / "cut.zarr"
    imported("relabel", archive, whole, "--samples-per-shard", 2)
    convert, calls = relabel.importers.shard.convert, iter(range(3))

    def interrupted(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return convert(*arguments)

    monkeypatch.setattr(relabel.importers.shard, "convert", interrupted)
    stopped = run("import", "relabel", archive, store, "--classes", CLASSES, "--samples-per-shard", 2, "--workers", 1)
    assert stopped.exit_code == 130
    assert "run the same command again to go on" in stopped.stderr
    assert len(list(store.glob("status/c.*"))) == 3
    assert not list(store.rglob(".*"))
    monkeypatch.undo()
    printed = imported("relabel", archive, store, "--samples-per-shard", 2, "--workers", 1)
    assert "2 shards published, 3 were there already, of 5" in printed
    assert contents(store) == contents(whole)


def test_processes_make_the_same_store(tmp_path, monkeypatch):
    stems = [f"n0{i % 3}/{i}" for i in range(8)]
    archive = make_archive(tmp_path / "archive", "tokenlabeling", stems, cell_lists(8))
    whole = ["--footprint", "whole", "--samples-per-shard", 3]
    imported("tokenlabeling", archive, tmp_path / "one.zarr", *whole, "--workers", 1)
    monkeypatch.setattr(relabel.importers.workers, "FILES_A_PROCESS", 2)
    started = []
    pool = relabel.importers.workers.ProcessPoolExecutor
    monkeypatch.setattr(
        relabel.importers.workers, "ProcessPoolExecutor", lambda *given: started.append(given[0]) or pool(*given)
    )
    imported("tokenlabeling", archive, tmp_path / "two.zarr", *whole, "--workers", 2)
    assert started == [2]
    assert contents(tmp_path / "two.zarr") == contents(tmp_path / "one.zarr")


def test_another_archive_or_other_options_are_refused_with_the_difference(lists, tmp_path):
    archive, store = make_archive(tmp_path / "archive", "relabel", STEMS, lists), tmp_path / "labels.zarr"
    imported("relabel", archive, store)
    before = contents(store)
    assert "scores.planes" in imported("relabel", archive, store, "--planes", 2, code=2)
    assert "imported.orientation: 'yx' != 'xy'" in imported("relabel", archive, store, "--orientation", "xy", code=2)
    assert "teacher.name" in imported("relabel", archive, store, "--teacher-name", "other", code=2)
    make_archive(archive, "relabel", STEMS[:1], Lists(lists.scores[:1] + 1, lists.ids[:1]))
    said = imported("relabel", archive, store, code=2)
    assert "imported.digest" in said
    assert "scores." not in said
    make_archive(archive, "relabel", ["n09/new"], Lists(lists.scores[:1], lists.ids[:1]))
    assert "1 images are new: 'n09/new.JPEG'" in imported("relabel", archive, store, code=2)
    assert contents(store) == before


def test_files_that_change_meanwhile_leave_their_shard_unpublished(archive, store, lists, monkeypatch):
    create = relabel.importers.run.create_or_open

    def and_change(*arguments):
        SAVE["relabel"](archive / "n02/d.pt", lists.scores[0], lists.ids[0])
        return create(*arguments)

    monkeypatch.setattr(relabel.importers.run, "create_or_open", and_change)
    printed = imported("relabel", archive, store, "--samples-per-shard", 2, code=1)
    assert "1 shard published" in printed
    assert "(whole shard)  the archive's files changed while they were imported" in printed
    assert not list(store.rglob(".*"))


@pytest.mark.parametrize("change", ["lost", "other", "cut"])
def test_images_that_change_meanwhile_leave_their_shard_unpublished(
    tokens, store, change, photos, tmp_path, monkeypatch
):
    images = make_tar(tmp_path / "one.tar", photos, KEYS)
    create = relabel.importers.run.create_or_open

    def and_change(*arguments):
        if change == "cut":
            whole = images.read_bytes()
            images.write_bytes(whole[: -(-len(whole.rstrip(b"\0")) // 512) * 512])
        else:
            make_tar(images, photos, KEYS[:3] if change == "lost" else [KEYS[0], KEYS[2], KEYS[1], KEYS[3]])
        return create(*arguments)

    monkeypatch.setattr(relabel.importers.run, "create_or_open", and_change)
    printed = imported("tokenlabeling", tokens, store, "--images", images, code=1)
    assert "0 shards published" in printed
    said = {"lost": "3 images, and 4 were listed", "other": "it holds 'c', which", "cut": "one.tar is damaged"}
    assert said[change] in printed
    assert not list(store.glob("*/c.*"))


def test_an_image_that_cannot_be_read_is_one_failed_row(tokens, store, photos):
    (photos / KEYS[3]).unlink()
    (photos / KEYS[3]).symlink_to("gone")
    printed = imported("tokenlabeling", tokens, store, "--images", photos, code=1)
    assert "1 shard published" in printed
    assert re.search(rf"0 +{KEYS[3]} +cannot be read: No such file or directory", printed)
    assert run("verify", "shards", store, "--images", photos).exit_code == 0


def test_maps_are_read_and_planes_made_a_few_at_a_time(archive, tmp_path, monkeypatch):
    imported("relabel", archive, tmp_path / "at_once.zarr")
    monkeypatch.setattr(relabel.importers.shard, "_NUMBERS", 1)
    monkeypatch.setattr(relabel.importers.shard, "TOGETHER", 3)
    imported("relabel", archive, tmp_path / "one_by_one.zarr")
    assert contents(tmp_path / "one_by_one.zarr") == contents(tmp_path / "at_once.zarr")


def test_what_is_no_map_is_a_failed_row_and_the_others_are_imported(archive, store):
    good = (archive / "n01/a.pt").read_bytes()
    (archive / "n01/a.pt").write_bytes(good[: len(good) // 2])
    torch.save({"map": torch.zeros(1)}, archive / "n02/c.pt")
    printed = imported("relabel", archive, store, code=1)
    assert "n01/a.JPEG  n01/a.pt: damaged or cut" in printed
    assert "n02/c.JPEG  n02/c.pt: holds a dict, not a tensor (2, k, H, W)" in printed
    assert "more failed than --max-failures 0.01 accepts" in printed
    again = imported("relabel", archive, store, "--max-failures", 0.2, code=1)
    assert "2 images of the shards that were there already failed earlier" in again
    assert json.loads(imported("relabel", archive, store, "--max-failures", 0.5, "--json"))["failed"] == 2
    assert run("verify", "shards", store, "--quiet").exit_code == 0
    assert relabel.open(store).has_label([0, 1, 2, 3]).tolist() == [False, True, False, True]


def test_failures_that_are_not_listed_count_all_the_same(archive, store, tmp_path, monkeypatch):
    for stem in STEMS[:3]:
        (archive / f"{stem}.pt").write_bytes(b"cut")
    monkeypatch.setattr(relabel.importers.run, "_LISTED", 1)
    summary = json.loads(imported("relabel", archive, store, "--max-failures", 0.5, "--json", code=1))
    assert (len(summary["failures"]), summary["failures_unlisted"], summary["failed"]) == (1, 2, 3)
    again = tmp_path / "again.zarr"
    assert "3 failures:" in imported("relabel", archive, again, "--max-failures", 0.75)


def test_images_without_a_map_fail_and_maps_without_an_image_are_counted(lists, tmp_path):
    archive = make_archive(tmp_path / "archive", "relabel", ["n01/a", "n01/b", "n02/x", "n02/y"], lists)
    photos, store = make_photos(tmp_path / "photos", KEYS, SIZES), tmp_path / "labels.zarr"
    printed = imported("relabel", archive, store, "--images", photos, "--max-failures", 0.5)
    assert "4, 2 of them of no image" in printed
    assert "n02/c.png  the archive holds no map of this image" in printed
    assert run("verify", "shards", store, "--images", photos, "--quiet").exit_code == 0


def test_images_that_share_a_file_are_refused_by_name(lists, tmp_path):
    # As in CUB-200: the published rule cuts class folders, too, at their first dot.
    archive = make_archive(tmp_path / "archive", "relabel", ["001", "n01/a"], Lists(lists.scores[:2], lists.ids[:2]))
    keys = ["001.Albatross/x.png", "001.Albatross/y.png", "n01/a.png"]
    photos, store = make_photos(tmp_path / "photos", keys, SIZES[:3]), tmp_path / "labels.zarr"
    printed = imported("relabel", archive, store, "--images", photos, code=1)
    assert printed.count("2 images have the one map 001.pt") == 2
    assert relabel.open(store).has_label([0, 1, 2]).tolist() == [False, False, True]


def test_tars_are_shards_and_their_keys_need_no_class_folder(tokens, store, lists, photos, tmp_path):
    for number, keys in enumerate((KEYS[:1], KEYS[1:])):
        make_tar(tmp_path / f"{number}.tar", photos, keys)
    tars = tmp_path / "{0..1}.tar"
    imported("tokenlabeling", tokens, store, "--images", tars)
    assert run("verify", "shards", store, "--images", tars, "--quiet").exit_code == 0
    maps = relabel.open(store)
    assert list(maps.keys()) == ["a", "b", "c", "d"]
    assert maps.manifest.data.shards == ("0.tar", "1.tar")
    whole = maps[maps.rows(["c"])].pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), fill="zero")[0].numpy()
    rounded = Lists(lists.scores.half(), lists.ids).dense(2)
    np.testing.assert_allclose(whole, published_label(rounded, oracle.WHOLE), rtol=0, atol=1e-5)
    said = imported("tokenlabeling", tokens, store, "--images", tars, "--samples-per-shard", 2, code=2)
    assert "a tar is a shard" in said


def test_a_key_without_a_folder_that_fits_several_maps_is_refused(lists, photos, tmp_path):
    archive = make_archive(tmp_path / "archive", "relabel", ["n01/a", "n02/a", "n01/b", "n02/c"], lists)
    tar, store = make_tar(tmp_path / "one.tar", photos, KEYS[:3]), tmp_path / "labels.zarr"
    printed = imported("relabel", archive, store, "--images", tar, "--max-failures", 0.5)
    assert "several maps of the archive have this name" in printed
    assert relabel.open(store).has_label([0, 1, 2]).tolist() == [False, True, True]


def test_an_unreadable_image_has_no_centre_square(tokens, store, photos):
    (photos / KEYS[1]).write_bytes(b"no image")
    printed = imported("tokenlabeling", tokens, store, "--images", photos, "--max-failures", 0.25)
    assert "n01/b.png  not a readable image: unknown format" in printed
    assert run("verify", "shards", store, "--images", photos, "--quiet").exit_code == 0


def test_the_other_formats_files_are_refused_unless_the_footprint_is_said(archive, store, photos):
    said = imported("tokenlabeling", archive, store, "--images", photos, code=2)
    assert "most files hold float32, as ReLabel's do: relabel import relabel" in said
    assert not store.exists()
    imported("tokenlabeling", archive, store, "--images", photos, "--footprint", "center")
    assert read_manifest(store).preprocessing.fit == "center"


def test_halves_cannot_say_more_than_2048_classes(lists, tmp_path):
    archive = make_archive(tmp_path / "archive", "tokenlabeling", STEMS, lists)
    many = ["--classes", 2049, "--footprint", "whole"]
    said = imported("tokenlabeling", archive, tmp_path / "labels.zarr", *many, code=2)
    assert "class ids of float16 are exact up to 2048 only, and there are 2049 classes" in said
    imported("tokenlabeling", archive, tmp_path / "labels.zarr", "--classes", 2048, "--footprint", "whole")
    ids = torch.where(lists.ids == 7, 20_001, lists.ids)
    make_archive(tmp_path / "many", "relabel", STEMS, Lists(lists.scores, ids))
    imported("relabel", tmp_path / "many", tmp_path / "many.zarr", "--classes", 21_841)
    assert bool((relabel.open(tmp_path / "many.zarr")[slice(0, 4)].classes == 20_001).any())


def test_a_centre_square_without_images_is_refused_with_the_way_out(tokens, tmp_path):
    said = imported("tokenlabeling", tokens, tmp_path / "labels.zarr", code=2)
    assert "covers the centre square of its image" in said
    assert "give --images" in said
    assert "--footprint whole" in said


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("absent", "no such folder"),
        ("empty", "holds no .pt files"),
        ("above", "They are in {}/above/archive: give that"),
        ("text", "none of the files is a map of ReLabel's kind. For example a.pt: damaged"),
        ("http://host/archive", "is a URL"),
    ],
)
def test_what_is_no_archive_is_said(folder, said, lists, tmp_path):
    (tmp_path / "empty/n01").mkdir(parents=True)
    make_archive(tmp_path / "above/archive", "relabel", STEMS, lists)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.pt").write_text("no tensor")
    given = folder if "://" in folder else tmp_path / folder
    assert said.format(tmp_path) in imported("relabel", given, tmp_path / "labels.zarr", code=2)
    assert not (tmp_path / "labels.zarr").exists()


def test_an_archive_of_other_images_is_told_by_example(lists, photos, tmp_path):
    archive = make_archive(tmp_path / "archive", "relabel", [f"val/{i}" for i in range(4)], lists)
    said = imported("relabel", archive, tmp_path / "labels.zarr", "--images", photos, code=2)
    assert "the first image, 'n01/a.png', would have 'n01/a.pt', and the first file is 'val/0.pt'" in said


def test_something_else_at_the_stores_place_is_left_alone(archive):
    result = run("import", "relabel", archive, archive, "--classes", CLASSES)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "is not a relabel store" in result.stderr
    assert sorted(p.name for p in archive.iterdir()) == ["n01", "n02"]


def test_names_of_files_reach_no_terminal(lists, tmp_path):
    stems = ["n01/\x1b[31mred", "n01/two\nlines", "n02/..", "n02/d"]
    archive, store = make_archive(tmp_path / "archive", "relabel", stems, lists), tmp_path / "labels.zarr"
    for stem in stems[:2]:
        (archive / f"{stem}.pt").write_bytes(b"cut")
    printed = imported("relabel", archive, store, "--max-failures", 0.5)
    assert "\x1b" not in printed
    assert "n01/two lines.JPEG" in printed
    assert sorted(relabel.open(store).keys()) == sorted(f"{stem}.JPEG" for stem in stems)
    assert run("verify", "shards", store, "--quiet").exit_code == 0


def test_links_are_followed_and_what_is_no_file_fails(lists, tmp_path):
    real = make_archive(tmp_path / "real", "relabel", STEMS, lists)
    archive, store = tmp_path / "archive", tmp_path / "labels.zarr"
    archive.mkdir()
    (archive / "n01").symlink_to(real / "n01", target_is_directory=True)
    (archive / "n02").mkdir()
    (archive / "n02/c.pt").symlink_to(real / "n02/c.pt")
    (archive / "n02/lost.pt").symlink_to(real / "absent.pt")
    (archive / "n02/folder.pt").mkdir()
    os.mkfifo(archive / "n02/pipe.pt")
    printed = imported("relabel", archive, store, "--max-failures", 0.5)
    assert "n02/folder.pt: cannot be read: a folder, not a regular file" in printed
    assert "n02/pipe.pt: cannot be read: a pipe, not a regular file" in printed
    assert "n02/lost.pt: cannot be read: No such file or directory" in printed
    assert len(relabel.open(store)) == 3


def test_progress_goes_to_stderr_and_the_result_to_stdout(archive, tmp_path):
    result = run("import", "relabel", archive, tmp_path / "labels.zarr", "--classes", CLASSES)
    assert result.exit_code == 0
    for bar in ("listing maps", "scanning maps: 100% 4/4", "importing: 100% 4/4"):
        assert bar in result.stderr
        assert bar not in result.stdout
