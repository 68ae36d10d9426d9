"""`relabel verify labels` through its real door: what it prints, for a person and for a machine, and how it exits."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from commands import parsed, run
from labeled import label, rewritten, with_scores, write_pictures

import relabel
from relabel.teacher import TeacherSpec

VERIFY = ("verify", "labels")
SMALL = ("-n", 6, "--crops", 2, "--device", "cpu", "--teacher", "labeled:first")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures."""
    return write_pictures(tmp_path_factory.mktemp("input") / "pictures", 10)


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their labels."""
    return label(images, tmp_path_factory.mktemp("store") / "labels.zarr", TeacherSpec(name="labeled:first"))


def test_a_good_store_is_told_with_its_table_and_what_to_do(store: Path, images: Path) -> None:
    result = run(*VERIFY, store, "--images", images, *SMALL, "--sizes", 24, 72)
    assert result.exit_code == 0, result.output
    assert "48 x 48, stored   6x6" in result.stdout
    assert re.search(r"^72 x 72 +9x9 .* 2\.25 ", result.stdout, re.MULTILINE)
    table, _, advice = result.stdout.partition("What to do:")
    assert "teacher  labeled:first (own weights, sha256 " in table
    assert ") at 48 x 48 pixels, float32 on cpu\n" in table
    assert "6 of 6 sampled images compared, 0 wrong" in table
    assert (
        "12, RandomResizedCrop(scale=(0.08, 1)), shown to the teacher at 48 x 48 pixels, answered by the mean" in table
    )
    rows = [line for line in table.splitlines() if line.startswith(("stored", "all logits", "ground truth", "cell"))]
    assert len(rows) > 8
    assert max(map(len, table.splitlines())) < 140
    assert "- Pool in " in advice
    assert "No reading was looked for, of fewer than 10 images (-n)" in advice
    assert result.stdout.splitlines()[-1].startswith("clean; ")
    assert "running the teacher: 100%" in result.stderr


def test_a_machine_gets_the_same(store: Path, images: Path) -> None:
    result = run(*VERIFY, store, "--images", images, *SMALL, "--json", "--quiet", "--sizes", 24)
    assert (result.exit_code, result.stderr) == (0, "")
    report = parsed(result.stdout)
    assert [line["grid_hw"] for line in report["sizes"]["lines"]] == [[6, 6], [3, 3]]
    assert (report["is_clean"], report["findings"], report["causes"]) == (True, [], [])
    assert (report["images"], report["crops"], report["scores"]["wrong"]) == (6, 12, 0)
    lines = {line["label"]: line for line in report["lines"]}
    # Of other classes than the labels', so that nothing is compared with it; not a number, and so no JSON.
    assert report["class_spaces"]["are_same"] is False
    assert lines["all logits, logit space"]["agreement_truth"] is None
    assert lines["all logits, logit space"]["kl_full"] == pytest.approx(0, abs=1e-5)
    assert report["recommendation"]["space"] in ("logit", "probability")
    assert report["reading"] == {"image": None, "tokens": None, "written": ""}


def test_a_reading_is_told_and_is_what_the_store_is_opened_with(store: Path, images: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "labels.zarr")
    many = (*VERIFY, copy, "--images", images, *SMALL, "-n", 10)
    said = run(*many, "--quiet").stdout
    assert "reading of the label of a crop" in said
    assert "reading of the label of a token" not in said
    assert relabel.open(copy).reading is None
    result = run(*many, "--fit", "--quiet", "--json")
    report = parsed(result.stdout)["reading"]
    assert (result.exit_code, result.stderr) == (0, "")
    assert report["written"] == f"{copy}/reading.json is written: relabel.open reads labels by it"
    opened = relabel.open(copy)
    image = report["image"]["reading"] or dataclasses.asdict(relabel.Reading())
    assert dataclasses.asdict(opened.reading) == image | {"tokens": report["tokens"]["reading"]}
    assert opened.ticket_id == relabel.open(store).ticket_id
    again = run(*many, "--fit", "--quiet")
    assert "reading of the label of a token" in again.stdout
    assert relabel.open(copy).reading == opened.reading
    assert relabel.verify_shards(copy, show_progress=False).is_clean


def test_a_spoilt_store_exits_with_1_and_says_why(store: Path, images: Path, tmp_path: Path) -> None:
    spoilt = rewritten(store, tmp_path / "spoilt.zarr", with_scores(lambda scores: scores.swapaxes(2, 3)))
    result = run(*VERIFY, spoilt, "--images", images, *SMALL, "--quiet")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "Why the maps are wrong:\n- 6 of 6 wrong maps: transposed: rows and columns are exchanged" in result.stdout
    assert "Be wary:\n- 6 of the stored maps are not this teacher's" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("6 findings; ")


def test_images_of_another_set_leave_nothing_to_measure(store: Path, images: Path) -> None:
    result = run(*VERIFY, store, "--images", images / "a", *SMALL, "--quiet")
    assert result.exit_code == 1
    assert "no key of the store, such as" in result.stdout
    assert "What to do" not in result.stdout
    report = parsed(run(*VERIFY, store, "--images", images / "a", *SMALL, "--quiet", "--json").stdout)
    assert (report["lines"], report["recommendation"], report["is_clean"]) == ([], None, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--images'"),
        (("--images", "{images}", "-n", "0"), "'-n' / '--count'"),
        (("--images", "{images}", "--batch-size", "64"), "'--batch-size'"),
        (("--images", "{images}", "--crop-size", "big"), "2 whole numbers, each 1 or more, given as H [W]"),
        (("--images", "{images}/absent.tar"), "no such file"),
        (("--images", "{images}", "--teacher", "labeled:absent", "--device", "cpu"), "no function 'absent'"),
        (("--images", "{images}", "--teacher", "labeled:first", "--random-weights", "1"), "brings its own weights"),
    ],
)
def test_what_cannot_be_run_exits_with_2(arguments: tuple[str, ...], said: str, store: Path, images: Path) -> None:
    result = run(*VERIFY, store, *(argument.format(images=images) for argument in arguments), "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
