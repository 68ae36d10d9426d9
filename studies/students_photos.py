"""Do labels of crops make better students of photographs? Targets, seeds, and settings that may matter.

The photographs are labeled once (``relabel generate``), over all classes of the teacher. Then

    python -m studies.students_photos prepare --train TARS --teacher NAME --checkpoint FILE --crop-size 192
    python -m studies.students_photos run --labels STORE --val TARS --classes 0 217 482 --reading 0.52 0.15 0.83 0.16
    python -m studies.students_photos show

draw the crops and ask the teacher about each, train every student, and make students.md's table and picture. Each run
adds a line to results.jsonl in --out; a run that was stopped goes on with the same words.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import relabel
from pipelines.recipe import Recipe
from pipelines.student_scenes import CROP_RATIO, CROP_SCALE, normalised
from pipelines.students import train
from relabel.teacher import TeacherSpec, load_teacher
from studies import students_photos_data as data
from studies import students_photos_table as table
from studies.students_photos_data import Batch, Crops, Judged

WHOLE = "whole image"
READING = "ReLabel, fitted reading"
SWAPPED = "ReLabel, x and y swapped"
TEACHER = "teacher online"
TARGETS: dict[str, dict[str, Any]] = {
    "one-hot": {"target": "one-hot"},
    "smoothed": {"target": "smoothed", "smoothing": 0.1},
    WHOLE: {"target": "relabel"},
    "ReLabel": {"target": "relabel"},
    READING: {"target": "relabel"},
    "Token Labeling": {"target": "token"},
    SWAPPED: {"target": "relabel"},
    TEACHER: {"target": "teacher", "teacher": "asked before, by prepare"},
}
STUDENTS: dict[str, dict[str, Any]] = {
    "convnet": {
        "model": "resnet10t",
        "model_options": {"channels": (24, 48, 96, 192), "stem_width": 12, "output_stride": 16},
        "learning_rate": 8e-3,
    },
    "LV-ViT": {
        "model": "lvvit_demo",
        "model_options": {"embed_dim": 64, "depth": 3, "stem_width": 8},
        "learning_rate": 2e-3,
    },
}
SIDE, CROPS = 48, 16
_FILE = "crops.pt"
_BASE: dict[str, Any] = {
    "image_size": SIDE, "batch_size": 64, "optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 2,
    "crop_scale": CROP_SCALE, "crop_ratio": CROP_RATIO, "precision": "bfloat16", "workers": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What differs between the parts of the study.

    Attributes:
        per_class: photographs of each class.
        epochs: over them.
        over_own: whether labels and students know the photographs' classes alone, not all of the teacher's.
        student: one of `STUDENTS`.
        targets: of `TARGETS`.
    """

    per_class: int = 200
    epochs: int = 20
    over_own: bool = False
    student: str = "convnet"
    targets: tuple[str, ...] = tuple(TARGETS)


SETTINGS = {
    "main": Setting(),
    "long": Setting(epochs=80, targets=("one-hot", "smoothed", "ReLabel", READING, "Token Labeling", TEACHER)),
    "few": Setting(per_class=50, epochs=80, targets=("one-hot", "smoothed", "ReLabel", READING, TEACHER)),
    "ten": Setting(over_own=True, targets=("one-hot", "ReLabel", TEACHER)),
    "LV-ViT": Setting(student="LV-ViT", targets=("one-hot", "ReLabel", "Token Labeling")),
}


@dataclass(frozen=True, slots=True)
class Study:
    """What all runs share.

    Attributes:
        crops: of the photographs to learn from.
        maps: of their labels, as they are and with the fitted reading.
        rows: (n,) of the photographs in the store.
        classes: (c,) the teacher's numbers of the photographs' classes.
        test: what students are judged on.
    """

    crops: Crops
    maps: tuple[relabel.LabelMaps, relabel.LabelMaps]
    rows: Tensor
    classes: Tensor
    test: Judged

    def maps_for(self, target: str) -> relabel.LabelMaps:
        """What pools a target's tickets."""
        return self.maps[target == READING]

    def labels(self, target: str, batch: Batch, *, over_own: bool) -> Tensor:
        """Of the crops of a batch: classes (b,), tickets (b, 11) or soft labels (b, C), as `Objective` takes them."""
        own = self.crops.classes[batch.owners]
        classes = own if over_own else self.classes[own]
        if TARGETS[target]["target"] in ("one-hot", "smoothed"):
            return classes
        if target == TEACHER:
            soft = self.crops.answers[batch.owners, batch.numbers].float()
        else:
            tickets = self._tickets(target, batch, classes)
            if not over_own:
                return tickets
            soft = self.maps_for(target).pool(tickets)
        if over_own:
            soft = soft[:, self.classes]
        return soft / soft.sum(1, keepdim=True)

    def _tickets(self, target: str, batch: Batch, classes: Tensor) -> Tensor:
        boxes = self.crops.boxes[batch.owners, batch.numbers]
        if target == SWAPPED:
            boxes = boxes[:, [1, 0, 3, 2]]
        if target == WHOLE:
            boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(boxes), 4)
        return self.maps_for(target).tickets(self.rows[batch.owners], boxes, batch.flips, ground_truth=classes)


