"""The ImageNet-1k recipes of ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858), by name.

``python pipelines/imagenet1k.py list`` shows them, ``show NAME`` all that a run is and where it departs from what was
published, and ``commands NAME`` what to run, from the project's folder: a store of labels, its checks, the training.
With ``--archive DIR`` the labels are the published ones, imported, instead of a teacher's.
They need GPUs and ImageNet; none was run here, and the accuracies are the papers' own.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines.recipe import Published, Recipe
from relabel.errors import InvalidValueError

HERE = "not run here"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a user's ImageNet lies and its labels go, and how many GPUs of one machine work.

    Without `labels`, a store is named after its teacher, so that two presets do not meet in one. `archive` is the
    folder of published labels to import, and `published` how train_student.py makes its targets of them.
    """

    images: str = "imagenet/train"
    validation: str = "imagenet/val"
    labels: str | None = None
    gpus: int = 8
    archive: str | None = None
    published: Published = "corrected"


def commands(name: str, places: Places, teacher: str | None = None) -> list[list[str]]:
    """The commands of a preset, each as its words: to make or import its labels, to check them, to train.

    Args:
        name: of the preset.
        places: the user's folders and GPUs.
        teacher: a key of `TEACHERS` in place of the preset's own.

    Raises:
        InvalidValueError: no such preset or teacher, a teacher or archive for a preset that needs none, or both.
    """
    own = preset_named(name).teacher
    if places.archive is not None and (own is None or teacher is not None):
        what = "uses no labels" if own is None else f"has the labels of an archive or of the teacher {teacher!r}"
        raise InvalidValueError(f"preset {name} {what}; leave --{'archive' if own is None else 'teacher'} out")
    if teacher is not None and own is None:
        raise InvalidValueError(f"preset {name} uses no labels, so it has no teacher; got {teacher!r}")
    chosen = teacher or own
    if chosen is not None and chosen not in TEACHERS:
        raise InvalidValueError(f"no teacher {chosen!r}; known are {', '.join(TEACHERS)}")
    launch = ["torchrun", f"--nproc_per_node={places.gpus}"]
    train = [*launch, str(Path("pipelines") / "train_student.py"), "--preset", name]
    train += ["--images", places.images, "--val", places.validation, "--out", name]
    if chosen is None:
        return [train]
    if places.archive is not None:
        kind = "tokenlabeling" if preset_named(name).recipe.target == "token" else "relabel"
        labels = places.labels or f"{kind}.zarr"
        # The shipped targets are of boxes; see docs/papers.md.
        is_turned = preset_named(name).recipe.randaugment is not None and places.published == "as-shipped"
        no_turns = ["--randaugment", "none"] if is_turned else []
        return [
            ["relabel", "import", kind, places.archive, labels, "--images", places.images],
            ["relabel", "verify", "shards", labels, "--images", places.images],
            [*train, "--labels", labels, "--published", places.published, *no_turns],
        ]
    made_by, labels = TEACHERS[chosen], places.labels or f"{chosen}.zarr"
    return [
        [*launch, "-m", "relabel", "generate", places.images, labels, "--teacher", made_by.name,
         *made_by.options, "--batch-size", "auto"],
        ["relabel", "verify", "shards", labels, "--images", places.images],
        ["relabel", "verify", "labels", labels, "--images", places.images, "-n", "256"],
        [*train, "--labels", labels],
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    does = parser.add_subparsers(dest="does", required=True, metavar="list|show|commands")
    does.add_parser("list", help="name, student, labels, and the accuracy that the paper reports")
    show = does.add_parser("show", help="everything a run is, as JSON, and its departures from what was published")
    show.add_argument("name", choices=PRESETS, metavar="NAME")
    wanted = does.add_parser("commands", help="what to run")
    wanted.add_argument("name", choices=PRESETS, metavar="NAME")
    own = Places()
    wanted.add_argument("--images", default=own.images, help="training images, a folder of class folders [%(default)s]")
    wanted.add_argument("--val", default=own.validation, help="validation images [%(default)s]")
    wanted.add_argument("--labels", help="store of the labels [the teacher's name]")
    wanted.add_argument("--gpus", type=int, default=own.gpus, help="GPUs of this machine [%(default)s]")
    wanted.add_argument("--teacher", choices=TEACHERS, help="teacher of the labels [the paper's]")
    wanted.add_argument("--archive", metavar="DIR", help="the published labels, unpacked, to import [a teacher's]")
    wanted.add_argument(
        "--published", choices=get_args(Published), default=own.published, help="targets of these [%(default)s]"
    )
    given = parser.parse_args(arguments)
    if given.does == "list":
        print(_listed())
    elif given.does == "show":
        print(_shown(PRESETS[given.name]))
    else:
        places = Places(
            images=given.images, validation=given.val, labels=given.labels, gpus=given.gpus, archive=given.archive,
            published=given.published,
        )  # fmt: skip
        try:
            wanted_commands = commands(given.name, places, given.teacher)
        except InvalidValueError as error:
            parser.error(str(error))
        print("\n".join(map(shlex.join, wanted_commands)))


def _listed() -> str:
    rows = [("name", "student", "target", "mixing", "teacher", "paper", "here")]
    for name, preset in PRESETS.items():
        recipe = preset.recipe
        rows.append(
            (name, f"{recipe.model} at {recipe.image_size}", recipe.target, recipe.mixing, preset.teacher or "none",
             f"{preset.paper_top1} %", HERE)
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    teachers = [f"  {key}: {each.name}, {each.note}" for key, each in TEACHERS.items()]
    return "\n".join([*lines, "", "teachers", *teachers])


def _shown(preset: Preset) -> str:
    published = {
        "paper_top1": preset.paper_top1,
        "here": HERE,
        "hardware": preset.hardware,
        "teacher": None if preset.teacher is None else TEACHERS[preset.teacher].name,
        "departures": preset.departures,
    }
    return json.dumps({"recipe": preset.recipe.as_dict(), **published}, indent=2)


if __name__ == "__main__":
    main()
