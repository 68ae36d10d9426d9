"""Checkpoints are judged by folders whose labels are others', or several an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from pipelines import evaluate

_NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says of any image: most likely a gnu, then a fox, an eel, a dog, a cat, a bee, an ant."""
    model: Any = timm.create_model("test_resnet", num_classes=7)
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data = torch.arange(7.0)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    size = {"input_size": [3, 32, 32], "crop_pct": 1.0}
    said = {"arch": "test_resnet", "class_names": _NAMES, "pretrained_cfg": size}
    torch.save({"student": model.state_dict(), **said}, path)
    return path


def _images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36)).save(root / name)
    return root


def _found(checkpoint: Path, images: Path, *more: object) -> tuple[float, float, int, int]:
    given = [str(each) for each in (checkpoint, images, "--workers", 0, "--device", "cpu", *more)]
    found = evaluate.main(given)
    return found.top1, found.top5, found.images, found.left_out


def test_folders_called_as_classes_need_no_mapping(checkpoint: Path, tmp_path: Path) -> None:
    images = _images(tmp_path, "gnu/1.png", "gnu/2.png", "cat/1.png", "ant/1.png")
    assert _found(checkpoint, images) == (50, 75, 4, 0)


def test_folders_called_by_numbers_as_those_of_v2(checkpoint: Path, tmp_path: Path) -> None:
    # As text "10" comes before "2": the number counts, not the order.
    images = _images(tmp_path, "6/a.png", "5/a.png", "0/a.png", "06/b.png")
    assert _found(checkpoint, images, "--mapping", "numbers") == (50, 75, 4, 0)


def test_several_classes_may_be_right_and_none_is_left_out_as_in_real(checkpoint: Path, tmp_path: Path) -> None:
    """A list by the number at the end of the name, from 1 on."""
    images = _images(tmp_path / "val", *(f"x/val_0000000{number}.png" for number in (1, 2, 3, 4)), "y/val_00000005.png")
    (tmp_path / "real.json").write_text(json.dumps([[0, 6], [], [1], [5, 0], [6]]))
    assert _found(checkpoint, images, "--mapping", tmp_path / "real.json") == (50, 75, 4, 1)
    _images(tmp_path / "val", "y/val_00000006.png")
    with pytest.raises(SystemExit):
        _found(checkpoint, images, "--mapping", tmp_path / "real.json")


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_mapping_is_by_path_name_stem_or_folder(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    images = _images(tmp_path / "i", "a b/1.png", "a b/2.png", "c/3.png", "c/4.png", "c/5.png")
    table: dict[str, Any] = {"a b/1.png": "gnu", "a b": ["ant", 6], "3": 0, "4.png": [], "c": 4}
    (tmp_path / "map.json").write_text(json.dumps(table))
    (tmp_path / "map.text").write_text("a b/1.png\tgnu\na b\t6\na b\tant\n3 0\n\n4.png\nc eel\n")
    assert _found(checkpoint, images, "--mapping", tmp_path / f"map.{kind}") == (50, 75, 4, 1)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        (None, "2 class folders (a, b ...), which are not all called as one of the checkpoint's 7 classes (ant, bee"),
        ("numbers", "the folder a is no number of a class, 0 to 6"),
        ("absent.json", "absent.json cannot be read"),
        ('{"a": 0}', "does not know b/1.png: neither it, nor its name, nor its folder"),
        ('{"a": 0, "b": 7}', "has the class 7; the checkpoint's are 0 to 6, or ant, bee, cat ..., by name"),
        ('{"a": 0, "b": "yak"}', "has the class 'yak'"),
        ('{"a": [], "b": []}', "leaves out all 2 images"),
        ("{", "cannot be read as JSON or text"),
    ],
)
def test_what_does_not_say_what_is_right_is_refused(
    mapping: str | None, sentence: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = _images(tmp_path / "i", "a/1.png", "b/1.png")
    if mapping and mapping.startswith("{"):
        (tmp_path / "m.json").write_text(mapping)
        mapping = str(tmp_path / "m.json")
    with pytest.raises(SystemExit):
        _found(checkpoint, images, *(["--mapping", mapping] if mapping else []))
    assert sentence in capsys.readouterr().err


def test_weights_that_say_nothing_need_a_model_and_have_numbers(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.load(checkpoint, weights_only=True)["student"], tmp_path / "bare.pt")
    images = _images(tmp_path / "i", *(f"{name}/1.png" for name in _NAMES))
    with pytest.raises(SystemExit):
        _found(tmp_path / "bare.pt", images)
    assert "does not say which model its weights are of: give --model NAME" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _found(tmp_path / "bare.pt", images, "--model", "resnet_of_mine")
    assert "timm has no model 'resnet_of_mine'" in capsys.readouterr().err
    found = _found(tmp_path / "bare.pt", images, "--model", "test_resnet", "--image-size", 32)
    assert found == (pytest.approx(100 / 7), pytest.approx(500 / 7), 7, 0)


@pytest.mark.parametrize("missing", ["names", "weights"])
def test_a_classifier_that_starts_anew_is_never_judged(
    missing: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = torch.load(checkpoint, weights_only=True)
    if missing == "names":
        said["class_names"] = _NAMES[:4]
    else:
        del said["student"]["fc.weight"]
    torch.save(said, tmp_path / "a.pt")
    with pytest.raises(SystemExit):
        _found(tmp_path / "a.pt", _images(tmp_path / "i", "ant/1.png", "bee/1.png"))
    assert "a.pt has no classifier (fc.weight" in capsys.readouterr().err
