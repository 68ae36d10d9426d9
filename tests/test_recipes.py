"""Recipes refuse what makes no run, the ImageNet presets are the papers', and the commands they print are real ones."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shlex
from typing import Any

import pytest
import timm
import torch
from commands import parser
from pages import read_page
from timm.data.auto_augment import rand_augment_transform
from timm.optim import create_optimizer_v2

from pipelines import imagenet1k, student_models, student_options  # noqa: F401  (timm learns of LV-ViT)
from pipelines.recipe import Recipe
from relabel.errors import InvalidValueError

_NAMES = (
    *(f"resnet{depth}{kind}" for depth in (18, 50, 101) for kind in ("", "_relabel", "_relabel_cutmix")),
    "resnet50_smoothed",
    *(f"lvvit_{size}" for size in ("t", "s", "s_384", "m", "m_384", "l")),
)


def made(**changes: Any) -> Any:
    return Recipe(**{"name": "try", "model": "resnet18", **changes})


def test_a_recipe_is_frozen_and_a_change_is_checked_again() -> None:
    recipe = made(epochs=10, warmup_epochs=2, cooldown_epochs=3)
    assert recipe.total_epochs == 13
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 20
    assert dataclasses.replace(recipe, epochs=20).total_epochs == 23
    with pytest.raises(InvalidValueError, match="fewer than the 2 epochs; got 2"):
        dataclasses.replace(recipe, epochs=2)


def test_a_recipe_survives_json_and_pickle() -> None:
    recipe = made(
        target="token", mixing="mixtoken", model_options={"channels": (16, 32)}, crop_scale=(0.2, 1), ema_decay=0.99
    )
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_a_recipe_keeps_its_own_model_options() -> None:
    options = {"patch_size": 8}
    recipe = made(model_options=options)
    options["patch_size"] = 16
    recipe.as_dict()["model_options"]["patch_size"] = 32
    assert recipe.model_options == {"patch_size": 8}


def test_learning_rates_follow_the_batch_size() -> None:
    recipe = made(learning_rate=0.8, min_learning_rate=0.08, warmup_learning_rate=0.4, batch_size=1024)
    quarter = recipe.for_batch_size(256)
    rates = (quarter.learning_rate, quarter.min_learning_rate, quarter.warmup_learning_rate)
    assert (quarter.batch_size, *rates) == pytest.approx((256, 0.2, 0.02, 0.1))
    assert quarter.for_batch_size(1024) == recipe
    with pytest.raises(InvalidValueError, match="1 image or more; got 0"):
        recipe.for_batch_size(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name must be a name"),
        ({"model": ""}, "model must be a name"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, adamp; got 'adam'"),
        ({"target": "soft"}, "target must be one of one-hot, smoothed, relabel, token"),
        ({"space": "logits"}, "space must be one of"),
        ({"mixing": "cutout"}, "mixing must be one of"),
        ({"precision": "half"}, "precision must be one of"),
        ({"interpolation": "nearest"}, "interpolation must be one of"),
        ({"ground_truth": "yes", "target": "token"}, "ground_truth must be one of None, agreement, published"),
        ({"image_size": 0}, "image_size must be a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"mixing_off_epochs": -1}, "mixing_off_epochs must be a whole number, 0 or more"),
        ({"workers": -1}, "workers must be"),
        ({"seed": -1}, "seed must be"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0; got nan"),
        ({"min_learning_rate": 0.2}, "min_learning_rate must be at most learning_rate"),
        ({"warmup_learning_rate": 0.2}, "warmup_learning_rate must be at most learning_rate"),
        ({"weight_decay": -1e-4}, "weight_decay must be 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay must be 0 or more"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"mixing_alpha": 0.0}, "mixing_alpha must be above 0"),
        ({"mixing_probability": 1.1}, r"mixing_probability must be in \[0, 1\]"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\), or None"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, or None"),
        ({"validation_crop": 1.1}, r"validation_crop must be in \(0, 1\]"),
        ({"crop_scale": (0.5, 1.5)}, r"crop_scale must be \(least, most\), above 0 and at most 1; got \(0.5, 1.5\)"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be"),
        ({"crop_ratio": (2.0, 1.0)}, r"crop_ratio must be \(least, most\), above 0; got \(2.0, 1.0\)"),
        ({"crop_ratio": (1.0,)}, "crop_ratio must be"),
        ({"warmup_epochs": 300}, "warmup_epochs must be fewer than the 300 epochs"),
        ({"smoothing": 0.1}, "smoothing must be 0 for target one-hot, or target smoothed"),
        ({"target": "smoothed"}, "smoothing must be above 0 for target smoothed"),
        ({"published": "corrected"}, "published must be None for target one-hot; got 'corrected'"),
        ({"target": "relabel", "published": "yes"}, "published must be one of None, as-shipped, corrected"),
        ({"target": "relabel", "published": "corrected", "temperature": 2.0}, "published must be None for space logit"),
        ({"init": ""}, "init must be a name"),
        ({"head_epochs": -1}, "head_epochs must be a whole number, 0 or more"),
        ({"mean": (0.5, 0.5)}, "mean must be three numbers, or None"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be three numbers, above 0, or None"),
        ({"target": "relabel", "smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"target": "relabel", "ground_truth": "agreement"}, "ground_truth must be None for target relabel"),
        ({"target": "relabel", "mixing": "mixtoken"}, "mixing must be none, cutmix or mixup for target relabel"),
    ],
)
def test_what_makes_no_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^recipe '{changes.get('name', 'try')}': {message}"):
        made(**changes)


def test_the_presets_are_those_of_the_papers() -> None:
    assert set(imagenet1k.PRESETS) == set(_NAMES)
    assert {name: preset.recipe.name for name, preset in imagenet1k.PRESETS.items()} == {name: name for name in _NAMES}
    published = {
        "resnet18": 71.7, "resnet18_relabel": 72.5, "resnet18_relabel_cutmix": 73.2,
        "resnet50": 77.5, "resnet50_smoothed": 78.0, "resnet50_relabel": 78.9, "resnet50_relabel_cutmix": 80.2,
        "resnet101": 78.1, "resnet101_relabel": 80.7, "resnet101_relabel_cutmix": 81.6,
        "lvvit_t": 79.1, "lvvit_s": 83.3, "lvvit_m": 84.0, "lvvit_l": 86.2, "lvvit_s_384": 84.4, "lvvit_m_384": 85.4,
    }  # fmt: skip
    assert {name: preset.paper_top1 for name, preset in imagenet1k.PRESETS.items()} == published


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("resnet50", {"target": "one-hot", "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4}),
        ("resnet50_relabel", {"target": "relabel", "mixing": "none", "color_jitter": 0.4, "lighting": 0.1,
                              "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "weight_decay": 1e-4,
                              "epochs": 300, "warmup_epochs": 5, "batch_size": 1024, "crop_scale": (0.08, 1.0),
                              "space": "logit", "smoothing": 0.0, "ema_decay": None, "image_size": 224}),
        ("resnet101_relabel_cutmix", {"target": "relabel", "mixing": "cutmix", "mixing_alpha": 1.0,
                                      "mixing_probability": 1.0, "mixing_off_epochs": 5, "optimizer": "adamp",
                                      "learning_rate": 2e-3, "weight_decay": 1e-2, "epochs": 300}),
        ("lvvit_s", {"target": "token", "mixing": "mixtoken", "optimizer": "adamw", "learning_rate": 1.6e-3,
                     "weight_decay": 0.05, "epochs": 300, "cooldown_epochs": 10, "warmup_epochs": 5,
                     "batch_size": 1024, "smoothing": 0.1, "randaugment": "rand-m9-mstd0.5-inc1",
                     "random_erasing": 0.25, "ema_decay": 0.99992, "drop_path": 0.1, "token_weight": 0.5,
                     "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-6, "ground_truth": None}),
        ("lvvit_s_384", {"model": "lvvit_s", "image_size": 384, "learning_rate": 5e-6, "min_learning_rate": 5e-6,
                         "weight_decay": 1e-8, "batch_size": 512, "drop_path": 0.1, "ema_decay": None,
                         "init": "lvvit_s/checkpoint.pt", "target": "token"}),
        ("lvvit_m", {"drop_path": 0.2, "learning_rate": 1.6e-3, "image_size": 224}),
        ("lvvit_l", {"drop_path": 0.3, "learning_rate": 1e-3, "image_size": 448,
                     "randaugment": "rand-n3-m9-mstd0.5-inc1"}),
    ],
)  # fmt: skip
def test_a_preset_has_the_published_settings(name: str, facts: dict[str, Any]) -> None:
    recipe = imagenet1k.preset_named(name).recipe
    assert {key: getattr(recipe, key) for key in facts} == facts


@pytest.mark.parametrize("name", _NAMES)
def test_timm_can_build_all_that_a_preset_names(name: str) -> None:
    preset = imagenet1k.PRESETS[name]
    recipe = preset.recipe
    with torch.device("meta"):
        student = timm.create_model(recipe.model, drop_path_rate=recipe.drop_path, **recipe.model_options)
    options = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    create_optimizer_v2(student, recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **options)
    if recipe.randaugment is not None:
        rand_augment_transform(recipe.randaugment, {})
    if recipe.target == "token":
        assert recipe.init != "none" or student.patch_embed.img_size == (recipe.image_size,) * 2
        assert recipe.init in ("none", f"{imagenet1k.PRESETS[recipe.model].recipe.name}/checkpoint.pt")
        assert student.pretrained_cfg["crop_pct"] == recipe.validation_crop
    assert (preset.teacher is None) is not recipe.uses_store
    assert preset.departures


def test_timm_has_weights_of_every_teacher() -> None:
    for teacher in imagenet1k.TEACHERS.values():
        assert teacher.name in timm.list_pretrained(teacher.name)


_PLACES = ["--images", "my images/train", "--val", "v", "--labels", "s.zarr", "--gpus", "2"]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("places", [[], _PLACES], ids=["", "own"])
def test_every_printed_command_parses(
    name: str, places: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenet1k.main(["commands", name, *places])
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    labels = [words for words in printed if "relabel" in words]
    problem = parser(monkeypatch)
    assert [problem(words[words.index("relabel") + 1 :]) for words in labels] == [""] * len(labels)
    does = [words[words.index("relabel") + 1 :][: 1 if "generate" in words else 2] for words in labels]
    uses_store = imagenet1k.PRESETS[name].recipe.uses_store
    assert does == ([["generate"], ["verify", "shards"], ["verify", "labels"]] if uses_store else [])
    (train,) = (words for words in printed if words not in labels)
    assert train[:3] == ["torchrun", f"--nproc_per_node={2 if places else 8}", "pipelines/train_student.py"]
    command = student_options.parse(train[3:], None)
    assert command.recipe == imagenet1k.PRESETS[name].recipe
    own_store = f"{imagenet1k.PRESETS[name].teacher}.zarr"  # two presets of two teachers do not meet in one store
    folders = ("my images/train", "v", "s.zarr") if places else ("imagenet/train", "imagenet/val", own_store)
    own = (str(command.places.images), str(command.places.validation), command.places.labels)
    assert own == (folders if uses_store else (*folders[:2], None))
    assert str(command.out) == name


@pytest.mark.parametrize("published", ["as-shipped", "corrected"])
@pytest.mark.parametrize("name", ["resnet50_relabel_cutmix", "lvvit_s"])
def test_the_published_labels_are_imported(
    name: str, published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenet1k.main(["commands", name, "--archive", "my labels", "--published", published])
    first, second, train = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    kind = "tokenlabeling" if name == "lvvit_s" else "relabel"
    assert first == ["relabel", "import", kind, "my labels", f"{kind}.zarr", "--images", "imagenet/train"]
    assert second[:4] == ["relabel", "verify", "shards", f"{kind}.zarr"]
    assert [parser(monkeypatch)(words[1:]) for words in (first, second)] == ["", ""]
    command = student_options.parse(train[3:], None)
    assert (command.places.labels, command.recipe.published) == (f"{kind}.zarr", published)
    same = dataclasses.replace(command.recipe, published=None, randaugment=None)
    assert same == dataclasses.replace(imagenet1k.PRESETS[name].recipe, randaugment=None)
    # What was shipped follows no turns.
    assert (command.recipe.randaugment is None) == (name != "lvvit_s" or published == "as-shipped")


def test_the_page_of_both_papers_names_options_that_there_are() -> None:
    rows = re.findall(r"^\| .*? \| (.*) \|$", read_page("docs/papers.md").partition("## ReLabel")[2], re.MULTILINE)
    named = {option for ours in rows for option in re.findall(r"`(--[a-z-]+)", ours)}
    fields = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Recipe)}
    assert len(named) > 35
    assert named - fields == {"--preset", "--images", "--val", "--labels", "--resume", "--out"}


def test_a_stronger_teacher_can_be_chosen() -> None:
    places = imagenet1k.Places()
    generate = imagenet1k.commands("resnet50_relabel", places, "eva02")[0]
    assert generate[generate.index("--teacher") + 1].startswith("eva02_large")
    own = imagenet1k.commands("resnet50_relabel", places)[0]
    assert own[own.index("--teacher") + 1] == "tf_efficientnet_l2.ns_jft_in1k_475"
    with pytest.raises(InvalidValueError, match="resnet50 uses no labels"):
        imagenet1k.commands("resnet50", places, "eva02")
    archive = dataclasses.replace(places, archive="labels")
    with pytest.raises(InvalidValueError, match="resnet50 uses no labels; leave --archive out"):
        imagenet1k.commands("resnet50", archive)
    with pytest.raises(InvalidValueError, match="of an archive or of the teacher 'eva02'; leave --teacher out"):
        imagenet1k.commands("resnet50_relabel", archive, "eva02")
    with pytest.raises(InvalidValueError, match="no teacher 'eva03'; known are efficientnet-l2"):
        imagenet1k.commands("resnet50_relabel", places, "eva03")


def test_list_says_that_nothing_was_run_here(capsys: pytest.CaptureFixture[str]) -> None:
    imagenet1k.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1 : len(_NAMES) + 1]}
    assert set(rows) == set(_NAMES)
    assert all(line.endswith(" %  not run here") for line in rows.values())
    assert "80.2 %" in rows["resnet50_relabel_cutmix"]


def test_show_is_a_recipe_that_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    imagenet1k.main(["show", "lvvit_l"])
    shown = json.loads(capsys.readouterr().out)
    assert Recipe(**shown["recipe"]) == imagenet1k.PRESETS["lvvit_l"].recipe
    assert (shown["here"], shown["teacher"], shown["paper_top1"]) == ("not run here", "dm_nfnet_f6.dm_in1k", 86.2)
    assert any("448" in departure for departure in shown["departures"])


def test_a_wrong_name_is_told_with_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidValueError, match=r"no preset 'resnet50_relable'; is it one of resnet50_relabel"):
        imagenet1k.preset_named("resnet50_relable")
    for arguments in (["show", "nothing"], ["commands", "resnet50", "--teacher", "eva02"], []):
        with pytest.raises(SystemExit) as stopped:
            imagenet1k.main(arguments)
        assert stopped.value.code == 2
    assert "uses no labels" in capsys.readouterr().err
