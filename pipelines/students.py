"""Do labels of crops make better students? Two small students, five targets, the same budget, seeds, crops and scenes.

Run ``python pipelines/students.py --out students-output --seeds 5``; a run that was stopped goes on with the same
command. Nothing is downloaded: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import relabel

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import scenes
from pipelines import student_scenes as made
from pipelines.objective import Objective
from pipelines.recipe import Recipe
from pipelines.schedule import learning_rate, make_optimizer, set_learning_rate
from pipelines.student_models import build_student, token_grid_hw
from pipelines.student_scenes import Counts
from pipelines.student_table import NO_TEACHER, draw, markdown, read

TARGETS: dict[str, dict[str, Any]] = {
    "one-hot": {"target": "one-hot"},
    "smoothed": {"target": "smoothed", "smoothing": 0.1},
    "ReLabel": {"target": "relabel"},
    "Token Labeling": {"target": "token"},
    "ReLabel, x and y swapped": {"target": "relabel"},
}
SWAPPED = "ReLabel, x and y swapped"
TEACHERS = {
    "same scenes": "learned from the students' own scenes and labels, for longer",
    "other scans": "learned from other scans, in simpler scenes",
}
_BASE: dict[str, Any] = {
    "image_size": 48, "batch_size": 32, "optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 2,
    "crop_scale": made.CROP_SCALE, "crop_ratio": made.CROP_RATIO, "flip_probability": 0.0, "precision": "float32",
    "workers": 0,
}  # fmt: skip
STUDENTS: dict[str, dict[str, Any]] = {
    "convnet": {
        "model": "resnet10t",
        "model_options": {"channels": (16, 32, 64, 96), "stem_width": 8, "output_stride": 16},
        "learning_rate": 4e-3,
    },
    "LV-ViT": {
        "model": "lvvit_demo",
        "model_options": {"embed_dim": 64, "depth": 3, "stem_width": 8},
        "learning_rate": 2e-3,
    },
}


@dataclass(frozen=True, slots=True)
class Job:
    """All runs of one student and seed, which share crops and first weights."""

    out: Path
    student: str
    seed: int
    epochs: int
    teachers: tuple[str, ...]

    def missing(self) -> list[tuple[str, str]]:
        """The (teacher, target) whose result is not there yet."""
        wanted = [(NO_TEACHER, name) for name, how in TARGETS.items() if how["target"] in ("one-hot", "smoothed")]
        labeled = [name for name in TARGETS if (NO_TEACHER, name) not in wanted]
        wanted += [(teacher, name) for teacher in self.teachers for name in labeled]
        return [each for each in wanted if not self.file(*each).exists()]

    def file(self, teacher: str, target: str) -> Path:
        """Where a run's result stands."""
        name = "_".join((teacher, self.student, target, str(self.seed))).replace(",", "").replace(" ", "-")
        return self.out / "runs" / f"{name}.json"

    def recipe(self, target: str) -> Recipe:
        """Of one run; only the target differs between the runs of a job."""
        own = _BASE | STUDENTS[self.student] | TARGETS[target]
        return Recipe(name=target, epochs=self.epochs, seed=self.seed, **own)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, train what is missing, and say what came out."""
    options = _options(arguments)
    out: Path = options.out
    started = time.perf_counter()
    counts = Counts(64, 64, 40, 60, 1) if options.quick else Counts()
    epochs = 3 if options.quick else options.epochs
    _check_settings(out, counts, epochs)
    teachers = tuple(list(TEACHERS)[: options.teachers])
    jobs = [Job(out, student, seed, epochs, teachers) for seed in range(options.seeds) for student in STUDENTS]
    jobs = [job for job in jobs if job.missing()]
    if jobs:
        _prepare(out, counts, teachers)
        for lines in _each(jobs, options.processes):
            print(lines, flush=True)
    rows = read(out, list(TARGETS))
    table = markdown(rows)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(rows, list(TARGETS), out / "students.png")
    print(f"\n{table}\n\ntable and picture: {out}/table.md, students.png; {time.perf_counter() - started:.0f} s")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("students-output"), help="output folder [%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each student and target [%(default)s]")
    parser.add_argument("--epochs", type=int, default=10, help="of each student [%(default)s]")
    parser.add_argument("--teachers", type=int, default=1, choices=(1, 2), help="2: also the second [%(default)s]")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a few scenes and epochs, to see it work; proves nothing")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.processes) < 1 or options.epochs < 3:
        parser.error("needs 1 seed and 1 process at least, and 3 epochs")
    return options


def _check_settings(out: Path, counts: Counts, epochs: int) -> None:
    """Results of other settings are not mixed with these."""
    settings = {"counts": dataclasses.asdict(counts), "epochs": epochs, "students": STUDENTS, "base": _BASE}
    path, text = out / "settings.json", json.dumps(settings, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        sys.exit(f"{out} holds results of other settings (settings.json differs); give another folder with --out")
    if not path.exists() and (out / "runs").exists():
        sys.exit(f"{out} holds runs that this recipe did not make; give another folder with --out")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _prepare(out: Path, counts: Counts, teachers: Sequence[str]) -> None:
    """Scenes, and of each teacher its weights and its store; what an earlier run finished is kept."""
    torch.set_num_threads(1)
    stores = {teacher: _store(out, teacher) for teacher in teachers}
    if (out / "scenes.pt").exists() and all(store.exists() for store in stores.values()):
        return
    print(f"scenes: {counts.train} to learn from, {counts.test} to test, of scans that nobody learned from", flush=True)
    split = made.compose(counts)
    test = made.held_out(split.test, counts.test_crops, _BASE["image_size"])
    content = {"images": made.decoded(split.train), "classes": torch.tensor([s.label for s in split.train])}
    content |= {"keys": [s.key for s in split.train], "test": dataclasses.asdict(test)}
    torch.save(content, out / "scenes.pt")
    for teacher, store in stores.items():
        if store.exists():
            continue
        weights = store.with_suffix(".safetensors")
        taught = split.train if teacher == "same scenes" else split.other
        if not weights.exists():
            made.train_teacher(taught, counts.teacher_epochs, weights, lambda text: print(text, flush=True))
        unfinished = store.with_name("unfinished.zarr")
        made.generate(split.train, weights, unfinished)
        unfinished.rename(store)
        accuracy = made.teacher_accuracy(weights, split.test)
        (out / f"{store.stem}.json").write_text(json.dumps({"teacher": teacher, "scene": accuracy}), encoding="utf-8")
        print(f"teacher: {teacher}, {TEACHERS[teacher]}; {accuracy:.1%} of whole test scenes", flush=True)


def _store(out: Path, teacher: str) -> Path:
    return out / f"{teacher.replace(' ', '-')}.zarr"


def _each(jobs: Sequence[Job], processes: int) -> Iterator[str]:
    if processes == 1:
        yield from map(_run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run, jobs)


def _run(job: Job) -> str:
    """Train a job's students, one after the other; answers a line for each."""
    torch.set_num_threads(1)
    content = torch.load(job.out / "scenes.pt", weights_only=True)
    side = _BASE["image_size"]
    crops = made.random_crops(content["images"], job.epochs, side, job.seed)
    classes, test = content["classes"][crops.owners], made.HeldOut(**content["test"])
    maps = {teacher: relabel.open(_store(job.out, teacher)) for teacher in job.teachers}
    lines = []
    for teacher, target in job.missing():
        started = time.perf_counter()
        batches = _batches(crops, classes, maps.get(teacher), content["keys"], target == SWAPPED)
        student, loss = train(job.recipe(target), batches, len(crops.owners), maps.get(teacher))
        scores = {"scene": top1_of_scenes(student, test), "crop": top1_of_crops(student, test)}
        result = {"teacher": teacher, "student": job.student, "target": target, "seed": job.seed, **scores}
        result |= {"loss": loss, "seconds": round(time.perf_counter() - started, 1)}
        partial = job.file(teacher, target).with_suffix(".partial")
        partial.write_text(json.dumps(result), encoding="utf-8")
        partial.rename(job.file(teacher, target))
        lines.append(
            f"{job.student}, {target} (teacher: {teacher}), seed {job.seed}: {scores['scene']:.1%} of scenes, "
            f"{scores['crop']:.1%} of crops; loss {loss:.2f}, {result['seconds']:.0f} s"
        )
    return "\n".join(lines)


