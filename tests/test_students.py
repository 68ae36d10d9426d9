"""The students' proof runs end to end in its quick mode, goes on where it stopped, and its table adds up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import relabel
from pipelines import student_table, students
from relabel.tickets import Tickets

_TARGETS = ("one-hot", "smoothed", "ReLabel", "Token Labeling", "ReLabel, x and y swapped")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("students") / "out"
    students.main(["--quick", "--out", str(out), "--seeds", "1", "--processes", "1"])
    yield out
    torch.set_num_threads(threads)


def test_a_quick_run_trains_every_student_on_every_target_and_shows_them(quick: Path) -> None:
    runs = [json.loads(path.read_text()) for path in (quick / "runs").glob("*.json")]
    found = {(run["student"], run["target"], run["seed"]) for run in runs}
    assert found == {(student, target, 0) for student in students.STUDENTS for target in _TARGETS}
    assert {run["teacher"] for run in runs if run["target"] in ("one-hot", "smoothed")} == {"none"}
    assert all(0 <= run["scene"] <= 1 and 0 <= run["crop"] <= 1 for run in runs)
    table = (quick / "table.md").read_text()
    assert table.count("\n") == 2 + len(students.STUDENTS) * len(_TARGETS)
    with Image.open(quick / "students.png") as picture:
        assert picture.format == "PNG"
    assert (quick / "students.png").stat().st_size < 120_000
    assert relabel.open(quick / "same-scenes.zarr").num_classes == 10


def test_a_second_run_trains_only_what_is_missing_and_comes_to_the_same(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quick / "runs" / "same-scenes_convnet_Token-Labeling_0.json"
    before = json.loads(path.read_text())
    path.unlink()
    trained, train = [], students.train

    def noting(recipe: Any, *given: Any) -> Any:
        trained.append((recipe.target, recipe.seed))
        return train(recipe, *given)

    monkeypatch.setattr(students, "train", noting)
    students.main(["--quick", "--out", str(quick), "--seeds", "1", "--processes", "1"])
    assert trained == [("token", 0)]
    after = json.loads(path.read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_results_of_other_settings_are_not_mixed(quick: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="results of other settings"):
        students.main(["--out", str(quick)])
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit, match="runs that this recipe did not make"):
        students.main(["--out", str(tmp_path)])


def test_only_the_swapped_target_sends_x_and_y_in_the_wrong_order(quick: Path) -> None:
    content = torch.load(quick / "scenes.pt", weights_only=True)
    crops = students.made.random_crops(content["images"], 1, 48, seed=3)
    maps, classes = relabel.open(quick / "same-scenes.zarr"), content["classes"][crops.owners]
    for swapped, order in ((False, [0, 1, 2, 3]), (True, [1, 0, 3, 2])):
        batches = list(students._batches(crops, classes, maps, content["keys"], swapped))
        assert len(batches) == 64 // 32
        for number, (images, labels) in enumerate(batches):
            some = slice(32 * number, 32 * number + 32)
            tickets = Tickets.read(labels)
            assert torch.equal(tickets.views.boxes, crops.boxes[some][:, order])
            assert torch.equal(tickets.ground_truth, classes[some])
            assert torch.equal(images, (crops.pixels[some].float() - 127.5) / 127.5)
            keys = [content["keys"][i] for i in crops.owners[some].tolist()]
            assert torch.equal(tickets.rows, maps.rows(keys))


def test_scenes_of_students_teachers_and_tests_share_no_scan() -> None:
    split = students.made.compose(students.Counts(30, 30, 30, 1, 1))
    train, other, test = ({d.scan for s in part for d in s.digits} for part in (split.train, split.other, split.test))
    assert not train & test
    assert not other & test
    assert not train & other
    assert students.made.TRAIN_SCANS + students.made.OTHER_SCANS == 1400


def test_crops_show_what_their_boxes_say() -> None:
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 80, 100).contiguous()  # grey = x in pixels
    crops = students.made.random_crops([ramp, ramp], 6, 16, seed=0)
    assert sorted(crops.owners.tolist()) == [0] * 6 + [1] * 6
    centre = (crops.boxes[:, 0] + crops.boxes[:, 2]) / 2 * 100 - 0.5
    assert crops.pixels.float().mean((1, 2, 3)).numpy() == pytest.approx(centre.numpy(), abs=1.0)


def test_top1_of_crops_counts_a_tie_and_a_miss() -> None:
    answers = torch.eye(10)[[3, 3, 7]]
    content = torch.zeros(3, 10)
    content[0, [3, 5]], content[1, [3, 5]], content[2, 7] = 0.5, torch.tensor([0.4, 0.6]), 1.0
    test = students.made.HeldOut(torch.zeros(1), torch.zeros(1), torch.zeros(3, 3, 8, 8, dtype=torch.uint8), content)
    assert students.top1_of_crops(lambda images: answers, test) == pytest.approx(2 / 3)


def test_the_table_has_means_and_the_errors_of_paired_differences(tmp_path: Path) -> None:
    scores = {"one-hot": [0.30, 0.40, 0.50], "ReLabel": [0.42, 0.50, 0.64]}
    (tmp_path / "runs").mkdir()
    for target, values in scores.items():
        for seed, value in enumerate(values):
            run = {"student": "convnet", "teacher": "none" if target == "one-hot" else "same scenes", "target": target,
                   "seed": seed, "scene": value, "crop": value / 2}  # fmt: skip
            (tmp_path / "runs" / f"{target}{seed}.json").write_text(json.dumps(run))
    rows = student_table.read(tmp_path, list(_TARGETS))
    assert [row.target for row in rows] == ["one-hot", "ReLabel"]
    gains = np.array(scores["ReLabel"]) - scores["one-hot"]
    expected = (gains.mean(), gains.std(ddof=1) / np.sqrt(3))
    assert student_table.difference(rows[1], rows[0], "scene") == pytest.approx(expected)
    lines = student_table.markdown(rows).splitlines()
    assert lines[2] == "| convnet | one-hot | - | 40.0 ± 5.8 |  | 20.0 ± 2.9 |  | 3 |"
    assert lines[3] == "| convnet | ReLabel | same scenes | 52.0 ± 6.4 | +12.0 ± 1.2 | 26.0 ± 3.2 | +6.0 ± 0.6 | 3 |"
