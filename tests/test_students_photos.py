"""The study of students on photographs runs end to end on a few pictures, and its table pairs the seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import relabel
from relabel.generate import GenerateOptions, generate
from relabel.teacher import TeacherSpec
from studies import students_photos as study
from studies import students_photos_table as table
from studies.students_photos_data import Batch, Judged, batches, load

_CLASSES = (3, 0, 4)  # the teacher's numbers of the three folders


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, a teacher of five classes, its store, and crops with the teacher's answers."""
    out = tmp_path_factory.mktemp("photographs")
    torch.manual_seed(0)
    for name in "abc":
        (out / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).resize((64, 48)).save(out / "photos" / name / f"{number}.jpg")
    weights = out / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), weights)
    spec = TeacherSpec(name="test_resnet", checkpoint=weights, image_size_hw=(64, 64))
    generate(str(out / "photos"), str(out / "labels.zarr"), spec, GenerateOptions(show_progress=False))
    study.main(
        ["prepare", "--train", str(out / "photos"), "--teacher", "test_resnet", "--checkpoint", str(weights),
         "--crop-size", "64", "--per-class", "3", "--out", str(out)]
    )  # fmt: skip
    return out


def test_labels_are_of_the_crops_that_a_batch_shows(made: Path) -> None:
    crops, plain = load(made / "crops.pt"), relabel.open(made / "labels.zarr", reading=None)
    read = relabel.open(made / "labels.zarr", reading=relabel.Reading(0.5))
    nothing = Judged(torch.empty(0, 3, 48, 48), torch.empty(0))
    shared = study.Study(crops, (plain, read), plain.rows(crops.keys), torch.tensor(_CLASSES), nothing)
    batch = Batch(torch.tensor([8, 0]), torch.tensor([2, 1]), torch.tensor([True, False]))
    assert shared.labels("one-hot", batch, over_own=False).tolist() == [4, 3]
    assert shared.labels("one-hot", batch, over_own=True).tolist() == [2, 0]
    box, keys = crops.boxes[[8, 0], [2, 1]], ["c/2.jpg", "a/0.jpg"]
    maps = plain[plain.rows(keys)]
    label = maps.pool(box)
    expected = {
        "ReLabel": label,
        study.SWAPPED: maps.pool(box[:, [1, 0, 3, 2]]),
        study.WHOLE: maps.pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)),
        study.READING: label.sqrt() / label.sqrt().sum(1, keepdim=True),
    }
    for target, soft in expected.items():
        pooled = shared.maps_for(target).pool(shared.labels(target, batch, over_own=False))
        torch.testing.assert_close(pooled, soft, atol=1e-5, rtol=0)
        own = soft[:, list(_CLASSES)]
        found = shared.labels(target, batch, over_own=True)
        torch.testing.assert_close(found, own / own.sum(1, keepdim=True), atol=1e-5, rtol=0)
    asked = shared.labels(study.TEACHER, batch, over_own=False)
    torch.testing.assert_close(asked, crops.answers[[8, 0], [2, 1]].float(), atol=1e-3, rtol=0)


def test_each_photograph_comes_once_an_epoch_in_another_crop(made: Path) -> None:
    chosen = torch.tensor([4, 7, 1])
    given = list(batches(chosen, crops=4, epochs=4, batch_size=3, seed=0))
    assert [sorted(batch.owners.tolist()) for batch in given] == [[1, 4, 7]] * 4
    shown = {
        (owner, number) for b in given for owner, number in zip(b.owners.tolist(), b.numbers.tolist(), strict=True)
    }
    assert len(shown) == 12


def test_runs_are_added_once_and_shown(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--labels", str(made / "labels.zarr"), "--val", str(made / "photos"), "--out", str(made)]
    words += ["--classes", *map(str, _CLASSES), "--reading", "0.9", "0", "0.1", "0", "--epochs", "8", "--seeds", "0"]
    words += ["--settings", "main", "ten", "--targets", "one-hot", study.READING, study.TEACHER]
    study.main(words)
    lines = (made / "results.jsonl").read_text().splitlines()
    found = [(line["setting"], line["target"]) for line in map(json.loads, lines)]
    assert found == [
        *(("main", target) for target in ("one-hot", study.READING, study.TEACHER)),
        *(("ten", target) for target in ("one-hot", study.TEACHER)),
    ]
    assert all(0 <= json.loads(line)["top1"] <= 1 for line in lines)
    study.main(words)
    assert (made / "results.jsonl").read_text().splitlines() == lines
    capsys.readouterr()
    study.main(["show", "--out", str(made)])
    assert capsys.readouterr().out.count("\n| ") == 5
    with Image.open(made / "students.png") as picture:
        assert picture.format == "PNG"


def test_differences_are_of_equal_seeds() -> None:
    tops = {"one-hot": {0: 0.5, 1: 0.7}, "ReLabel": {1: 0.8, 0: 0.52, 2: 0.9}}
    lines = [
        {"setting": "main", "target": target, "seed": seed, "top1": top1, "nll": 1.0}
        for target, seeds in tops.items()
        for seed, top1 in seeds.items()
    ]
    assert table.gains(lines, "main", "ReLabel") == pytest.approx([2, 10])
    row = table.markdown(lines, ["main"], ["one-hot", "ReLabel"]).splitlines()[-1]
    assert row == "| main | ReLabel | 74.0 ± 11.4 | +6.0 ± 4.0 | 1.000 ± 0.000 | +0.000 ± 0.000 | 3 |"
