"""`verify labels`: a good store is clean, whatever its kind, and a spoilt one is found, with the cause."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from generating import write_tar
from labeled import CLASSES, IMAGES, first, label, picture, rewritten, with_classes, with_scores, write_pictures
from stores import RAW_LOGITS

from relabel.errors import SourceError, StoreError, TeacherError
from relabel.images import decode_and_fit
from relabel.manifest import Manifest, Preprocessing, ScoreRecord
from relabel.score_map import ScoreMap
from relabel.store import RowBatch, StoreReader
from relabel.teacher import TeacherSpec
from relabel.worth import LabelsOptions, LabelsReport, RerunOptions, verify_labels
from relabel.worth.checking import ScoreCheck
from relabel.worth.rebuilding import recorded_members

FIRST = TeacherSpec(name="labeled:first", device="cpu")
SECOND = TeacherSpec(name="labeled:second", device="cpu")


def verified(
    store: Path, images: Path, *, count: int = 8, crops: int = 1, heights: tuple[int, ...] | None = None, **rerun: Any
) -> LabelsReport:
    """The report of a small run; the teachers are the user's own, so that they must be named again."""
    named = dict.fromkeys(member.teacher.name for member in recorded_members(StoreReader(store, partial=True).manifest))
    options = RerunOptions(device="cpu", **{"teachers": tuple(named), **rerun})
    how = LabelsOptions(count=count, crops=crops, sizes=heights, batch_size=5, rerun=options, show_progress=False)
    return verify_labels(store, str(images), how)


def causes(report: LabelsReport) -> list[str]:
    """What the wrong maps come down to, without their number; every one of the sampled maps must be wrong."""
    assert report.scores.wrong == report.scores.compared == report.images > 0
    assert not report.is_clean
    return [cause.partition(": ")[2] for cause in report.causes]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures."""
    return write_pictures(tmp_path_factory.mktemp("input") / "pictures")


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their labels, in two shards."""
    return label(images, tmp_path_factory.mktemp("store") / "labels.zarr", step=1 / 8)


@pytest.mark.parametrize(
    "given",
    [
        {"step": 1 / 2},
        {"dtype": "float16", "compression": "none", "profile": 0},
        {"teachers": (TeacherSpec(name="labeled:first", fit="center", crop=0.9, device="cpu"),)},
        {"teachers": (TeacherSpec(name="labeled:first", fit="letterbox", image_size_hw=(40, 56), device="cpu"),)},
        {"teachers": (FIRST, SECOND), "ensemble": {"flip": True}},
        {"ensemble": {"scales": (1.0, 1.5), "grid_hw": (5, 7), "mean": "probability"}},
        {"planes": CLASSES, "profile": 0},
    ],
    ids=[
        "coarse codes",
        "halves, no profile",
        "center",
        "letterbox",
        "ensemble",
        "older scales",
        "all classes",
    ],
)
def test_a_good_store_is_clean(given: dict[str, Any], images: Path, tmp_path: Path) -> None:
    teachers = given.pop("teachers", ())
    report = verified(label(images, tmp_path / "labels.zarr", *teachers, **given), images)
    assert report.findings == ()
    assert (report.is_clean, report.causes, report.scores.wrong) == (True, (), 0)
    assert (report.images, report.scores.compared, report.crops) == (8, 8, 8)
    assert report.scores.mean < 1e-5
    assert report.recommendation is not None
    is_cut = any(teacher.fit == "center" for teacher in teachers)
    assert any("lies outside what the maps cover" in said for said in report.recommendation.warnings) is is_cut


