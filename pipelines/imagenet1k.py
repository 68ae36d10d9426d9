"""The ImageNet-1k recipes of ReLabel (arXiv 2101.05022) and Token Labeling (arXiv 2104.10858), by name.

``python pipelines/imagenet1k.py list`` shows them, ``show NAME`` all that a run is and where it departs from what was
published, and ``commands NAME`` what to run, from the project's folder: a store of labels, its checks, the training.
With ``--archive DIR`` the labels are the published ones, imported, instead of a teacher's.
They need GPUs and ImageNet; none was run here, and the accuracies are the papers' own.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines.presets import PRESETS as PRESETS
from pipelines.presets import TEACHERS as TEACHERS
from pipelines.presets import Preset
from pipelines.presets import preset_named as preset_named
from pipelines.recipe import Published
from relabel.errors import InvalidValueError

HERE = "not run here"


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