def _batches(
    crops: made.Crops, classes: Tensor, maps: relabel.LabelMaps | None, keys: list[str], swapped: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images with their tickets, as a loader of `relabel.Labeled` gives them; or with their classes."""
    rows = None if maps is None else maps.rows(keys)[crops.owners]
    order = [1, 0, 3, 2] if swapped else [0, 1, 2, 3]
    size = _BASE["batch_size"]
    for first in range(0, len(crops.owners) - size + 1, size):
        some = slice(first, first + size)
        images = made.normalised(crops.pixels[some])
        if maps is None or rows is None:
            yield images, classes[some]
        else:
            boxes = crops.boxes[some][:, order]
            yield images, maps.tickets(rows[some], boxes, ground_truth=classes[some])


def train(
    recipe: Recipe,
    batches: Iterator[tuple[Tensor, Tensor]],
    count: int,
    maps: relabel.LabelMaps | None,
    num_classes: int = scenes.NUM_CLASSES,
) -> tuple[nn.Module, float]:
    """A student of all batches, whose tickets `maps` pools, and its mean loss over the last tenth of them."""
    torch.manual_seed(recipe.seed)
    student: Any = build_student(recipe, num_classes)
    student.to(memory_format=torch.channels_last)
    objective = Objective(recipe, num_classes, token_grid_hw(student), maps=maps, seed=recipe.seed)
    optimizer = make_optimizer(student, recipe)
    steps, losses = count // recipe.batch_size, []
    for step, (images, labels) in enumerate(batches):
        set_learning_rate(optimizer, learning_rate(recipe, step / steps * recipe.epochs))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = objective(student, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return student.eval(), float(torch.stack(losses[-max(1, steps // 10) :]).mean())


def _answers(student: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([student(made.normalised(some)) for some in pixels.split(250)])


def top1_of_scenes(student: nn.Module, test: made.HeldOut) -> float:
    """How often the answer to a whole scene is its one label, the class of its largest digit."""
    return float((_answers(student, test.whole).argmax(1) == test.classes).double().mean())


def top1_of_crops(student: nn.Module, test: made.HeldOut) -> float:
    """How often the answer to a crop is the class with the largest area in it; ties count."""
    answer = _answers(student, test.crops).argmax(1, keepdim=True)
    return float((test.content.gather(1, answer)[:, 0] >= test.content.amax(1)).double().mean())


if __name__ == "__main__":
    main()
