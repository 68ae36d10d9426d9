"""The recipes of ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858), by name, and their teachers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from pipelines.recipe import Recipe
from relabel.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A pretrained teacher and how it is run: further options of ``relabel generate``, and what it is."""

    name: str
    options: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A recipe, the key of its teacher (None for one that needs no labels), and what was published of it.

    `paper_top1` is in percent, on ImageNet's validation images; `departures` says where the recipe is otherwise.
    """

    recipe: Recipe
    teacher: str | None
    paper_top1: float
    hardware: str
    departures: tuple[str, ...]


TEACHERS = {
    "efficientnet-l2": Teacher(
        name="tf_efficientnet_l2.ns_jft_in1k_475",
        options=("--image-size", "475"),
        note="ReLabel's own, 15 x 15 cells; it has learned from 300 M further images without labels",
    ),
    "nfnet-f6": Teacher(
        name="dm_nfnet_f6.dm_in1k",
        options=("--image-size", "576", "--grid", "teacher"),
        note="Token Labeling's own, 18 x 18 cells; it has seen ImageNet alone",
    ),
    "eva02": Teacher(
        name="eva02_large_patch14_448.mim_m38m_ft_in22k_in1k",
        options=(),
        note="a later and stronger one, for better labels than the papers had",
    ),
}

_SOUND_LABELS = (
    "labels: 16 planes an image, with what the other classes are worth, pooled in the crop's true box; published were "
    "the top 5 of each cell, the others at logit 0, pooled with the box's x and y swapped (see relabel.published)"
)
_PRECISION = "bfloat16 in place of apex's float16"


def _relabel(name: str, model: str, top1: float, **changes: Any) -> Preset:
    """ReLabel's configuration for SGD, with changes."""
    recipe = Recipe(
        **{
            "name": name, "model": model, "target": "relabel", "optimizer": "sgd", "learning_rate": 0.1,
            "weight_decay": 1e-4, "momentum": 0.9, "color_jitter": 0.4, "lighting": 0.1,
            "model_options": {"zero_init_last": False},  # torchvision's default, on which the authors trained
            **changes,
        }
    )  # fmt: skip
    departures = [_PRECISION, _SOUND_LABELS] if recipe.uses_store else [_PRECISION]
    if recipe.optimizer == "adamp":
        departures.append("timm's AdamP in place of the authors' package")
    if not recipe.uses_store:
        departures.append("the baseline's configuration was not published; this is ReLabel's without its labels")
    elif model != "resnet50":
        departures.append("configurations were published for ResNet-50 alone; this one is the same")
    return Preset(
        recipe=recipe,
        teacher="efficientnet-l2" if recipe.uses_store else None,
        paper_top1=top1,
        hardware="4 V100",
        departures=tuple(departures),
    )


def _cutmix(name: str, model: str, top1: float) -> Preset:
    """ReLabel's configuration for CutMix, which has another optimizer."""
    return _relabel(
        name, model, top1, optimizer="adamp", learning_rate=2e-3, weight_decay=1e-2, mixing="cutmix",
        mixing_off_epochs=5,
    )  # fmt: skip


def _token_labeling(name: str, top1: float, **changes: Any) -> Preset:
    """Token Labeling's defaults, with changes; a name of a recipe is its model's."""
    recipe = Recipe(
        **{
            "name": name, "model": name, "target": "token", "cooldown_epochs": 10, "optimizer": "adamw",
            "learning_rate": 1.6e-3, "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-6, "weight_decay": 0.05,
            "smoothing": 0.1, "mixing": "mixtoken", "token_weight": 0.5, "ema_decay": 0.99992,
            "interpolation": "random", "validation_crop": 0.9, "randaugment": "rand-m9-mstd0.5-inc1",
            "random_erasing": 0.25, "drop_path": 0.1, **changes,
        }
    )  # fmt: skip
    departures = [
        _PRECISION,
        _SOUND_LABELS,
        "maps cover the whole image, squashed, where the published ones cover its centred square",
        "the token loss counts 0.5, as the paper says; the published commands leave it at 1 (token_weight)",
        "RandAugment acts on the crop, and labels follow; published, it acts on the whole image and its map",
        "tokens count as much as they show of the image; published ones that RandAugment left empty are taught "
        "that all classes are equally likely",
        "the cosine starts after the warm-up, where the published one counts the warm-up's epochs",
    ]
    if recipe.init != "none":
        departures.append(
            "30 epochs, which VOLO's published fine-tuning has; the published command says none, so that it has 300"
        )
    elif recipe.image_size != 224:
        departures.append(
            "trained at the size of the published result; the published command trains at 224, and how the result at "
            "448 was reached is not told"
        )
    return Preset(recipe=recipe, teacher="nfnet-f6", paper_top1=top1, hardware="8 GPUs", departures=tuple(departures))


def _fine_tuning(model: str, top1: float, **changes: Any) -> Preset:
    """Token Labeling's fine-tuning at 384 pixels, of what the preset of 224 left in its folder."""
    return _token_labeling(
        f"{model}_384", top1, **{
            "model": model, "init": f"{model}/checkpoint.pt", "image_size": 384, "batch_size": 512, "epochs": 30,
            "learning_rate": 5e-6, "min_learning_rate": 5e-6, "weight_decay": 1e-8, "ema_decay": None, **changes,
        }
    )  # fmt: skip


_PRESETS = (
    _relabel("resnet18", "resnet18", 71.7, target="one-hot"),
    _relabel("resnet18_relabel", "resnet18", 72.5),
    _cutmix("resnet18_relabel_cutmix", "resnet18", 73.2),
    _relabel("resnet50", "resnet50", 77.5, target="one-hot"),
    _relabel("resnet50_smoothed", "resnet50", 78.0, target="smoothed", smoothing=0.1),
    _relabel("resnet50_relabel", "resnet50", 78.9),
    _cutmix("resnet50_relabel_cutmix", "resnet50", 80.2),
    _relabel("resnet101", "resnet101", 78.1, target="one-hot"),
    _relabel("resnet101_relabel", "resnet101", 80.7),
    _cutmix("resnet101_relabel_cutmix", "resnet101", 81.6),
    _token_labeling("lvvit_t", 79.1),
    _token_labeling("lvvit_s", 83.3),
    _fine_tuning("lvvit_s", 84.4),
    _token_labeling("lvvit_m", 84.0, drop_path=0.2, validation_crop=1.0),
    _fine_tuning("lvvit_m", 85.4, drop_path=0.2, validation_crop=1.0),
    _token_labeling(
        "lvvit_l", 86.2, drop_path=0.3, validation_crop=1.0, learning_rate=1e-3, image_size=448,
        randaugment="rand-n3-m9-mstd0.5-inc1",
    ),
)  # fmt: skip

PRESETS = {preset.recipe.name: preset for preset in _PRESETS}
"""By name; ``PRESETS["resnet50_relabel"].recipe`` is a `Recipe`."""


def preset_named(name: str) -> Preset:
    """A preset of this page.

    Raises:
        InvalidValueError: there is none of that name; near ones are listed.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=3) or sorted(PRESETS)
        raise InvalidValueError(f"no preset {name!r}; is it one of {', '.join(close)}?")
    return PRESETS[name]
