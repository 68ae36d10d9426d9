"""Stores of parts of a data set become the store of all of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from generating import answer, make_teacher, options, samples, write_folder, write_tar, write_tars
from store.samples import contents
from stores import make_store, random_logits

import relabel
from relabel import ManifestMismatchError, StoreError, merge
from relabel.cli import main
from relabel.generate import generate
from relabel.verify import verify_shards


def _labelled(images: str, store: Path, **given: object) -> Path:
    generate(images, store, make_teacher(**given), options())
    return store


def _files(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if name != "zarr.json"}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of 5, 3 and 4 pictures, one of them cut; a store of the first two, of the third, and of all."""
    root = tmp_path_factory.mktemp("tars")
    pattern = write_tars(root, [5, 3])
    write_tar(root / "part-02.tar", [*samples(range(8, 11)), ("odd/cut.png", b"\x89PNG no"), ("odd/cut.cls", b"1")])
    _labelled(str(root / "part-0[01].tar"), root / "first.zarr")
    _labelled(str(root / "part-02.tar"), root / "second.zarr")
    _labelled(pattern, root / "all.zarr")
    return root


def test_of_tars_the_merged_store_is_that_of_all_tars_byte_for_byte(tars, tmp_path):
    summary = merge([tars / "first.zarr", tars / "second.zarr"], tmp_path / "out", show_progress=False)
    assert (summary.stores, summary.shards, summary.shards_skipped, summary.images) == (2, 3, 0, 12)
    assert contents(tmp_path / "out") == contents(tars / "all.zarr")
    again = generate(str(tars / "part-*.tar"), tmp_path / "out", make_teacher(), options())
    assert again.had_nothing_to_do


