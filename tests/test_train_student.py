"""A student trains on every target, goes on where it stopped, and learns the same in two processes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relabel
from pipelines import imagenet1k, train_student
from pipelines.lvvit import TokenAnswer
from pipelines.objective import Objective
from pipelines.recipe import Recipe
from pipelines.schedule import learning_rate
from pipelines.student_data import Data, Places, Share, load_data
from pipelines.student_models import build_student, token_grid_hw
from pipelines.student_options import parse
from pipelines.student_pixels import Pixels, validation_transform
from relabel.generate import GenerateOptions, generate
from relabel.teacher import TeacherSpec
from relabel.tickets import Tickets

_PIPELINES = Path(__file__).parents[1] / "pipelines"
_COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
_CPU = torch.device("cpu")
_CONVNET = ("--model", "test_resnet", "--image-size", "32")
_LVVIT = (
    "--model", "lvvit_demo", "--image-size", "32",
    "--model-options", '{"embed_dim": 32, "depth": 2, "num_heads": 2, "stem_width": 8}',
)  # fmt: skip
_SHORT = (
    "--epochs", "2", "--warmup-epochs", "0", "--batch-size", "8", "--precision", "float32", "--workers", "0",
    "--optimizer", "adamw", "--learning-rate", "0.003",
)  # fmt: skip


class Colours(nn.Module):
    """A teacher that says of each 8 x 8 pixels whether they are blue, green or red."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w) in [0, 1] to logits (B, 3, h / 8, w / 8)."""
        return 8 * nn.functional.avg_pool2d(images, 8).flip(1)


def colours() -> Colours:
    """The teacher, as ``--teacher test_train_student:colours``."""
    return Colours()


class TwoColours(Colours):
    """A teacher without red."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2, h / 8, w / 8)."""
        return super().forward(images)[:, :2]


def two_colours() -> TwoColours:
    """The teacher, as ``--teacher test_train_student:two_colours``."""
    return TwoColours()


def named_colours() -> Colours:
    """The teacher with names, in another order than that of the folders."""
    teacher = Colours()
    teacher.class_names = tuple(sorted(_COLOURS, reverse=True))
    return teacher


