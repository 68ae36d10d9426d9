"""A run: the same store however it is made, every row its own image's map, and nothing published of a bad shard."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import generating
import numpy as np
import pytest
import torch
from generating import (
    make_teacher,
    options,
    picture,
    rows_by_key,
    samples,
    write_folder,
    write_tar,
    write_tars,
)
from store.samples import contents
from torch import Tensor

from relabel.errors import ManifestMismatchError, SourceError, StoreBusyError
from relabel.generate import GenerateSummary, generate
from relabel.generate.batches import DecodedBatches
from relabel.geometry import Grid
from relabel.images import decode_and_fit, image_hash
from relabel.manifest import MemberRecord
from relabel.plan import Failure
from relabel.score_map import ScoreMap
from relabel.store import StoreReader, create_or_open
from relabel.teacher import Ensemble
from relabel.verify import verify_shards

COUNTS = (7, 1, 9, 4)
TOTAL = sum(COUNTS)


@pytest.fixture
def tars(tmp_path: Path) -> str:
    return write_tars(tmp_path / "tars", COUNTS)


def findings(store: Path, images: str | None = None) -> list[str]:
    return [f.what for f in verify_shards(store, images, workers=2, show_progress=False).findings]


def expected(key: str, number: int, fit: str, dtype: str) -> dict[str, Any]:
    """What a store must say of one picture, from the picture, the teacher and the score map alone."""
    teacher = make_teacher(fit=fit)
    (decoded,) = decode_and_fit(picture(number), [teacher.preprocessing])
    maps = ScoreMap.from_logits(teacher(decoded.pixels[None]), 3, 4)
    coded = maps.coded(options().step)
    kept = coded if dtype == "uint8" else maps
    scores = torch.cat([kept.planes[0], kept.rest])
    values = {
        "hash": image_hash(picture(number)),
        "frame": (20, 30, 1),
        "label": number % 2,
        "error": "",
        "classes": coded.classes[0].tolist(),
        "scores": (scores if dtype == "uint8" else scores.half()).tolist(),
        "profile": coded.profile[0].tolist(),
    }
    return values if fit == "squash" else values | {"footprint": np.float32(decoded.footprint.xyxy).tolist()}


@pytest.mark.parametrize("fit", ["squash", "center", "letterbox"])
@pytest.mark.parametrize(("dtype", "compression"), [("uint8", "zstd"), ("float16", "none"), ("uint8", "none")])
def test_every_row_is_the_map_of_its_own_image(tars, tmp_path, fit, dtype, compression):
    store = tmp_path / "store"
    generate(tars, store, make_teacher(fit=fit), options(dtype=dtype, compression=compression))
    found = rows_by_key(store)
    assert found == {
        key: expected(key, number, fit, dtype)
        for number in range(TOTAL)
        for key in [f"{'even' if number % 2 == 0 else 'odd'}/{number:03d}"]
    }
    assert findings(store, tars) == []


def test_a_run_on_each_device_is_a_sound_store(tars, tmp_path, device):
    generate(tars, tmp_path / "cpu", make_teacher(), options())
    assert generate(tars, tmp_path / "store", make_teacher(device=device), options()).is_good
    found, expected = rows_by_key(tmp_path / "store"), rows_by_key(tmp_path / "cpu")
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert row["classes"] == expected[key]["classes"]
        assert np.abs(np.subtract(row["scores"], expected[key]["scores"])).max() <= (device.type == "cuda")
    assert findings(tmp_path / "store", tars) == []


class StopRunError(KeyboardInterrupt):
    """Thrown by a teacher, as a person's Ctrl-C or a dying machine would be."""


def stopping(forward: Callable[[Tensor], Tensor], after: int) -> Callable[[Tensor], Tensor]:
    calls = iter(range(after))

    def stops(images: Tensor) -> Tensor:
        if next(calls, None) is None:
            raise StopRunError
        return forward(images)

    return stops


def once(images: str, store: Path, **given: Any) -> None:
    generate(images, store, make_teacher(generating.convolutions()), options(**given))