def test_other_sizes_and_grids_are_worth_what_stores_of_them_are(store: Path, images: Path, tmp_path: Path) -> None:
    whole = verified(store, images, count=IMAGES, crops=2, heights=(144, 48))
    report = whole.sizes
    assert report is not None
    assert whole.reading.image is not None
    # As the reading of the store itself.
    assert report.lines[0].kl_fitted == pytest.approx(whole.reading.image.line(whole.reading.image.kept).kl, rel=1e-3)
    found = {(line.image_size_hw, line.grid_hw): line for line in report.lines}
    large = (144, 144)
    assert list(found) == [((48, 48), (6, 6)), (large, (16, 16)), (large, (18, 18)), (large, (8, 8))]
    assert [line.is_stored for line in report.lines] == [True, False, False, False]
    assert [line.cost for line in report.lines] == [1, 9, 9, 9]
    assert (report.lines[0].more, report.lines[0].more_error) == (0, 0)
    big = TeacherSpec(name="labeled:first", image_size_hw=large, device="cpu")
    made = label(images, tmp_path / "large.zarr", big, ensemble={"grid_hw": (8, 8)}, step=1 / 8)
    for size, path in ((((48, 48), (6, 6)), store), ((large, (8, 8)), made)):
        # Its crops are those of the first store, shown to the teacher at the same size.
        lines = verified(path, images, count=IMAGES, crops=2, crop_size_hw=(48, 48)).lines
        plain, line = next(one for one in lines if (one.kind, one.space) == ("stored", "logit")), found[size]
        assert line.kl_teacher == pytest.approx(plain.kl_teacher, rel=1e-3)
        assert line.kl_teacher_error == pytest.approx(plain.kl_teacher_error, rel=1e-3)
        assert line.bytes_an_image == pytest.approx(plain.bytes_an_image, rel=1e-2)
        assert line.agreement_teacher == plain.agreement_teacher


def turned(rows: RowBatch) -> RowBatch:
    """Rows moved on by one in their shard."""
    return rows.take(np.roll(np.arange(len(rows)), 1))


