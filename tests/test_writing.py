"""Stores of logits that another program made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from importers.archives import make_photos
from stores import random_logits

import relabel
from relabel.errors import InvalidValueError, RelabelError, StoreError, TeacherError
from relabel.store import StoreReader
from relabel.verify import verify_shards
from relabel.worth import verify_labels
from relabel.writing import WriteOptions, write

KEYS = [f"{'ab'[n % 2]}/{n}.png" for n in range(7)]
LOGITS = random_logits(7, 12, (3, 5)).numpy()


def maps_of(logits: np.ndarray[Any, Any], **given: Any) -> relabel.ScoreMap:
    return relabel.ScoreMap.from_logits(torch.from_numpy(logits), 4, 3, **given)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", KEYS, [(20 + number, 30) for number in range(7)])


def test_numpy_logits_become_a_store_that_verifies_and_gives_the_oracles_labels(tmp_path, photos):
    batches = (maps_of(LOGITS[start : start + 2]) for start in range(0, 7, 2))
    names = tuple(f"class {n}" for n in range(12))
    write(
        tmp_path / "s.zarr",
        KEYS,
        batches,
        images=str(photos),
        options=WriteOptions(teacher="my own", class_names=names, rows_per_shard=3, step=1 / 16),
    )
    report = verify_shards(tmp_path / "s.zarr", str(photos), show_progress=False)
    assert (report.findings, report.shards, report.images_compared) == ((), 3, 7)
    maps = relabel.open(tmp_path / "s.zarr")
    assert (maps.class_names, maps.manifest.data.class_names) == (names, ("a", "b"))
    assert (maps.manifest.teacher.name, maps.manifest.preprocessing) == ("my own", None)
    labels = maps[maps.rows(KEYS)].pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(7, 4)).numpy()
    exact = maps_of(LOGITS).pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(7, 4)).numpy()
    np.testing.assert_allclose(labels, exact, atol=0.03)
    np.testing.assert_allclose(exact.sum(1), 1, atol=1e-6)
    table = StoreReader(tmp_path / "s.zarr").table(2)
    assert (table.labels[0], table.sizes_hw[0].tolist(), table.orientations[0]) == (0, [26, 30], 1)


def test_without_images_everything_about_them_is_unknown_and_the_store_is_sound_all_the_same(tmp_path, photos):
    footprint = torch.tensor([[0.0, 0.1, 1.0, 0.9]]).expand(7, 4)
    options = WriteOptions(dtype="float16", compression="none", labels=[*range(6), -1])
    write(tmp_path / "s.zarr", KEYS, maps_of(LOGITS, footprint=footprint), options=options)
    assert verify_shards(tmp_path / "s.zarr", show_progress=False).findings == ()
    compared = verify_shards(tmp_path / "s.zarr", str(photos), show_progress=False)
    assert (compared.findings, compared.images_compared) == ((), 0)
    table = StoreReader(tmp_path / "s.zarr").table(0)
    assert (table.labels.tolist(), table.image_hashes.any(), table.orientations.any()) == (options.labels, False, False)
    torch.testing.assert_close(relabel.open(tmp_path / "s.zarr")[[2]].footprint, footprint[:1])
    with pytest.raises(TeacherError, match="written by another program"):
        verify_labels(tmp_path / "s.zarr", str(photos))


@pytest.mark.parametrize(
    ("keys", "count", "given", "said"),
    [
        (["a", "a"], 2, {}, "'a' stands twice"),
        (["a", ""], 2, {}, "none of them empty"),
        ("ab", 2, {}, "list of strings"),
        (["a", "b"], 3, {}, "2 keys need as many maps; got 3"),
        (["a", "\udcff"], 2, {}, "UTF-8"),
        (["a", "b"], 2, {"labels": [1]}, "2 keys need as many labels; got 1"),
        ({"a", "b"}, 2, {}, "list of strings"),
        (["a", "b"], 2, {"labels": [1, 2.7]}, r"whole numbers from -1 .* got 2\.7"),
        (["a", "b"], 2, {"labels": [1, -5]}, "got -5"),
        (["a", "b"], 2, {"labels": [1, 5], "label_names": ("x", "y")}, r"to 1; got 5"),
        (["a", "\0"], 2, {}, "without NUL"),
        (["a", "b" * 70_000], 2, {}, "at most 65536 bytes; got 70000"),
        (["a", "b"], 2, {"rows_per_shard": "4"}, "rows_per_shard is '4', not a whole number"),
        (["a", "b"], 2, {"class_names": range(12)}, r"class_names is range.*not"),
        (["a", "b"], 2, {"class_names": [*range(12)]}, r"class_names\[0\] is 0, not text"),
        (["a", "b"], 2, {"teacher": "\ud800"}, "which UTF-8 cannot say"),
        (["a", "b"], 2, {"step": "1/4"}, "step is '1/4', not a number"),
        (["a", "b"], 2, {"labels": 5}, "one per key; got 5"),
        (["a", "b"], 2, {"class_names": ("one",)}, "12 classes need as many class names; got 1"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(tmp_path, keys, count, given, said):
    with pytest.raises(InvalidValueError, match=said):
        write(tmp_path / "s.zarr", keys, maps_of(LOGITS[:count]), options=WriteOptions(**given))
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(("count", "said"), [(5, "only 5 came"), (8, "more came")])
def test_maps_that_are_too_few_or_too_many_publish_no_whole_store(tmp_path, count, said):
    logits = random_logits(8, 12, (3, 5)).numpy()
    batches = (maps_of(logits[n : n + 1]) for n in range(count))
    with pytest.raises(InvalidValueError, match=said):
        write(tmp_path / "s.zarr", KEYS, batches, options=WriteOptions(rows_per_shard=4))
    with pytest.raises(StoreError, match=r"1 of 2 shards .* are not published"):
        relabel.open(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="is there already: give another folder, or delete it"):
        write(tmp_path / "s.zarr", KEYS, maps_of(logits[:7]), options=WriteOptions(rows_per_shard=4))


def test_a_shard_of_another_run_is_found(tmp_path):
    for name, logits in (("a", LOGITS), ("b", LOGITS[::-1].copy())):
        write(tmp_path / name, KEYS, maps_of(logits), options=WriteOptions(rows_per_shard=4))
    for file in (tmp_path / "b").glob("*/c.0.*"):
        (tmp_path / "a" / file.parent.name / file.name).write_bytes(file.read_bytes())
    (finding,) = verify_shards(tmp_path / "a", show_progress=False).findings
    assert "do not belong together" in finding.what


def test_what_is_no_map_and_what_is_no_folder_are_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="got a Tensor"):
        write(tmp_path / "s.zarr", KEYS, [torch.from_numpy(LOGITS)])
    with pytest.raises(StoreError, match="is a URL"):
        write("s3://bucket/s.zarr", KEYS, maps_of(LOGITS))


def test_a_batch_of_another_kind_is_refused(tmp_path):
    other = relabel.ScoreMap.from_logits(torch.from_numpy(LOGITS[3:]), 5, 2)
    with pytest.raises(RelabelError, match="must be those of the store"):
        write(tmp_path / "s.zarr", KEYS, [maps_of(LOGITS[:3]), other])


def test_a_key_that_no_image_has_is_named(tmp_path, photos):
    with pytest.raises(InvalidValueError, match=r"the images lack 1 of 8 keys: 'c/9.png'"):
        write(
            tmp_path / "s.zarr", [*KEYS, "c/9.png"], maps_of(np.concatenate([LOGITS, LOGITS[:1]])), images=str(photos)
        )
