"""From a folder of class folders to a student with labels of its crops, in one command: teacher, labels, student.

    python pipelines/own_classes.py photos/ --teacher convnext_tiny.in12k_ft_in1k --student resnet18

A fifth of each class's images is kept for validation. A teacher with pretrained weights learns the classes (its new
classifier first, then all of it); `relabel generate` labels the training images with it once, `relabel verify shards`
checks the store; and two students learn for as many epochs, one from the folders' names, one from
labels of its crops. The table that comes last says how well each does on the validation images. The three steps are
three commands, which are printed; a second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import has_file_allowed_extension

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import train_student
from pipelines.run_log import CHECKPOINT, Epoch, read_log
from relabel.cli import main as relabel_command
from relabel.errors import RelabelError, SourceError
from relabel.teacher.devices import find_device

_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: who, percent of the validation images that it is right about, and what it took."""

    who: str
    top1: float
    seconds: float | None


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """The command line; what it prints, too."""
    options = _options(arguments)
    try:
        rows = run(options)
    except RelabelError as error:
        print(f"own_classes: {error}", file=sys.stderr)
        sys.exit(2)
    width = max(len(row.who) for row in rows)
    print(f"\n{'':{width}}   top-1   seconds")
    for row in rows:
        print(f"{row.who:{width}}  {row.top1:5.1f} %" + ("" if row.seconds is None else f"  {row.seconds:8.0f}"))
    return rows


def run(options: argparse.Namespace) -> list[Row]:
    """The three steps.

    Raises:
        SourceError: the folder has no two classes of two images each.
    """
    out: Path = options.out
    images = divided(options.images, out / "split", options.kept)
    print(f"{images[0]} images to learn from, {images[1]} to judge by")
    teacher, seconds = _trained(options, "teacher", _teacher_options(options))
    store = out / "labels.zarr"
    began = time.perf_counter()
    _relabel("generate", out / "split" / "train", store, "--checkpoint", out / "teacher" / CHECKPOINT,
             "--image-size", options.image_size, "--batch-size", 16, "--device", options.device)  # fmt: skip
    _relabel("verify", "shards", store, "--images", out / "split" / "train")
    labeled = time.perf_counter() - began
    rows = [
        Row(f"teacher {options.teacher}, its classifier alone", teacher[options.head_epochs - 1].val_top1, None),
        Row(f"teacher {options.teacher}, fine-tuned", teacher[-1].val_top1, seconds),
    ]
    for target, who in (("one-hot", "one-hot labels"), ("relabel", f"labels of its crops, made in {labeled:.0f} s")):
        student, seconds = _trained(options, f"student-{target}", _student_options(options, target, store))
        rows.append(Row(f"student {options.student}, {who}", student[-1].val_top1, seconds))
    return rows


