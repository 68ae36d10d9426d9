"""A teacher of one's own: fine-tuned, its checkpoint labeled with as it was trained, and a student of its labels."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from commands import run
from pages import blocks, read_page
from PIL import Image

import relabel
from pipelines import evaluate, own_classes, train_student
from relabel.errors import SourceError

_COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
_QUICK = (
    "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "6", "--precision", "float32", "--workers", "0",
    "--optimizer", "adamw", "--learning-rate", "0.003", "--image-size", "32",
)  # fmt: skip
_OWN = ("--mean", "0.2", "0.5", "0.7", "--std", "0.5", "0.25", "0.1", "--interpolation", "random")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the trainings here, and have a test elsewhere."""
    monkeypatch.setattr(train_student, "draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, `train` and `val`, of images of three classes, each with a colour of its own."""
    root = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, colour in _COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = (np.array(colour) + random.normal(0, 40, (40, 56, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def _train(photos: Path, out: Path, *more: str, model: str = "test_resnet") -> dict[str, Any]:
    """Train, and what the checkpoint holds."""
    given = ("--images", str(photos / "train"), "--val", str(photos / "val"), "--out", str(out))
    train_student.main(["--model", model, *given, *_QUICK, *more])
    return _held(out)


def _held(out: Path) -> dict[str, Any]:
    held: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return held


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of two other classes, as a stranger's trainer saves them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "weights.pth"
    said = {"arch": "test_resnet", "class_names": ["x", "y"], "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=2).state_dict(), **said}, path)
    return path


def test_the_classifier_learns_alone_and_then_all(photos: Path, file: Path, tmp_path: Path) -> None:
    first = torch.load(file, weights_only=True)["state_dict"]
    given = ("--init", str(file), "--head-epochs", "1", "--head-learning-rate", "0.01")
    whole = _train(photos, tmp_path / "whole", *given)
    assert [epoch["learning_rate"] for epoch in whole["epochs"]] == [0.01, pytest.approx(0.003 / 2)]
    assert whole["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]

    def stop(folder: Path, state: Any) -> None:
        torch.save(state, folder / "checkpoint.pt")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_student, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            _train(photos, tmp_path / "part", *given)
    student = _held(tmp_path / "part")["student"]
    moved = {name for name, tensor in student.items() if name not in first or not torch.equal(tensor, first[name])}
    assert moved == {"fc.weight", "fc.bias"}
    # It goes on into the second phase as if nothing had happened.
    again = _train(photos, tmp_path / "part", *given, "--resume")
    assert all(torch.equal(tensor, whole["student"][name]) for name, tensor in again["student"].items())
    still = {name for name, tensor in again["student"].items() if torch.equal(tensor, student[name])}
    assert not still


def test_a_classifier_of_the_same_classes_goes_on(photos: Path, tmp_path: Path, caplog: Any) -> None:
    one = _train(photos, tmp_path / "one", *_OWN)
    assert one["class_names"] == ["blue", "green", "red"]
    assert one["pretrained_cfg"] == {
        "input_size": [3, 32, 32], "num_classes": 3, "mean": [0.2, 0.5, 0.7], "std": [0.5, 0.25, 0.1],
        "interpolation": "bicubic", "crop_pct": 0.875,
    }  # fmt: skip
    path = str(tmp_path / "one" / "checkpoint.pt")
    two = _train(photos, tmp_path / "two", "--init", path, "--learning-rate", "1e-9", "--weight-decay", "0")
    torch.testing.assert_close(two["student"]["fc.weight"], one["student"]["fc.weight"])
    assert two["pretrained_cfg"]["std"] == [0.5, 0.25, 0.1]
    assert "starts anew" not in caplog.text


def test_the_three_commands_of_the_readme_make_teacher_labels_and_student(
    photos: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, but for models that need no download, and far fewer pixels and epochs."""
    section = read_page("README.md").partition("### A teacher of your own")[2]
    (block,) = [each for each in blocks("README.md", section.partition("\n## ")[0]) if each.language == "console"]
    teach, label, learn = (shlex.split(line)[1:] for line in re.sub(r"\\\n>", "", block.text).splitlines())
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(photos / part)
    small = ["--model", "test_resnet", *_QUICK]
    assert teach[1:3] == ["pipelines/train_student.py", "--model"]
    train_student.main([*teach[2:], *small, "--init", str(file), *_OWN, "--epochs", "4", "--learning-rate", "0.01"])
    assert label[:2] == ["relabel", "generate"]
    done = run(*label[1:], "--quiet")
    assert done.exit_code == 0, done.output
    maps = relabel.open("labels.zarr")
    pixels = maps.manifest.preprocessing
    assert pixels is not None
    assert (pixels.mean, pixels.std, pixels.interpolation) == ((0.2, 0.5, 0.7), (0.5, 0.25, 0.1), "bicubic")
    assert (pixels.image_size_hw, maps.manifest.class_names) == ((32, 32), ("blue", "green", "red"))
    labels = maps[maps.rows(list(maps.keys()))].pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 12))
    assert labels.argmax(1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    train_student.main([*learn[2:], *small])
    assert _held(Path("student"))["class_names"] == ["blue", "green", "red"]
    judged = evaluate.main(["student/checkpoint.pt", "val", "--workers", "0", "--device", "cpu"])
    assert judged.top1 == pytest.approx(_held(Path("student"))["epochs"][-1]["val_top1"])


def test_position_embeddings_of_another_size_are_resampled(photos: Path, tmp_path: Path) -> None:
    small = '{"embed_dim": 32, "depth": 1, "num_heads": 2, "stem_width": 8, "patch_size": 16}'
    one = _train(photos, tmp_path / "one", "--model-options", small, model="lvvit_demo")
    path = str(tmp_path / "one" / "checkpoint.pt")
    # What the model is built with is the file's, too.
    still = ("--learning-rate", "1e-9", "--weight-decay", "0")
    two = _train(photos, tmp_path / "two", "--init", path, "--image-size", "64", *still, model="lvvit_demo")
    before, after = (held["student"]["pos_embed"] for held in (one, two))
    assert (before.shape[1], after.shape[1]) == (1 + 4, 1 + 16)
    expected = timm.layers.resample_abs_pos_embed(before, [4, 4])
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--model", "test_vit"), "says that its weights are of test_resnet, and --model is test_vit"),
        (("--init", "absent.pt"), "no such checkpoint: absent.pt"),
        (("--init", "{bare}"), "1 missing (conv1.0.weight)"),
        (("--init", "pretrained"), "weights of test_resnet cannot be had: OSError: no network. Download them"),
    ],
)
def test_a_start_that_cannot_be_is_told(
    more: tuple[str, ...], sentence: str, photos: Path, file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    bare = torch.load(file, weights_only=True)["state_dict"]
    del bare["conv1.0.weight"]
    torch.save(bare, tmp_path / "bare.pt")
    create = timm.create_model

    def unreachable(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("no network")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    given = [word.format(bare=tmp_path / "bare.pt") for word in more]
    with pytest.raises(SystemExit):
        _train(photos, tmp_path / "out", "--init", str(file), *given)
    assert sentence in capsys.readouterr().err


def test_one_command_makes_teacher_labels_and_students(photos: Path, file: Path, tmp_path: Path, capfd: Any) -> None:
    given = [
        str(photos / "train"), "--out", str(tmp_path), "--teacher", "test_resnet", "--init", str(file),
        "--student", "test_resnet", "--image-size", "32", "--batch-size", "4", "--workers", "0", "--kept", "0.25",
        "--head-epochs", "1", "--teacher-epochs", "2", "--student-epochs", "1", "--device", "cpu",
    ]  # fmt: skip
    rows = own_classes.main(given)
    assert [row.who.partition(", ")[2].partition(",")[0] for row in rows] == [
        "its classifier alone", "fine-tuned", "one-hot labels", "labels of its crops",
    ]  # fmt: skip
    assert all(0 <= row.top1 <= 100 for row in rows)
    parts = [{path.relative_to(tmp_path / "split" / part) for path in (tmp_path / "split" / part).rglob("*.png")}
             for part in ("train", "val")]  # fmt: skip
    assert [len(part) for part in parts] == [9, 3]
    assert not parts[0] & parts[1]
    assert {path.parent.name for path in parts[1]} == set(_COLOURS)
    manifest = relabel.open(tmp_path / "labels.zarr").manifest
    assert manifest.preprocessing is not None
    assert (manifest.preprocessing.mean, manifest.class_names) == ((0.1, 0.2, 0.3), ("blue", "green", "red"))
    capfd.readouterr()
    assert [row.top1 for row in own_classes.main(given)] == [row.top1 for row in rows]
    assert "epoch 1:" not in capfd.readouterr().out  # nothing was trained again
    with pytest.raises(SystemExit):
        own_classes.main([str(photos / "train" / "red"), "--out", str(tmp_path / "none")])
    assert "must hold two class folders or more" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("images", "out", "sentence"),
    [
        ("out/split", "out", "lie one within the other"),
        ("photos", "photos/out", "lie one within the other"),
        ("photos", "out", "is no link that an earlier run made"),
    ],
)
def test_nothing_but_its_own_links_is_removed(images: str, out: str, sentence: str, tmp_path: Path) -> None:
    held = [tmp_path / root / name for root in ("out/split/train", "photos") for name in ("a/1.png", "a/2.png")]
    held += [path.parents[1] / "b" / path.name for path in held]
    for path in held:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a photograph")
    (tmp_path / "out/split/train/a/0.png").symlink_to(held[0])
    with pytest.raises(SourceError, match=re.escape(sentence)):
        own_classes.divided(tmp_path / images, tmp_path / out / "split", 0.5)
    assert all(path.read_bytes() == b"a photograph" for path in held)
    assert (tmp_path / "out/split/train/a/0.png").is_symlink()