def renumbered(classes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Class ids in another order."""
    return np.random.default_rng(0).permutation(CLASSES)[classes]


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (with_scores(lambda scores: scores.swapaxes(2, 3)), "transposed: rows and columns are exchanged"),
        (with_scores(lambda scores: scores[..., ::-1]), "mirrored left to right"),
        (with_scores(lambda scores: scores[..., ::-1, :]), "mirrored upside down"),
        (with_classes(lambda classes: (classes + 1) % CLASSES), "in another class order"),
        (with_classes(renumbered), "in another class order"),
        (turned, "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_spoilt_maps_are_found_with_their_cause(
    spoil: Callable[[RowBatch], RowBatch], cause: str, store: Path, images: Path, tmp_path: Path
) -> None:
    report = verified(rewritten(store, tmp_path / "spoilt.zarr", spoil), images, count=4)
    (found,) = causes(report)
    assert found.startswith(cause)
    assert all(cause.partition(":")[0] in finding.what and finding.key for finding in report.findings)


def test_maps_of_a_wide_grid_are_found_to_be_transposed(images: Path, tmp_path: Path) -> None:
    wide = TeacherSpec(name="labeled:first", image_size_hw=(32, 56), device="cpu")
    store = label(images, tmp_path / "labels.zarr", wide)
    # What a program does that takes (H, W) for (W, H): the bytes are there, in another order.
    spoil = with_scores(lambda scores: scores.swapaxes(2, 3).reshape(scores.shape))
    report = verified(rewritten(store, tmp_path / "spoilt.zarr", spoil), images, count=4)
    assert causes(report) == ["transposed: rows and columns are exchanged"]


@pytest.mark.parametrize(("name", "cause"), [("second", "unknown"), ("trained_further", "near")])
def test_maps_of_another_teacher_are_found_and_told_from_those_that_are_near(
    name: str, cause: str, store: Path, images: Path, tmp_path: Path
) -> None:
    other = TeacherSpec(name=f"labeled:{name}", device="cpu")
    made = label(images, tmp_path / "labels.zarr", other, step=1 / 8)
    claimed = StoreReader(store).manifest.teacher
    spoilt = rewritten(made, tmp_path / "spoilt.zarr", manifest=lambda old: dataclasses.replace(old, teacher=claimed))
    report = verified(spoilt, images)
    assert [re.split("[:,]", found)[0] for found in causes(report)] == [cause]
    assert report.recommendation is not None
    assert report.recommendation.warnings[0].startswith("8 of the stored maps are not this teacher's")


def test_another_teacher_than_the_manifests_is_found_by_its_weights(store: Path, images: Path) -> None:
    report = verified(store, images, teachers=("labeled:second",))
    about_teachers = [finding.what for finding in report.findings if finding.row < 0]
    assert len(about_teachers) == 1
    assert about_teachers[0].startswith("the weights of labeled:second that were run")
    assert [cause.partition(":")[0] for cause in causes(report)] == ["of another teacher"]


def test_the_rest_and_the_profile_are_compared_too(store: Path, images: Path, tmp_path: Path) -> None:
    def rest(rows: RowBatch) -> RowBatch:
        scores = rows.scores.copy()
        scores[:, -1] += 4
        return dataclasses.replace(rows, scores=scores)

    def profile(rows: RowBatch) -> RowBatch:
        return dataclasses.replace(rows, profile=rows.profile[:, ::-1].copy())

    for number, spoil in enumerate((rest, profile)):
        report = verified(rewritten(store, tmp_path / f"{number}.zarr", spoil), images, count=4)
        assert [cause.partition(",")[0] for cause in causes(report)] == ["near"]


def test_a_wrong_footprint_is_found(images: Path, tmp_path: Path) -> None:
    made = label(images, tmp_path / "labels.zarr", dataclasses.replace(FIRST, fit="center"))

    def shifted(rows: RowBatch) -> RowBatch:
        assert rows.footprint is not None
        return dataclasses.replace(rows, footprint=rows.footprint + np.float32([-0.1, 0, -0.1, 0]))

    report = verified(rewritten(made, tmp_path / "spoilt.zarr", shifted), images, count=2)
    assert [finding.what for finding in report.findings] == [
        "its map is said to cover (0.067, 0.000, 0.733, 1.000) of the image, and the re-run's covers "
        "(0.167, 0.000, 0.833, 1.000)"
    ] * 2


def imported(store: Path, images: Path, path: Path, turn: bool = False) -> Path:
    """A store of what a published archive holds of the same images: raw logits of the top 3 of each cell, in halves."""
    teacher, keys = first(), [key for shard in (0, 1) for key in StoreReader(store).keys(shard) if key]
    view = Preprocessing(image_size_hw=teacher.image_size_hw, mean=teacher.mean, std=teacher.std)
    pixels = torch.stack([decode_and_fit((images / key).read_bytes(), [view])[0].pixels for key in keys])
    mean, std = (torch.tensor(values)[:, None, None] for values in (teacher.mean, teacher.std))
    # Whatever constant a cell's logits have, labels are the same.
    values, ids = (teacher((pixels / 255 - mean) / std) + 3).topk(3, dim=1)
    listed = torch.full((len(keys), CLASSES, *values.shape[2:]), torch.nan).scatter(1, ids, values)
    made = ScoreMap(
        torch.arange(CLASSES).expand(len(keys), CLASSES),
        listed.mT if turn else listed,
        torch.zeros_like(listed[:, 0]),
        num_classes=CLASSES,
        holes=True,
    )

    def like_an_import(old: Manifest) -> Manifest:
        record = ScoreRecord(num_classes=CLASSES, planes=CLASSES, grid_hw=old.scores.grid_hw, **RAW_LOGITS)
        unknown = dataclasses.replace(old.teacher, source="other", name="an archive", weights="unknown")
        return dataclasses.replace(old, scores=record, teacher=dataclasses.replace(unknown, weights_digest="unknown"))

    rows = RowBatch.of(made, like_an_import(StoreReader(store).manifest).scores)
    parts = iter((rows.take(np.arange(8)), rows.take(np.arange(8, IMAGES))))
    return rewritten(store, path, lambda _: next(parts), like_an_import)


def test_an_imported_store_is_compared_where_it_stores_something(store: Path, images: Path, tmp_path: Path) -> None:
    archive = imported(store, images, tmp_path / "archive.zarr")
    with pytest.raises(TeacherError, match=r"'an archive' .*give it again as --teacher NAME"):
        verified(archive, images, teachers=())
    report = verified(archive, images, teachers=("labeled:first",))
    assert report.findings == ()
    assert "stored, zero fill, as published" in [line.label for line in report.lines]
    assert report.recommendation is not None
    assert "For a store of the teacher's own, --planes" in " ".join(report.recommendation.sentences)
    turned_over = imported(store, images, tmp_path / "turned.zarr", turn=True)
    assert causes(verified(turned_over, images, teachers=("labeled:first",), count=4)) == [
        "transposed: rows and columns are exchanged"
    ]


def test_images_are_found_by_key_and_held_against_their_hash(store: Path, images: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(images, tmp_path / "pictures"))
    (other / "a/00.png").unlink()
    (other / "b/01.png").write_bytes(picture(99))
    report = verified(store, other, count=IMAGES)
    assert [(finding.key, finding.what) for finding in report.findings] == [
        ("a/00.png", "no image of this key is there"),
        ("b/01.png", "the image's bytes are not those that were labelled"),
    ]
    assert report.scores.compared == IMAGES - 2


def test_other_images_altogether_are_told_in_one_line(store: Path, images: Path) -> None:
    report = verified(store, images / "a", count=3)
    first_finding, *others = report.findings
    assert first_finding.what.startswith("no key of the store, such as ")
    assert [finding.what for finding in others] == ["no image of this key is there"] * 3
    assert (report.lines, report.recommendation, report.scores.compared) == ((), None, 0)
    with pytest.raises(SourceError, match="no such file"):
        verified(store, images / "absent.tar")


def test_tars_are_read_where_their_images_were_and_where_they_were_moved(images: Path, tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(IMAGES)]
    data = {name: (images / "ab"[int(name) % 2] / f"{name}.png").read_bytes() for name in names}

    def tars(folder: Path, parts: list[list[str]]) -> str:
        folder.mkdir()
        for number, part in enumerate(parts):
            write_tar(folder / f"{number}.tar", [(f"{name}.png", data[name]) for name in part])
        return str(folder / "*.tar")

    as_labeled = tars(tmp_path / "before", [names[:7], names[7:]])
    made = label(Path(as_labeled), tmp_path / "labels.zarr", samples_per_shard=None)
    assert verified(made, Path(as_labeled)).is_clean
    moved = tars(tmp_path / "after", [names[5:], names[:5]])
    assert verified(made, Path(moved)).is_clean
    (tmp_path / "after/0.tar").rename(tmp_path / "after/renamed.tar")
    assert verified(made, Path(moved)).is_clean


def test_without_a_ground_truth_nothing_is_said_of_it(tmp_path: Path) -> None:
    # Images in the root itself, outside any class folder.
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    report = verified(label(tmp_path, tmp_path / "labels.zarr"), tmp_path)
    assert report.is_clean
    assert not any(line.label.startswith("ground truth") for line in report.lines)
    assert all(math.isnan(line.agreement_truth) for line in report.lines)
    assert report.recommendation is not None
    assert not any("ground truth" in warning for warning in report.recommendation.warnings)


def test_a_store_without_any_label_has_none_to_verify(store: Path, images: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(store, tmp_path / "labels.zarr"))
    (unfinished / "status/c.0.0").unlink()
    assert {finding.shard for finding in verified(unfinished, images).findings} == set()
    (unfinished / "status/c.1.0").unlink()
    with pytest.raises(StoreError, match="no labelled image in a published shard"):
        verified(unfinished, images)


def test_one_seed_is_one_report_and_batches_make_no_difference(store: Path, images: Path) -> None:
    def lines(seed: int, batch_size: int) -> list[float]:
        rerun = RerunOptions(device="cpu", teachers=("labeled:first",))
        options = LabelsOptions(count=6, crops=2, seed=seed, batch_size=batch_size, rerun=rerun, show_progress=False)
        return [line.kl_teacher for line in verify_labels(store, str(images), options).lines]

    assert lines(0, 6) == pytest.approx(lines(0, 4), rel=1e-4, nan_ok=True)
    assert lines(0, 6) != pytest.approx(lines(1, 6), rel=1e-2, nan_ok=True)


@pytest.mark.parametrize(
    ("is_imported", "left", "same"), [(True, 0.004, True), (True, 0.006, False), (False, 0.004, False)]
)
def test_an_imported_centre_square_may_lie_half_a_pixel_beside_the_reruns(is_imported, left, same):
    """The import takes the exact centre of 101 x 50 pixels; a re-run cuts whole pixels."""
    reader = SimpleNamespace(manifest=SimpleNamespace(scores=None, imported=object() if is_imported else None))
    exact, cut = torch.tensor([[0.25, 0.0, 0.75, 1.0]]), torch.tensor([[0.25 + left, 0.0, 0.75 + left, 1.0]])
    answers = SimpleNamespace(stored=SimpleNamespace(footprints_xyxy=lambda: exact), footprints=cut)
    check = ScoreCheck(reader, SimpleNamespace(findings=list))
    assert check._same_footprint(answers, 0, (50, 101)) is same