def divided(images: Path, out: Path, kept: float) -> tuple[int, int]:
    """Make two folders of links, `train` and `val`, of a folder of class folders; how many images each has.

    Which image is kept for validation depends on its path alone, so that more images move none of the others much.

    Raises:
        SourceError: fewer than two classes, or one of a single image; one of both folders within the other; or `out`
            holds something else than such links.
    """
    ours, theirs = out.resolve(), images.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise SourceError(f"{images} and {out} lie one within the other: give an --out outside of the images' folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(images.rglob("*")):
        place = path.relative_to(images)
        if len(place.parts) > 1 and path.is_file() and has_file_allowed_extension(path.name, _IMAGES):
            found[place.parts[0]].append(place)
    few = [name for name, places in found.items() if len(places) < 2]
    if len(found) < 2 or few:
        raise SourceError(
            f"{images} must hold two class folders or more, each of two images or more; got {len(found)}"
            + (f", of one image only {', '.join(few[:5])}" if few else "")
        )
    _clear(out)
    counts = [0, 0]
    for places in found.values():
        by_chance = sorted(places, key=lambda place: hashlib.sha256(place.as_posix().encode()).digest())
        most = math.ceil(kept * len(places))
        for number, place in enumerate(by_chance):
            is_kept = number < min(most, len(places) - 1)
            link = out / ("val" if is_kept else "train") / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((images / place).resolve())
            counts[is_kept] += 1
    return counts[0], counts[1]


def _clear(out: Path) -> None:
    """Remove the links of an earlier run, after a look that there is nothing else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise SourceError(f"{out} is no folder that an earlier run made: move it, or give another --out")
    links: list[Path] = []
    folders: list[Path] = []
    for root, inner, files in os.walk(out, topdown=False):
        folders.append(Path(root))
        for path in (Path(root) / name for name in (*inner, *files)):
            if path.is_symlink():
                links.append(path)
            if path.relative_to(out).parts[0] not in ("train", "val") or not (path.is_symlink() or path.is_dir()):
                raise SourceError(f"{path} is no link that an earlier run made: move it, or give another --out")
    for link in links:
        link.unlink()
    for folder in folders:
        folder.rmdir()


def _teacher_options(options: argparse.Namespace) -> list[object]:
    return [
        *("--model", options.teacher, "--init", options.init, "--epochs", options.teacher_epochs),
        *("--head-epochs", options.head_epochs, "--head-learning-rate", 2e-3, "--learning-rate", 1e-4),
        # A teacher that knows its images by heart says of each crop what it says of the whole: crops and smoothing.
        *(
            "--warmup-epochs",
            0,
            "--target",
            "smoothed",
            "--smoothing",
            0.1,
            "--interpolation",
            "bicubic",
            "--crop-scale",
            0.25,
            1,
        ),
    ]


def _student_options(options: argparse.Namespace, target: str, store: Path) -> list[object]:
    warmup = min(5, options.student_epochs // 5)
    given = [
        "--model",
        options.student,
        "--init",
        options.student_init,
        "--target",
        target,
        "--epochs",
        options.student_epochs,
    ]
    given += ["--warmup-epochs", warmup, "--learning-rate", 2e-3, "--crop-scale", 0.25, 1]
    return given + (["--labels", store] if target == "relabel" else [])


def _trained(options: argparse.Namespace, name: str, given: Sequence[object]) -> tuple[list[Epoch], float]:
    """The log of a training of train_student.py, done now or before, and its seconds."""
    out, split = options.out / name, options.out / "split"
    precision = "bfloat16" if find_device(options.device).type == "cuda" else "float32"
    common = ["--images", split / "train", "--val", split / "val", "--out", out, "--image-size", options.image_size]
    common += ["--batch-size", options.batch_size, "--optimizer", "adamw", "--weight-decay", 0.05]
    common += ["--workers", options.workers, "--device", options.device, "--seed", options.seed]
    common += ["--precision", precision, *(["--resume"] if (out / CHECKPOINT).exists() else [])]
    words = [str(word) for word in (*given, *common)]
    print(f"\n$ python pipelines/train_student.py {shlex.join(words)}", flush=True)
    train_student.main(words)
    log = read_log(out)
    return log, sum(epoch.seconds for epoch in log)


def _relabel(*given: object) -> None:
    words = [str(word) for word in given]
    print(f"\n$ relabel {shlex.join(words)}", flush=True)
    if code := relabel_command(words, standalone_mode=False):
        sys.exit(code)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "own_classes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", type=Path, help="a folder of class folders")
    add("--out", type=Path, default=Path("own-output"), help="output folder [%(default)s]")
    add("--teacher", default="convnext_tiny.in12k_ft_in1k", help="timm's name [%(default)s]")
    add("--init", default="pretrained", help="its first weights: pretrained, or a file [%(default)s]")
    add("--student", default="resnet18", help="timm's name [%(default)s]")
    add("--student-init", default="none", help="the students' first weights: none, pretrained, or a file [%(default)s]")
    add("--head-epochs", type=int, default=2, help="in which its classifier alone learns, 1 or more [%(default)s]")
    add("--teacher-epochs", type=int, default=6, help="in which all of it does [%(default)s]")
    add("--student-epochs", type=int, default=60, help="of each student [%(default)s]")
    add("--image-size", type=int, default=224, help="pixels of a side, of teacher and students [%(default)s]")
    add("--batch-size", type=int, default=32, help="images of a step [%(default)s]")
    add("--kept", type=float, default=0.2, help="part of each class kept for validation [%(default)s]")
    add("--workers", type=int, default=4, help="loader processes [%(default)s]")
    add("--device", default="auto", help="cpu, cuda or auto [%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    options = parser.parse_args(arguments)
    if options.head_epochs < 1 or not 0 < options.kept < 1:
        parser.error("--head-epochs is 1 or more, and --kept above 0 and below 1")
    return options


if __name__ == "__main__":
    main()