@dataclass(frozen=True, slots=True)
class Run:
    """One student."""

    setting: str
    target: str
    seed: int
    epochs: int | None = None
    learning_rate: float | None = None

    def result(self, study: Study) -> dict[str, float]:
        """Train it, and judge it among the photographs' classes: top-1, and the cross-entropy in nats."""
        setting = SETTINGS[self.setting]
        epochs = self.epochs or setting.epochs
        own = _BASE | STUDENTS[setting.student] | TARGETS[self.target]
        own |= {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        recipe = Recipe(name=self.target, epochs=epochs, seed=self.seed, **own)
        chosen = study.crops.of_each_class(setting.per_class)
        batches = data.batches(chosen, study.crops.boxes.shape[1], epochs, recipe.batch_size, self.seed)
        given = (
            (data.images_of(study.crops, batch), study.labels(self.target, batch, over_own=setting.over_own))
            for batch in batches
        )
        maps = study.maps_for(self.target)
        count = len(study.classes) if setting.over_own else maps.num_classes
        student, loss = train(recipe, given, epochs * len(chosen), maps, count)
        with torch.inference_mode():
            logits = torch.cat([student(normalised(some)) for some in study.test.pixels.split(250)]).float()
        logits = logits if setting.over_own else logits[:, study.classes]
        top1 = float((logits.argmax(1) == study.test.classes).double().mean())
        return {"top1": top1, "nll": float(nn.functional.cross_entropy(logits, study.test.classes)), "loss": loss}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    options.do(options)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    prepare = commands.add_parser("prepare", help="draw crops, and ask the teacher about each")
    prepare.set_defaults(do=_prepare)
    prepare.add_argument("--train", required=True, help="photographs to learn from")
    prepare.add_argument("--teacher", required=True, help="the store's")
    prepare.add_argument("--checkpoint", type=Path, help="its weights, where they came from a file")
    prepare.add_argument("--crop-size", type=int, help="pixels to which a crop is resized for it [its own]")
    prepare.add_argument("--per-class", type=int, default=200, help="photographs of each class [%(default)s]")
    run = commands.add_parser("run", help="train the students that are missing")
    run.set_defaults(do=_run)
    run.add_argument("--labels", required=True, help="store of the photographs to learn from")
    run.add_argument("--val", required=True, help="photographs that the students are judged on")
    run.add_argument("--classes", type=int, nargs="+", required=True, help="the teacher's number of each class")
    run.add_argument("--reading", type=float, nargs=4, metavar=("A", "B", "C", "D"), required=True,
                     help="as relabel verify labels --fit finds it")  # fmt: skip
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    run.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    run.add_argument("--epochs", type=int, help="instead of the settings', to try")
    run.add_argument("--learning-rate", type=float, help="instead of the students', to tune it")
    show = commands.add_parser("show", help="make the table and the picture")
    show.set_defaults(do=_show)
    for each in (prepare, run, show):
        each.add_argument("--out", type=Path, default=Path("students-photos"), help="output folder [%(default)s]")
        if each is not prepare:
            each.add_argument("--results", default="results.jsonl", help="file in --out [%(default)s]")
    return parser.parse_args(arguments)


def _prepare(options: argparse.Namespace) -> None:
    spec = TeacherSpec(
        name=options.teacher,
        checkpoint=options.checkpoint,
        image_size_hw=None if options.crop_size is None else (options.crop_size,) * 2,
        precision="bfloat16",
        channels_last=True,
    )
    crops = data.crops_of(options.train, options.per_class, CROPS, SIDE, load_teacher(spec))
    data.save(crops, options.out / _FILE)


def _run(options: argparse.Namespace) -> None:
    crops, plain = data.load(options.out / _FILE), relabel.open(options.labels, reading=None)
    read = relabel.open(options.labels, reading=relabel.Reading(*options.reading))
    test = data.judged(options.val, Recipe(name="judged", **_BASE, **STUDENTS["convnet"]))
    study = Study(crops, (plain, read), plain.rows(crops.keys), torch.tensor(options.classes), test)
    file: Path = options.out / options.results
    done = {(line["setting"], line["target"], line["seed"]) for line in table.read(file)}
    for run in _wanted(options):
        if (run.setting, run.target, run.seed) in done:
            continue
        started = time.perf_counter()
        found = {"setting": run.setting, "target": run.target, "seed": run.seed, **run.result(study)}
        found["seconds"] = round(time.perf_counter() - started, 1)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")
        print(found, flush=True)


def _wanted(options: argparse.Namespace) -> Iterator[Run]:
    """Settings in turn; of each all targets of a seed, then the next seed's."""
    for name in options.settings:
        for seed in options.seeds:
            for target in SETTINGS[name].targets:
                if target in options.targets:
                    yield Run(name, target, seed, options.epochs, options.learning_rate)


def _show(options: argparse.Namespace) -> None:
    lines = table.read(options.out / options.results)
    print(table.markdown(lines, list(SETTINGS), list(TARGETS)))
    table.draw(lines, list(SETTINGS), list(TARGETS), options.out / "students.png")


if __name__ == "__main__":
    main()