def test_a_merge_goes_on_where_it_stopped_and_mends_what_was_lost(tars, tmp_path):
    stores = [str(tars / "first.zarr"), str(tars / "second.zarr")]
    merge(stores, tmp_path / "out", show_progress=False)
    # A user's folder in a file's place hinders its shard alone.
    for name in ("label/c.0.0", "label/c.1.0"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out/label/c.0.0/mine").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"a folder that is not empty.*and merge again. All shards but 1"):
        merge(stores, tmp_path / "out", show_progress=False)
    assert (tmp_path / "out/label/c.1.0").exists()
    shutil.rmtree(tmp_path / "out/label/c.0.0")
    merge(stores, tmp_path / "out", show_progress=False)
    (tmp_path / "out" / "status" / "c.1.0").unlink()
    (tmp_path / "out" / "key" / "c.2.0").unlink()
    result = CliRunner().invoke(main, ["merge", *stores, str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "12 images in 3 shards, of 2 stores; 1 shards were there already" in result.output
    assert contents(tmp_path / "out") == contents(tars / "all.zarr")


def test_folders_of_other_classes_are_one_list_and_labels_go_by_name(tmp_path):
    """Read by zarr-python: keys in order, each with the class of its folder among all of them."""
    for name, numbers in (("a", range(4)), ("b", range(4, 9))):
        write_folder(tmp_path / name, 0)
        for key, data in samples(numbers):
            if key.endswith("png"):
                file = tmp_path / name / (key if name == "a" else key.replace("even", "zebra"))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        _labelled(str(tmp_path / name), tmp_path / f"{name}.zarr")
    merge([tmp_path / "b.zarr", tmp_path / "a.zarr"], tmp_path / "out", show_progress=False)
    group, names = zarr.open_group(tmp_path / "out", mode="r"), ("even", "odd", "zebra")
    attributes = group.attrs["relabel"]["data"]
    assert (attributes["kind"], attributes["class_names"], attributes["counts"]) == ("list", list(names), [5, 4])
    keys, labels = group["key"][:].reshape(-1), group["label"][:].reshape(-1)
    assert [(key, names[label]) for key, label in zip(keys, labels, strict=True) if key] == [
        (key, key.partition("/")[0])
        for root in ("b", "a")
        for key in sorted(str(p.relative_to(tmp_path / root)) for p in (tmp_path / root).rglob("*.png"))
    ]
    assert verify_shards(tmp_path / "out", show_progress=False).is_clean
    maps, parts = relabel.open(tmp_path / "out"), [relabel.open(tmp_path / f"{name}.zarr") for name in "ba"]
    for part in parts:
        own = list(part.keys())
        for name in ("classes", "planes", "rest", "profile"):
            assert torch.equal(getattr(maps[maps.rows(own)], name), getattr(part[part.rows(own)], name))


def test_a_store_of_no_ground_truth_joins_one_of_named_classes(tmp_path):
    write_tar(tmp_path / "a.tar", [(n, {b"0": b"even", b"1": b"odd"}.get(d, d)) for n, d in samples(range(3))])
    write_tar(tmp_path / "b.tar", [(n, d) for n, d in samples(range(3, 5)) if n.endswith("png")])
    write_tar(tmp_path / "c.tar", samples(range(5, 7)))
    for name in "abc":
        _labelled(str(tmp_path / f"{name}.tar"), tmp_path / name)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out", show_progress=False)
    assert zarr.open_group(tmp_path / "out", mode="r")["label"][:].tolist() == [[0, 1, 0], [-1, -1, -1]]
    with pytest.raises(ManifestMismatchError, match=r"the classes of .*c are numbers"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "wrong", show_progress=False)
    with pytest.raises(StoreError, match="memory://x is a URL"):
        merge([tmp_path / "a", tmp_path / "b"], "memory://x")


@pytest.mark.parametrize("kind", [{}, {"dtype": "float16", "compression": "none"}, {"footprint": "each"}])
def test_maps_of_every_kind_are_copied_bit_for_bit(tmp_path, kind):
    logits = random_logits(7, 12, (3, 3))
    given = dict(kind)
    boxes = torch.rand(7, 4) * torch.tensor([-0.2, -0.2, 0.2, 0.2]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    if given.pop("footprint", None):
        given["footprint"] = boxes
    make_store(tmp_path / "a", [["k0", "k1"], ["k2"]], logits[:3], **_part(given, slice(0, 3)))
    make_store(
        tmp_path / "b", [["k3", "k4", "k5", "k6"]], logits[3:], failed=frozenset({"k4"}), **_part(given, slice(3, 7))
    )
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out", show_progress=False)
    assert verify_shards(tmp_path / "out", show_progress=False).is_clean
    for name in ("a", "b"):
        part, maps = relabel.open(tmp_path / name), relabel.open(tmp_path / "out")
        keys = [key for key in (f"k{i}" for i in range(7)) if key in {*part.keys()} - {"k4"}]
        mine, theirs = maps[maps.rows(keys)], part[part.rows(keys)]
        for field in ("classes", "planes", "rest", "profile"):
            assert torch.equal(getattr(mine, field), getattr(theirs, field))
        assert torch.equal(mine.footprints_xyxy(), theirs.footprints_xyxy())


def _part(given: dict[str, object], rows: slice) -> dict[str, object]:
    return {name: value[rows] if name == "footprint" else value for name, value in given.items()}  # type: ignore[index]


def test_what_does_not_belong_together_is_refused(tars, tmp_path):
    other = make_teacher(lambda images: answer(images) + 1, record={"weights_digest": "1" * 64})
    generate(str(tars / "part-02.tar"), tmp_path / "other", other, options())
    with pytest.raises(ManifestMismatchError, match=r"was not made as .*\n  teacher\.weights_digest: '0.*' != '1"):
        merge([tars / "first.zarr", tmp_path / "other"], tmp_path / "out")
    with pytest.raises(relabel.InvalidValueError, match=r"6 stand twice: .* \(.*first.zarr and .*first.zarr\)|8 stand"):
        merge([tars / "first.zarr", tars / "first.zarr"], tmp_path / "out", show_progress=False)
    with pytest.raises(relabel.InvalidValueError, match="a merge takes two stores or more, and a new one that is none"):
        merge([tars / "first.zarr", tars / "second.zarr"], tars / "first.zarr")
    (tmp_path / "part").symlink_to(tars / "second.zarr")
    with pytest.raises(relabel.InvalidValueError, match="a merge takes two stores"):
        merge([tars / "first.zarr", tars / "second.zarr"], tmp_path / "part")
    write_folder(tmp_path / "photos", 3)
    _labelled(str(tmp_path / "photos"), tmp_path / "folder.zarr")
    with pytest.raises(ManifestMismatchError, match="keys of two kinds"):
        merge([tars / "first.zarr", tmp_path / "folder.zarr"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_or_damaged_store_is_refused_and_nothing_wrong_is_copied(tars, tmp_path):
    parts = [tmp_path / name for name in ("a", "b")]
    for part, name in zip(parts, ("first.zarr", "second.zarr"), strict=True):
        for file, data in contents(tars / name).items():
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            (part / file).write_bytes(data)
    (parts[0] / "status" / "c.1.0").unlink()
    with pytest.raises(StoreError, match=r"1 of 2 shards of .*a are not published yet"):
        merge(parts, tmp_path / "out", show_progress=False)
    (parts[0] / "status" / "c.1.0").write_bytes((tars / "first.zarr" / "status" / "c.1.0").read_bytes())
    file = parts[1] / "scores" / "c.0.0.0.0.0"
    whole = bytearray(file.read_bytes())
    whole[20] ^= 4
    file.write_bytes(whole)
    with pytest.raises(relabel.DamagedStoreError):
        merge(parts, tmp_path / "out", show_progress=False)


def test_stores_whose_listing_was_skipped_are_merged_as_that_of_all(tmp_path):
    write_tars(tmp_path, [3, 2, 4])
    skipped = replace(options(), samples_per_shard=6)
    for name, pattern in (("a", "part-0[01].tar"), ("b", "part-02.tar"), ("all", "part-*.tar")):
        generate(str(tmp_path / pattern), tmp_path / f"{name}.zarr", make_teacher(), skipped)
    merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "out", show_progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "all.zarr")
    assert np.unique(zarr.open_group(tmp_path / "out", mode="r")["key"][:]).size == 10