@pytest.fixture(autouse=True)
def _curves_of_one_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take as long as a training here."""
    if "[one-hot]" not in request.node.name:
        monkeypatch.setattr(train_student, "draw_curves", lambda *_: None)


@dataclasses.dataclass(frozen=True)
class Folders:
    """Images of three classes, each with a colour of its own, and a store of labels."""

    train: Path
    val: Path
    store: Path

    def options(self, out: Path, *more: str, labels: bool = True) -> list[str]:
        store = ["--labels", str(self.store)] if labels else []
        return ["--images", str(self.train), "--val", str(self.val), "--out", str(out), *_SHORT, *store, *more]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("student")
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name, colour in _COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                noise = random.normal(0, 40, (40, 56, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    teacher = TeacherSpec(name="test_train_student:colours", image_size_hw=(32, 32))
    generate(str(root / "train"), str(root / "labels.zarr"), teacher, GenerateOptions(show_progress=False))
    return Folders(root / "train", root / "val", root / "labels.zarr")


@dataclasses.dataclass
class Answering(nn.Module):
    """A student that answers what it is told to."""

    answer: Any

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer


def _cross_entropy(logits: torch.Tensor, label: np.ndarray) -> float:
    """The mean over all but the last axis, in float64."""
    z = logits.double().numpy()
    log_softmax = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return float(-(label * log_softmax).sum(-1).mean())


def test_the_loss_of_each_target_is_that_of_its_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch, classes, grid = 6, 5, (2, 3)
    written = relabel.ScoreMap.from_logits(3 * torch.randn(batch, classes, 4, 4), planes=2, profile=1)
    relabel.write(tmp_path / "labels.zarr", [str(i) for i in range(batch)], written)
    opened = relabel.open(tmp_path / "labels.zarr")
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9]]).repeat(batch, 1)
    true = torch.tensor([0, 1, 2, 3, 4, 0])
    labels = opened.tickets(range(batch), boxes, ground_truth=true)
    maps = opened[range(batch)]
    images, image_logits, token_logits = torch.zeros(batch, 3, 8, 8), torch.randn(batch, 5), torch.randn(batch, 6, 5)
    one_hot = np.eye(classes)[true]
    soft = maps.pool(boxes).double().numpy()
    tokens = maps.pool(boxes, grid).flatten(2).mT.double().numpy()

    def loss(answer: Any, given: Any, **changes: Any) -> float:
        made = Recipe(**{"name": "try", "model": "test_resnet", **changes})
        return float(Objective(made, classes, grid, maps=opened)(Answering(answer), images, given))

    assert loss(image_logits, true, target="one-hot") == pytest.approx(_cross_entropy(image_logits, one_hot))
    assert loss(image_logits, labels, target="one-hot") == pytest.approx(_cross_entropy(image_logits, one_hot))
    given = maps.pool(boxes)
    assert loss(image_logits, given, target="teacher", teacher="any") == pytest.approx(
        _cross_entropy(image_logits, soft), abs=1e-5
    )
    smoothed = 0.7 * one_hot + 0.3 / classes
    assert loss(image_logits, true, target="smoothed", smoothing=0.3) == pytest.approx(
        _cross_entropy(image_logits, smoothed)
    )
    assert loss(image_logits, labels, target="relabel") == pytest.approx(_cross_entropy(image_logits, soft), abs=1e-5)
    both = TokenAnswer(image_logits, token_logits, None)
    expected = _cross_entropy(image_logits, 0.8 * soft + 0.04) + 2 * _cross_entropy(token_logits, 0.8 * tokens + 0.04)
    found = loss(both, labels, target="token", token_weight=2.0, smoothing=0.2)
    assert found == pytest.approx(expected, abs=1e-5)
    corrected = np.where(soft.argmax(1) == true.numpy(), 0.9, 0.5)[:, None]
    expected = _cross_entropy(image_logits, corrected * soft + (1 - corrected) * one_hot)
    found = loss(both, labels, target="token", token_weight=0.0, ground_truth="agreement")
    assert found == pytest.approx(expected, abs=1e-5)


def test_mixing_mixes_images_and_labels_alike_and_stops_when_told() -> None:
    made = Recipe(name="try", model="test_resnet", target="one-hot", mixing="mixup")
    true = torch.tensor([0, 1, 2, 3])
    seen: list[torch.Tensor] = []

    class Seeing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return torch.arange(16.0).reshape(4, 4) / 8

    images = torch.eye(4).reshape(4, 1, 2, 2)  # an image is its own label
    loss = Objective(made, 4, seed=0)(Seeing(), images, true)
    assert not torch.equal(seen[0], images)
    logits = torch.arange(16.0).reshape(4, 4) / 8
    assert float(loss) == pytest.approx(_cross_entropy(logits, seen[0].reshape(4, 4).double().numpy()), abs=1e-5)
    Objective(made, 4, seed=0)(Seeing(), images, true, mixes=False)
    assert torch.equal(seen[1], images)


def test_the_learning_rate_rises_falls_along_a_cosine_and_stays() -> None:
    made = Recipe(name="try", model="test_resnet", epochs=12, warmup_epochs=2, cooldown_epochs=3,
                         learning_rate=1.0, warmup_learning_rate=0.2, min_learning_rate=0.1)  # fmt: skip
    found = [learning_rate(made, epoch) for epoch in (0, 1, 2, 4.5, 7, 12, 14.9)]
    assert found == pytest.approx([0.2, 0.6, 1.0, 0.55 + 0.45 * np.cos(np.pi / 4), 0.55, 0.1, 0.1])


@pytest.mark.parametrize(("model", "linear"), [("test_resnet", True), ("test_convnext", False)])
def test_a_convnet_answers_each_cell_by_its_own_head(model: str, linear: bool) -> None:
    torch.manual_seed(0)
    made = Recipe(name="try", model=model, image_size=96, target="token")
    student = build_student(made, 5)
    assert token_grid_hw(student) == (3, 3)
    images = torch.randn(2, 3, 96, 96)
    student.train()
    for module in student.modules():
        module.training = module is student  # statistics of the norms as in evaluation
    with torch.no_grad():
        answer = student(images)
        features = student.model.forward_features(images)
        corner = student.model.forward_head(features[:, :, :1, 1:2])  # row 0, column 1
        assert torch.allclose(answer.image_logits, student.eval()(images), atol=1e-5)
    assert answer.token_logits.shape == (2, 9, 5)
    assert torch.allclose(answer.token_logits[:, 1], corner, atol=1e-5)
    is_mean = torch.allclose(answer.token_logits.mean(1), answer.image_logits, atol=1e-5)
    assert is_mean == linear


def test_every_field_of_a_recipe_is_an_option_and_overrides_a_preset() -> None:
    where = ["--images", "a", "--val", "b"]
    preset = parse([*where, "--preset", "resnet50_relabel_cutmix"], None).recipe
    assert preset == imagenet1k.PRESETS["resnet50_relabel_cutmix"].recipe
    changed = parse(
        [*where, "--preset", "resnet50_relabel_cutmix", "--batch-size", "256", "--crop-scale", "0.2", "0.9",
         "--mixing", "none", "--clip-norm", "2", "--ema-decay", "none", "--randaugment", "rand-m5"], None,
    ).recipe  # fmt: skip
    assert changed.batch_size == 256
    assert changed.learning_rate == pytest.approx(preset.learning_rate / 4)
    assert (changed.crop_scale, changed.mixing, changed.clip_norm) == ((0.2, 0.9), "none", 2.0)
    assert (changed.ema_decay, changed.randaugment) == (None, "rand-m5")
    named = {field.name for field in dataclasses.fields(type(preset))}
    assert {field for field in named if getattr(changed, field) != getattr(preset, field)} == {
        "batch_size", "learning_rate", "head_learning_rate", "crop_scale", "mixing", "clip_norm", "randaugment"
    }  # fmt: skip


def _log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoint.pt", weights_only=True)["student"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param((*_CONVNET, "--target", "one-hot", "--mixing", "mixup", "--ema-decay", "0.9"), id="one-hot"),
        pytest.param((*_CONVNET, "--target", "smoothed", "--smoothing", "0.1", "--randaugment", "rand-m9-mstd0.5-inc1",
                      "--random-erasing", "0.25", "--interpolation", "random"), id="smoothed"),
        pytest.param((*_CONVNET, "--target", "relabel", "--mixing", "cutmix", "--lighting", "0.1",
                      "--color-jitter", "0.4", "--clip-norm", "1"), id="relabel"),
        pytest.param((*_CONVNET, "--target", "token", "--precision", "bfloat16"), id="token-convnet"),
        pytest.param((*_LVVIT, "--target", "token", "--mixing", "mixtoken", "--mixing-off-epochs", "1",
                      "--smoothing", "0.1", "--ground-truth", "agreement", "--ema-decay", "0.9",
                      "--randaugment", "rand-m9-mstd0.5-inc1"), id="token-lvvit"),
        pytest.param((*_LVVIT, "--target", "relabel", "--drop-path", "0.1", "--optimizer", "adamp",
                      "--precision", "float16"), id="relabel-lvvit"),
    ],
)  # fmt: skip
def test_a_student_trains_on_every_target_and_leaves_log_curves_and_checkpoint(
    folders: Folders, tmp_path: Path, how: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    needs_labels = how[how.index("--target") + 1] in ("relabel", "token")
    train_student.main(folders.options(out, *how, labels=needs_labels))
    lines = _log(out)
    assert [line["epoch"] for line in lines] == ["1", "2"]
    assert all(0 < float(line["train_loss"]) < 10 for line in lines)
    assert all(0 <= float(line["val_top1"]) <= 100 and float(line["images_per_second"]) > 0 for line in lines)
    assert all((line["val_top1_ema"] != "") == ("--ema-decay" in how) for line in lines)
    assert float(lines[0]["learning_rate"]) > float(lines[1]["learning_rate"]) > 0
    assert json.loads((out / "recipe.json").read_text())["target"] == how[how.index("--target") + 1]
    if "one-hot" in how:
        with Image.open(out / "curves.png") as picture:
            assert picture.format == "PNG"


def test_colours_are_learned_from_soft_labels_from_token_labels_and_from_the_teacher(
    folders: Folders, tmp_path: Path
) -> None:
    for target in ("relabel", "token", "teacher"):
        out = tmp_path / target
        how = ("--teacher", "test_train_student:colours") if target == "teacher" else ()
        train_student.main(
            folders.options(out, *_CONVNET, "--target", target, *how, "--epochs", "6", "--learning-rate", "0.01")
        )
        assert float(_log(out)[-1]["val_top1"]) > 90
        assert float(_log(out)[-1]["train_loss"]) < float(_log(out)[0]["train_loss"])


@pytest.mark.parametrize("how", [
    (*_CONVNET, "--target", "token", "--mixing", "cutmix", "--ema-decay", "0.9"),
    (*_LVVIT, "--target", "token", "--mixing", "mixtoken", "--drop-path", "0.1", "--workers", "1"),
])  # fmt: skip
def test_a_resumed_run_is_equal_to_one_that_never_stopped(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_student.main(folders.options(whole, *how))
    write = train_student.save_checkpoint

    def die_after_one(folder: Path, state: Any) -> None:
        write(folder, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_student, "save_checkpoint", die_after_one)
        with pytest.raises(KeyboardInterrupt):
            train_student.main(folders.options(stopped, *how))
    assert len(_log(stopped)) == 1
    train_student.main(folders.options(stopped, *how, "--resume"))
    one, other = _weights(whole), _weights(stopped)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = ("epoch", "learning_rate", "train_loss", "val_top1", "val_top1_ema")
    assert [[line[name] for name in kept] for line in _log(whole)] == [
        [line[name] for name in kept] for line in _log(stopped)
    ]


def _called_by_their_names(folders: Folders, root: Path) -> tuple[Path, Path, Path]:
    """The same images in a folder and in three tars, and a store whose keys are their names: "blue0" and so on."""
    stored = relabel.open(folders.store)
    keys = list(stored.keys())
    names = ["".join(Path(key).with_suffix("").parts) for key in keys]
    for place, (key, name) in enumerate(zip(keys, names, strict=True)):
        kind = Path(key).parent.name
        (root / "named" / kind).mkdir(parents=True, exist_ok=True)
        (root / "named" / kind / f"{name}.png").symlink_to(folders.train / key)
        with tarfile.open(root / f"{place % 3}.tar", "a") as tar:
            tar.add(folders.train / key, f"{name}.png")
            told = str(sorted(_COLOURS).index(kind)).encode()
            member = tarfile.TarInfo(f"{name}.cls")
            member.size = len(told)
            tar.addfile(member, io.BytesIO(told))
    relabel.write(root / "named.zarr", names, stored[stored.rows(keys)])
    return root / "named", root / "{0..2}.tar", root / "named.zarr"


def test_tars_and_files_known_by_their_names_train_and_tars_go_on(folders: Folders, tmp_path: Path) -> None:
    folder, tars, store = _called_by_their_names(folders, tmp_path)
    given = [*_CONVNET, "--target", "relabel", "--labels", str(store), "--epochs", "4", "--learning-rate", "0.01"]
    for out, images in (("files", [str(folder), "--keys", "stem"]), ("tars", [str(tars), "--workers", "1"])):
        train_student.main(folders.options(tmp_path / out, *given, "--images", *images))
        assert float(_log(tmp_path / out)[-1]["train_loss"]) < float(_log(tmp_path / out)[0]["train_loss"])
    loaded = [
        [torch.cat(parts) for parts in zip(*data.epoch(number), strict=True)]
        for number in (0, 1, 0)
        for data in [_tars(tars, store, folders)]
    ]
    assert all(torch.equal(*pair) for pair in zip(loaded[0], loaded[2], strict=True))
    rows = [Tickets.read(tickets).rows for _, tickets in loaded]
    assert rows[0].tolist() != rows[1].tolist()
    # Three steps of 8: each image once.
    assert sorted(rows[0].tolist()) == list(range(24))
    for pixels, tickets in zip(*loaded[0], strict=True):
        truth = int(relabel.ground_truth(tickets[None]))
        assert int(pixels.float().mean((1, 2)).argmax()) == 2 - truth


def _tars(tars: Path, store: Path, folders: Folders) -> Data:
    # torchvision's flip draws from the one, timm's crop from the other.
    torch.manual_seed(0)
    random.seed(0)
    recipe = Recipe(name="t", model="test_resnet", target="relabel", batch_size=8, image_size=32, workers=0)
    return load_data(recipe, Places(images=str(tars), validation=folders.val, labels=str(store)), Share(), _CPU)


def test_two_processes_of_torchrun_train_one_student(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = folders.options(out, *_LVVIT, "--target", "token", "--mixing", "mixtoken", "--ema-decay", "0.9")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(_PIPELINES / "train_student.py"), "--device", "cpu", *given]  # fmt: skip
    paths = [str(_PIPELINES.parent), *sys.path[:1]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # One process speaks, and counts the images of both: 24 images, 3 steps of 8.
    assert done.stdout.count("epoch 2: loss") == 1
    assert [line["epoch"] for line in _log(out)] == ["1", "2"]
    # A student that knows nothing loses log 3 for an image and half of that for its tokens, in both processes.
    assert float(_log(out)[0]["train_loss"]) == pytest.approx(1.5 * np.log(3), rel=0.25)
    recipe = Recipe(**json.loads((out / "recipe.json").read_text()))
    student = build_student(recipe, 3).eval()
    student.load_state_dict(_weights(out))
    transform = validation_transform(recipe)
    images = [(path, place) for place, name in enumerate(sorted(_COLOURS)) for path in (folders.val / name).iterdir()]
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(path)) for path, _ in images])
        answers = student(Pixels(recipe, _CPU)(pixels, trains=False)).argmax(1)
    right = sum(int(answer) == place for answer, (_, place) in zip(answers, images, strict=True))
    assert float(_log(out)[-1]["val_top1"]) == pytest.approx(100 * right / 12, abs=1e-3)
    assert all(torch.isfinite(weight).all() for weight in _weights(out).values())


def test_a_store_of_the_folders_names_in_another_order_is_refused(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = TeacherSpec(name="test_train_student:named_colours", image_size_hw=(32, 32))
    store = tmp_path / "labels.zarr"
    generate(str(folders.train), str(store), teacher, GenerateOptions(show_progress=False))
    given = folders.options(tmp_path / "out", *_CONVNET, "--target", "relabel", "--labels", str(store), labels=False)
    with pytest.raises(SystemExit):
        train_student.main(given)
    assert "labels.zarr: the images are of 3 classes" in (said := capsys.readouterr().err)
    assert "the same names in another order" in said


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ((*_CONVNET, "--target", "relabel", "--no-labels"), "target relabel needs the labels of"),
        (("--model", "vit_tiny_patch16_224", "--image-size", "32", "--target", "token"), "a map; VisionTransformer"),
        ((*_CONVNET, "--target", "token", "--mixing", "mixtoken"), "mixes the tokens of an LV-ViT"),
        (("--model", "lvvit_demo", "--image-size", "36", "--target", "token"), "do not tile images of"),
        (("--model", "levit_128s", "--image-size", "32", "--target", "token"), "takes no images of 32 pixels"),
        (("--model", "resnet_of_mine", "--target", "one-hot"), "resnet_of_mine"),
        ((*_CONVNET, "--target", "one-hot", "--batch-size", "64"), "24 images cannot fill a batch of 64"),
        ((*_CONVNET, "--target", "one-hot", "--resume"), "there is no checkpoint"),
        ((*_CONVNET, "--target", "one-hot", "--images", "{0..2}.tar"), "target one-hot reads no tars"),
        ((*_CONVNET, "--target", "token", "--mixing", "cutmix", "--ground-truth", "agreement"), "without cutmix"),
        (("--target", "one-hot"), "give --model NAME"),
        ((*_CONVNET, "--target", "teacher"), "teacher must be a name for target teacher"),
        ((*_CONVNET, "--target", "one-hot", "--teacher", "resnet50"), "teacher must be None for target one-hot"),
        ((*_CONVNET, "--target", "teacher", "--teacher", "test_train_student:two_colours"), "answers 2 classes"),
        ((*_CONVNET, "--target", "one-hot", "--smoothing", "0.1"), "smoothing must be 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: tuple[str, ...], sentence: str
) -> None:
    labels = "--no-labels" not in how
    given = folders.options(tmp_path / "out", *(word for word in how if word != "--no-labels"), labels=labels)
    with pytest.raises(SystemExit) as left:
        train_student.main(given)
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_without_labels_and_other_classes_are_refused(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = folders.options(tmp_path / "out", *_CONVNET, "--target", "relabel")
    more = tmp_path / "more"
    for name in _COLOURS:
        (more / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(more / name / "new.png")
    with pytest.raises(SystemExit):
        train_student.main([*given, "--images", str(more)])
    assert "has no image of 3 of 3 keys" in capsys.readouterr().err
    (more / "violet").mkdir()
    Image.new("RGB", (40, 40)).save(more / "violet" / "new.png")
    with pytest.raises(SystemExit):
        train_student.main([*given, "--images", str(more)])
    assert "only in one of them: violet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_student.main([*given, "--images", str(more), "--val", str(more)])
    assert "has labels of 3 classes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_student.main([*given, "--images", str(tmp_path / "absent")])
    assert "no folder of class folders" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe_is_refused_and_no_run_is_overwritten(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = folders.options(tmp_path / "out", *_CONVNET, "--target", "one-hot", "--epochs", "1")
    train_student.main(given)
    with pytest.raises(SystemExit):
        train_student.main([*given, "--target", "smoothed", "--smoothing", "0.2", "--resume"])
    assert "target 'one-hot', now 'smoothed'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_student.main(given)
    assert "holds a run: go on with --resume" in capsys.readouterr().err