def stopped_and_resumed(images: str, store: Path, after: int) -> None:
    with pytest.raises(StopRunError):
        generate(images, store, make_teacher(stopping(generating.convolutions(), after)), options())
    once(images, store)


def ranks(images: str, store: Path, order: tuple[int, ...]) -> None:
    for rank in order:
        once(images, store, rank=rank, world_size=len(order))


@pytest.mark.parametrize(
    "make",
    [
        lambda images, store: once(images, store, workers=1),
        lambda images, store: once(images, store, workers=7),
        lambda images, store: [once(images, store), once(images, store)],
        lambda images, store: stopped_and_resumed(images, store, 0),
        lambda images, store: stopped_and_resumed(images, store, 4),
        lambda images, store: stopped_and_resumed(images, store, 6),
        lambda images, store: ranks(images, store, (0, 1)),
        lambda images, store: ranks(images, store, (2, 0, 1)),
    ],
    ids=["1 worker", "7 workers", "again", "stopped at once", "in a shard", "later", "2 ranks", "3 ranks"],
)
def test_the_bytes_do_not_depend_on_how_the_store_was_made(tars, tmp_path, make):
    once(tars, tmp_path / "one")
    make(tars, tmp_path / "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert findings(tmp_path / "other", tars) == []


def test_a_folder_gets_the_same_labels_as_its_tars(tars, tmp_path):
    folder = write_folder(tmp_path / "folder", TOTAL)
    generate(tars, tmp_path / "a", make_teacher(), options())
    generate(folder, tmp_path / "b", make_teacher(), options(samples_per_shard=8))
    assert rows_by_key(tmp_path / "a") == rows_by_key(tmp_path / "b")
    assert StoreReader(tmp_path / "b").manifest.data.counts == (8, 8, 5)
    assert findings(tmp_path / "b", folder) == []


@pytest.mark.parametrize(
    ("num_classes", "planes", "profile", "kept"),
    [(10, 50, 64, (10, 0)), (10, 4, 64, (4, 6)), (1, 16, 64, (1, 0)), (10, 10, 0, (10, 0)), (10, 2, 0, (2, 0))],
)
def test_planes_and_profile_are_cut_to_the_classes_there_are(tars, tmp_path, num_classes, planes, profile, kept):
    teacher = make_teacher(lambda images: generating.answer(images)[:, :num_classes], num_classes=num_classes)
    generate(tars, tmp_path / "store", teacher, options(planes=planes, profile=profile))
    scores = StoreReader(tmp_path / "store").manifest.scores
    assert (scores.planes, scores.profile) == kept
    assert findings(tmp_path / "store", tars) == []


@pytest.mark.parametrize(("num_classes", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_ids_are_as_wide_as_the_classes_need(tmp_path, num_classes, dtype):
    images = write_tars(tmp_path / "tars", (2,))

    def forward(pixels: Tensor) -> Tensor:
        return torch.arange(float(num_classes))[None, :, None, None].expand(len(pixels), -1, 1, 1)

    teacher = make_teacher(forward, num_classes=num_classes, grid=Grid(1, 1))
    generate(images, tmp_path / "store", teacher, options(planes=2, profile=0))
    batch = StoreReader(tmp_path / "store").read(np.array([0, 1]))
    assert batch.classes.dtype == dtype
    assert batch.classes.tolist() == [[num_classes - 1, num_classes - 2]] * 2
    assert findings(tmp_path / "store") == []


# What goes wrong


def tar_with(folder: Path, *bad: bytes, good: int = 5) -> str:
    folder.mkdir()
    members = [(f"bad{i}.png", data) for i, data in enumerate(bad)]
    write_tar(folder / "part-00.tar", [*generating.samples(range(good)), *members])
    return str(folder / "part-00.tar")


def test_unreadable_images_are_failed_rows_with_their_reasons(tmp_path):
    images = tar_with(tmp_path / "tars", b"", b"no picture", picture(99)[:100])
    summary = generate(images, tmp_path / "store", make_teacher(), options())
    assert [(f.shard, f.key) for f in summary.failures] == [(0, "bad0"), (0, "bad1"), (0, "bad2")]
    assert (summary.images, summary.shards_published, summary.is_good) == (8, 1, False)
    found = rows_by_key(tmp_path / "store")
    assert [found[f.key]["error"] for f in summary.failures] == [f.reason for f in summary.failures]
    assert "scores" not in found["bad1"]
    assert findings(tmp_path / "store", images) == []


def test_max_failures_is_what_a_user_accepts(tmp_path):
    images = tar_with(tmp_path / "tars", b"no picture", good=9)
    runs = [generate(images, tmp_path / str(m), make_teacher(), options(max_failures=m)) for m in (0.09, 0.1)]
    assert [summary.is_good for summary in runs] == [False, True]


def test_scores_that_are_not_finite_fail_their_images_alone(tmp_path):
    images = tar_with(tmp_path / "tars", picture(50, red=255), picture(51, red=255))
    summary = generate(images, tmp_path / "store", make_teacher(generating.nan_where_red), options())
    assert [(f.key, f.reason) for f in summary.failures] == [
        (key, "the teacher's scores are not finite (NaN or infinity)") for key in ("bad0", "bad1")
    ]
    generate(images, tmp_path / "clean", make_teacher(), options())
    bad, clean = rows_by_key(tmp_path / "store"), rows_by_key(tmp_path / "clean")
    assert {k: v for k, v in bad.items() if not v["error"]} == {k: v for k, v in clean.items() if "bad" not in k}
    assert findings(tmp_path / "store", images) == []


def test_a_teacher_that_only_answers_nan_fails_every_image(tars, tmp_path):
    teacher = make_teacher(lambda images: generating.answer(images) * torch.nan, fit="center")
    summary = generate(tars, tmp_path / "store", teacher, options(max_failures=0.5))
    assert (len(summary.failures), summary.images, summary.is_good) == (TOTAL, TOTAL, False)
    assert findings(tmp_path / "store", tars) == []


def test_a_fault_in_publishing_is_raised(tars, tmp_path, monkeypatch):
    def faulty(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("relabel.store.ShardWriter.publish", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        generate(tars, tmp_path / "store", make_teacher(), options())
    assert not list((tmp_path / "store").rglob(".*"))


def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let `change` happen when everything is listed and nothing is read."""
    begin = DecodedBatches.__init__

    def changed(*arguments: Any) -> None:
        change()
        begin(*arguments)

    monkeypatch.setattr(DecodedBatches, "__init__", changed)


def rewritten(tars: str, number: int, numbers: Sequence[int]) -> Path:
    return write_tar(Path(tars).parent / f"part-{number:02d}.tar", generating.samples(numbers))


def cut_short(tars: str) -> None:
    path = Path(tars).parent / "part-02.tar"
    path.write_bytes(path.read_bytes()[:6000])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        # Tar 2 holds the images 8 to 16.
        (cut_short, "part-02.tar is damaged or cannot be read"),
        (lambda tars: (Path(tars).parent / "part-02.tar").unlink(), "part-02.tar is damaged or cannot be read"),
        (
            lambda tars: rewritten(tars, 2, range(8, 16)),
            "no longer holds the images that were listed",
        ),
        (lambda tars: rewritten(tars, 2, [16, *range(9, 17)]), "holds the key"),
        (lambda tars: rewritten(tars, 2, [*range(9, 17), 8]), "no longer holds the images that were listed"),
        (lambda tars: rewritten(tars, 2, range(50, 59)), "no longer holds the images that were listed"),
    ],
    ids=["cut", "gone", "one fewer", "one twice", "other order", "others"],
)
def test_a_tar_that_changed_is_not_published_and_the_others_are(tars, tmp_path, monkeypatch, change, what):
    tar = Path(tars).parent / "part-02.tar"
    before = tar.read_bytes()
    with monkeypatch.context() as patch:
        changing(patch, lambda: change(tars))
        summary = generate(tars, tmp_path / "store", make_teacher(), options())
    (failure,) = summary.failures
    assert (failure.shard, failure.key) == (2, "")
    assert what in failure.reason
    assert (summary.shards_published, summary.images, summary.is_good) == (3, TOTAL - 9, False)
    assert not list((tmp_path / "store").rglob(".*"))
    tar.write_bytes(before)
    assert generate(tars, tmp_path / "store", make_teacher(), options()).is_good
    generate(tars, tmp_path / "whole", make_teacher(), options())
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_an_image_added_after_the_listing_is_not_labeled_and_the_next_run_says_so(tars, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        changing(patch, lambda: rewritten(tars, 2, [*range(8, 17), 77]))
        assert generate(tars, tmp_path / "store", make_teacher(), options()).images == TOTAL
    assert findings(tmp_path / "store") == []
    assert any("no row for it" in what for what in findings(tmp_path / "store", tars))
    with pytest.raises(ManifestMismatchError, match=r"\n  1 images are new: 'odd/077'\n"):
        generate(tars, tmp_path / "store", make_teacher(), options())


def test_a_label_follows_the_bytes_that_were_read(tars, tmp_path, monkeypatch):
    changed = [(name, picture(77) if name.endswith(".png") else data) for name, data in generating.samples([7])]
    with monkeypatch.context() as patch:
        changing(patch, lambda: write_tar(Path(tars).parent / "part-01.tar", changed))
        assert generate(tars, tmp_path / "store", make_teacher(), options()).is_good
    assert rows_by_key(tmp_path / "store")["odd/007"]["hash"] == image_hash(picture(77))
    assert findings(tmp_path / "store", tars) == []


def test_an_image_that_a_folder_lost_is_one_failed_row_until_it_is_back(tmp_path, monkeypatch):
    folder = Path(write_folder(tmp_path / "folder", 10))
    image, made = folder / "even" / "004.png", options(samples_per_shard=4)
    generate(str(folder), tmp_path / "whole", make_teacher(), made)
    with monkeypatch.context() as patch:
        changing(patch, image.unlink)
        summary = generate(str(folder), tmp_path / "store", make_teacher(), made)
    assert summary.failures == (Failure(0, "even/004.png", "cannot be read: No such file or directory"),)
    assert summary.shards_published == 3
    # As a link that leads nowhere, it is an image still.
    image.symlink_to("nowhere")
    assert findings(tmp_path / "store", str(folder)) == []
    assert findings(tmp_path / "whole", str(folder)) == [
        "its image was read when it was labelled, and now fails: cannot be read: No such file or directory"
    ]
    image.unlink()
    image.write_bytes(picture(4))
    assert generate(str(folder), tmp_path / "store", make_teacher(), replace(made, retry_failed=True)).is_good
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_shard_that_another_process_writes_is_refused_and_others_stay(tars, tmp_path):
    teacher = make_teacher()
    with pytest.raises(StopRunError):
        generate(tars, tmp_path / "store", make_teacher(stopping(generating.answer, 0)), options())
    manifest = StoreReader(tmp_path / "store", partial=True).manifest
    with create_or_open(tmp_path / "store", manifest).claim(2), pytest.raises(StoreBusyError, match="shard 2"):
        generate(tars, tmp_path / "store", teacher, options())
    generate(tars, tmp_path / "store", teacher, options())
    generate(tars, tmp_path / "whole", teacher, options())
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_images_that_cannot_be_listed_leave_no_store(tmp_path):
    images = write_tars(tmp_path / "tars", (2, 0))
    with pytest.raises(SourceError, match=r"part-01\.tar holds no images"):
        generate(images, tmp_path / "store", make_teacher(), options())
    assert not (tmp_path / "store").exists()


@pytest.fixture
def mended(tmp_path: Path) -> str:
    """Tars of which a store holds a failed image, and which can be read by now; the store is tmp_path / store."""
    folder = tmp_path / "tars"
    images = tar_with(folder, b"no picture")
    write_tar(folder / "part-01.tar", generating.samples([60, 61]))
    images = str(folder / "part-*.tar")
    generate(images, tmp_path / "store", make_teacher(), options())
    write_tar(folder / "part-00.tar", [*generating.samples(range(5)), ("bad0.png", picture(99))])
    return images


def test_shards_with_failed_images_are_labeled_again_where_that_is_asked_for(mended, tmp_path):
    store = tmp_path / "store"
    skipped = generate(mended, store, make_teacher(), options())
    assert (skipped.shards_skipped, skipped.images_earlier, skipped.failed_earlier) == (2, 8, 1)
    summary = generate(mended, store, make_teacher(), options(retry_failed=True))
    assert (summary.shards_skipped, summary.shards_published, summary.failed_earlier) == (1, 1, 0)
    generate(mended, tmp_path / "whole", make_teacher(), options())
    assert contents(store) == contents(tmp_path / "whole")
    assert findings(store, mended) == []
    assert generate(mended, store, make_teacher(), options(retry_failed=True)).had_nothing_to_do


def test_only_a_process_whose_share_it_is_labels_a_shard_again(mended, tmp_path):
    given = options(retry_failed=True, rank=1, world_size=2)
    assert generate(mended, tmp_path / "store", make_teacher(), given).had_nothing_to_do
    assert generating.published(tmp_path / "store") == 2


def test_a_store_without_shards_may_be_deleted_and_is_said_to(tars, tmp_path):
    assert not generate(tars, tmp_path / "store", make_teacher(), options(samples_per_shard=1)).is_good
    assert generating.published(tmp_path / "store") == 1
    with pytest.raises(ManifestMismatchError, match=r"20 images are new or in its 3 unpublished shards"):
        generate(tars, tmp_path / "store", make_teacher(), options())
    shutil.rmtree(tmp_path / "store" / "status")
    (tmp_path / "store" / "status").mkdir()
    with pytest.raises(ManifestMismatchError, match=r"or delete it, for it holds no shard yet"):
        generate(tars, tmp_path / "store", make_teacher(), options())


# Several forward passes


def test_an_ensemble_labels_with_its_mean_and_its_store_says_so(tars, tmp_path):
    first = make_teacher(class_names=tuple(f"class {n}" for n in range(generating.CLASSES)))
    second = make_teacher(
        lambda images: generating.answer(images.flip(1)),
        record={"name": "other"},
        preprocessing=replace(first.preprocessing, image_size_hw=(32, 48), std=(2.0,) * 3),
        grid=Grid(4, 6),
    )
    ensemble = Ensemble(members=(first, second), grid=Grid(2, 3), flip_average=True)
    generate(tars, tmp_path / "store", ensemble, options())
    manifest = StoreReader(tmp_path / "store").manifest
    assert manifest.others == (MemberRecord(teacher=second.record, preprocessing=second.preprocessing),)
    assert (manifest.flip_average, manifest.class_names) == (True, first.class_names)
    assert manifest.mean == "log-probability"
    views = [decode_and_fit(picture(3), ensemble.views)[n].pixels[None] for n in (0, 1)]
    coded = ScoreMap.from_logits(ensemble(views), 3, 4).coded(options().step)
    row = rows_by_key(tmp_path / "store")["odd/003"]
    assert row["scores"] == torch.cat([coded.planes[0], coded.rest]).tolist()
    assert findings(tmp_path / "store", tars) == []
    with pytest.raises(ManifestMismatchError, match="flip_average: True != False"):
        generate(tars, tmp_path / "store", replace(ensemble, flip_average=False), options())
    # As stores were made before they said what is averaged.
    older = tmp_path / "older"
    generate(tars, older, replace(ensemble, mean="probability"), options())
    assert "mean" not in json.loads((older / "zarr.json").read_text())["attributes"]["relabel"]
    refused = "mean: 'probability' != 'log-probability'"
    with pytest.raises(ManifestMismatchError, match=refused):
        generate(tars, older, ensemble, options())
    with pytest.raises(ManifestMismatchError, match=refused):
        generate(tars, tmp_path / "new", ensemble, options(reuse=str(older)))


# Who may add to a store


@pytest.mark.parametrize(
    ("teacher", "given", "what"),
    [
        ({"record": {"weights_digest": "1" * 64}}, {}, "teacher.weights_digest"),
        ({"record": {"precision": "bfloat16"}}, {}, "teacher.precision: 'float32' != 'bfloat16'"),
        ({"fit": "letterbox"}, {}, "preprocessing.fit: 'squash' != 'letterbox'"),
        ({}, {"planes": 2}, "scores.planes: 3 != 2"),
        ({}, {"profile": 3}, "scores.profile: 4 != 3"),
        ({}, {"dtype": "float16"}, "scores.dtype: 'uint8' != 'float16'"),
        ({}, {"step": 1 / 8}, r"scores.step: 0\.25 != 0\.125"),
        ({}, {"compression": "none"}, "scores.compression: 'zstd' != 'none'"),
        ({}, {"samples_per_shard": 9}, r"data.counts: \[7, 1, 9, 4\] != \[\]"),
    ],
)
def test_another_teacher_or_other_options_are_refused_by_name(tars, tmp_path, teacher, given, what):
    generate(tars, tmp_path / "store", make_teacher(), options())
    before = contents(tmp_path / "store")
    with pytest.raises(ManifestMismatchError, match=what):
        generate(tars, tmp_path / "store", make_teacher(**teacher), options(**given))
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tars: rewritten(tars, 1, [77]), r"1 images are new: 'odd/077'\n  1 images are gone: 'odd/007'\n"),
        (lambda tars: rewritten(tars, 4, [77]), r"1 images are new: 'odd/077'\n"),
        (lambda tars: (Path(tars).parent / "part-03.tar").unlink(), "4 images are gone: 'odd/017', 'even/018', "),
    ],
    ids=["another image", "another tar", "one tar fewer"],
)
def test_another_list_of_images_is_refused(tars, tmp_path, change, said):
    generate(tars, tmp_path / "store", make_teacher(), options())
    change(tars)
    with pytest.raises(ManifestMismatchError, match=said):
        generate(tars, tmp_path / "store", make_teacher(), options())


def test_other_versions_workers_and_batches_may_go_on_with_a_store(tars, tmp_path, monkeypatch):
    generate(tars, tmp_path / "store", make_teacher(), options())
    for shard in (1, 2):
        next((tmp_path / "store/status").glob(f"c.{shard}*")).unlink()
    monkeypatch.setattr("relabel.manifest.manifest._version", lambda package: "0.0.1")
    summary = generate(tars, tmp_path / "store", make_teacher(), options(batch_size=2, workers=1))
    assert (summary.shards_skipped, summary.shards_published) == (2, 2)
    assert findings(tmp_path / "store", tars) == []


def test_a_moved_source_is_the_same_source(tars, tmp_path):
    generate(tars, tmp_path / "store", make_teacher(), options())
    shutil.move(tmp_path / "tars", tmp_path / "moved")
    summary = generate(str(tmp_path / "moved" / "*.tar"), tmp_path / "store", make_teacher(), options())
    assert summary.shards_skipped == 4


def test_classes_are_named_in_the_manifest_and_compared_by_name(tmp_path):
    named = [(name, {b"0": b"even", b"1": b"odd"}.get(data, data)) for name, data in samples(range(6))]
    images = str(write_tar(tmp_path / "x.tar", named))
    generate(images, tmp_path / "store", make_teacher(), options())
    reader = StoreReader(tmp_path / "store")
    assert reader.manifest.data.class_names == ("even", "odd")
    assert reader.table(0).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert findings(tmp_path / "store", images) == []
    write_tar(tmp_path / "x.tar", [*named[:-1], (named[-1][0], b"even")])
    assert findings(tmp_path / "store", images) == ["its ground truth is 0 and the store says 1 'odd'"]
    write_tar(tmp_path / "x.tar", [*named[:-1], (named[-1][0], b"prime")])
    assert findings(tmp_path / "store", images) == ["its ground truth is -1 and the store says 1 'odd'"]


# Without a listing


@pytest.mark.parametrize("limit", [9, 20])
def test_a_limit_for_tars_skips_the_listing(tars, tmp_path, monkeypatch, limit):
    def listing(*_: object, **__: object) -> None:
        raise AssertionError("listed all the same")

    monkeypatch.setattr("relabel.images.tars.TarSource._listing", listing)
    summary = generate(tars, tmp_path / "store", make_teacher(), options(samples_per_shard=limit))
    monkeypatch.undo()
    assert (summary.images, summary.is_good) == (TOTAL, True)
    data = StoreReader(tmp_path / "store").manifest.data
    assert (data.counts, data.rows_per_shard) == ((), limit)
    assert findings(tmp_path / "store", tars) == []
    generate(tars, tmp_path / "listed", make_teacher(), options())
    assert rows_by_key(tmp_path / "store") == rows_by_key(tmp_path / "listed")


def test_a_tar_with_more_images_than_promised_is_not_published(tars, tmp_path):
    summary = generate(tars, tmp_path / "store", make_teacher(), options(samples_per_shard=7))
    (failure,) = summary.failures
    assert (failure.shard, failure.key) == (2, "")
    assert "--samples-per-shard" in failure.reason
    assert (summary.shards_published, summary.images) == (3, TOTAL - 9)


# What a run says of itself


def test_the_summary_counts_this_run(tars, tmp_path):
    with pytest.raises(StopRunError):
        generate(tars, tmp_path / "store", make_teacher(stopping(generating.answer, 4)), options())
    first = generating.published(tmp_path / "store")
    summary = generate(tars, tmp_path / "store", make_teacher(), options())
    assert (summary.shards, summary.shards_skipped, summary.shards_published) == (4, first, 4 - first)
    assert summary.images == TOTAL - sum(COUNTS[:first])
    again = generate(tars, tmp_path / "store", make_teacher(), options())
    assert again == GenerateSummary(
        shards=4, shards_skipped=4, shards_published=0, images=0, failures=(), seconds=again.seconds, waits=again.waits
    )
    assert again.is_good
    assert [s.had_nothing_to_do for s in (summary, again)] == [False, True]


def test_the_summary_says_how_long_each_stage_was_at_work(tars, tmp_path):
    def slow(images: Tensor) -> Tensor:
        time.sleep(0.02)
        return generating.answer(images)

    summary = generate(tars, tmp_path / "store", make_teacher(slow), options(workers=1))
    batches = sum(-(-count // 4) for count in COUNTS)
    assert 0.02 * batches <= summary.busy.device <= summary.waits.device <= summary.seconds
    assert 0 < summary.busy.data < summary.seconds
    assert 0 < summary.busy.disk < summary.seconds
    assert summary.batch_size == 4


def test_ranks_count_their_own_shards(tars, tmp_path):
    both = [generate(tars, tmp_path / "s", make_teacher(), options(rank=r, world_size=2)) for r in (0, 1)]
    assert sum(summary.shards for summary in both) == 4
    assert sum(summary.images for summary in both) == TOTAL
    assert [summary.shards_skipped for summary in both] == [0, 0]


def test_progress_tells_the_rate_and_what_was_waited_for(tars, tmp_path, capsys):
    generate(tars, tmp_path / "store", make_teacher(), options(show_progress=True))
    listing, labelling = capsys.readouterr().err.splitlines()
    assert listing.startswith(f"listing images: {TOTAL} images [")
    assert labelling.startswith(f"labelling: 100% {TOTAL}/{TOTAL} [")
    assert "images/s, waiting for data " in labelling
    assert "device " in labelling
    assert "disk " in labelling


def test_processes_that_do_not_know_of_each_other_say_which_they_are(tars, tmp_path, capsys):
    generate(tars, tmp_path / "store", make_teacher(), options(show_progress=True, rank=1, world_size=2))
    listing, labelling = capsys.readouterr().err.splitlines()
    assert listing.startswith(f"listing images (process 1 of 2): {TOTAL} images [")
    assert labelling.startswith("labelling (process 1 of 2): 100% ")


def test_other_classes_than_the_teachers_are_told_once_in_a_stores_life(tmp_path, caplog):
    folder = Path(write_folder(tmp_path / "folder", 9))
    made = options(samples_per_shard=3)
    said = "the images are of 2 classes ('even', 'odd'), the teacher of 10"
    generate(str(folder), tmp_path / "store", make_teacher(), made)
    assert [record.getMessage().startswith(said) for record in caplog.records] == [True]
    for file in (tmp_path / "store" / "status").glob("c.2.*"):
        file.unlink()
    generate(str(folder), tmp_path / "store", make_teacher(), made)
    assert len(caplog.records) == 1
