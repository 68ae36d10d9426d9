"""How often a checkpoint is right about a folder of images, also where their labels are others' or several.

    python pipelines/evaluate.py run1/checkpoint.pt imagenet/val
    python pipelines/evaluate.py run1/checkpoint.pt imagenetv2/ --mapping numbers
    python pipelines/evaluate.py run1/checkpoint.pt imagenet/val --mapping real.json

Without a mapping, folders are called as the checkpoint's classes, or are as many. `--mapping numbers` is for folders
called by a class's number, as ImageNet-V2's. A file says which classes are right: JSON, or lines of a key, a tab or
blanks, and classes, by number or name. A key is a folder's or an image's name, without or with its suffix, or its path
below the folder. An image of several classes is right with any, one of none is left out. A JSON list instead is by the
number at the end of the images' names, from 1 on, as ImageNet-ReaL has it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader, has_file_allowed_extension

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines.recipe import Recipe
from pipelines.starting import Start, head_names, start_of
from pipelines.student_models import build_student
from pipelines.student_pixels import Pixels, validation_transform
from relabel.errors import InvalidValueError, RelabelError, SourceError
from relabel.paths import expanded
from relabel.teacher.checkpoints import read_checkpoint
from relabel.teacher.devices import find_device


@dataclass(frozen=True, slots=True)
class Accuracy:
    """In percent of `images`, those with a right class; `left_out` have none."""

    top1: float
    top5: float
    images: int
    left_out: int


class Photographs(Dataset[tuple[Tensor, int]]):
    """Images of a folder, uint8 (3, s, s), and their places in the list."""

    def __init__(self, paths: Sequence[Path], transform: Any) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self._transform(default_loader(str(self._paths[place]))), place


def main(arguments: Sequence[str] | None = None) -> Accuracy:
    """The command line."""
    parser = argparse.ArgumentParser(
        "evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", help="train_student.py's; FILE@student are its last weights where it has averaged ones")
    add("images", type=Path, help="a folder of images, in class folders or not")
    add("--mapping", help="which classes are right: a file, JSON or text, or `numbers` [folders called as classes]")
    add("--model", help="timm's or lvvit.py's name [what the checkpoint says]")
    add("--image-size", type=int, help="pixels of a side [the checkpoint's]")
    add("--crop", type=float, help="side of the centred crop over the image's shorter side [the checkpoint's]")
    add("--batch-size", type=int, default=64, help="[%(default)s]")
    add("--workers", type=int, default=4, help="loader processes [%(default)s]")
    add("--device", default="auto", help="cpu, cuda or auto [%(default)s]")
    given = parser.parse_args(arguments)
    try:
        found = evaluate(given)
    except RelabelError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        sys.exit(2)
    left = f"; {found.left_out} of no class left out" if found.left_out else ""
    print(f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} % of {found.images} images{left}")
    return found


def evaluate(given: argparse.Namespace) -> Accuracy:
    """The accuracy of a checkpoint, with what the command line says otherwise.

    Raises:
        InvalidValueError: the checkpoint does not say its model or has no classifier, or a mapping is none.
        SourceError: no images, or images of which the mapping, or the folders, do not say what is right.
    """
    start, names = _start(given)
    found = given.images.rglob("*")
    paths = sorted(path for path in found if path.is_file() and has_file_allowed_extension(path.name, IMG_EXTENSIONS))
    if not paths:
        raise SourceError(f"{given.images} is no folder of images")
    right = right_classes(given.images, paths, names, given.mapping)
    kept = [place for place, classes in enumerate(right) if classes]
    if not kept:
        raise SourceError(f"{given.mapping} leaves out all {len(paths)} images of {given.images}")
    device = find_device(given.device)
    student = build_student(start.recipe, len(names), start, names).to(device).eval()
    pixels = Pixels(start.recipe, device)
    shown = Photographs([paths[place] for place in kept], validation_transform(start.recipe))
    top1 = top5 = 0
    with torch.inference_mode():
        for images, places in DataLoader(shown, given.batch_size, num_workers=given.workers):
            ranked = student(pixels(images, trains=False)).topk(min(5, len(names))).indices.tolist()
            for likeliest, place in zip(ranked, places.tolist(), strict=True):
                top1 += likeliest[0] in right[kept[place]]
                top5 += not right[kept[place]].isdisjoint(likeliest)
    return Accuracy(100 * top1 / len(kept), 100 * top5 / len(kept), len(kept), len(paths) - len(kept))


def _start(given: argparse.Namespace) -> tuple[Start, tuple[str, ...]]:
    """The model as the checkpoint says it was trained, and the names of its classes, numbers where it has none."""
    file = read_checkpoint(expanded(given.checkpoint))
    told = file.told
    model = given.model or told.architecture
    if not model:
        raise InvalidValueError(f"{given.checkpoint} does not say which model its weights are of: give --model NAME")
    size = given.image_size or (told.image_size_hw or (224,))[0]
    recipe = Recipe(
        name="evaluated", model=model, init=given.checkpoint, image_size=size,
        # An LV-ViT that learned from token labels answers by its tokens, too.
        target="token" if "aux_head.weight" in file.tensors else "one-hot",
        validation_crop=given.crop or told.crop or 0.875, interpolation=told.interpolation or "bicubic",
    )  # fmt: skip
    start = replace(start_of(recipe), is_whole=True)
    if not timm.is_model(model.partition(".")[0]):
        raise InvalidValueError(f"timm has no model {model!r}, and lvvit.py neither")
    with torch.device("meta"):
        classifying = head_names(timm.create_model(model))
    count = next((len(file.tensors[f"{name}weight"]) for name in classifying if f"{name}weight" in file.tensors), 0)
    return start, told.class_names or tuple(map(str, range(count)))


def right_classes(root: Path, paths: Sequence[Path], names: Sequence[str], mapping: str | None) -> list[frozenset[int]]:
    """The classes that are right of each image, none of one that is to be left out.

    Raises:
        InvalidValueError: a mapping that is none, or of classes that there are not.
        SourceError: an image that it does not know, or folders that are not the classes.
    """
    places = [path.relative_to(root) for path in paths]
    if mapping is None:
        return _by_folder(root, places, names)
    if mapping == "numbers":
        return [_numbered(place.parts[0], names) for place in places]
    table = read_mapping(Path(mapping))
    if isinstance(table, list):
        return [_classes(_entry(table, place, mapping), names, mapping) for place in places]
    return [_classes(_found(table, place, mapping), names, mapping) for place in places]


def read_mapping(path: Path) -> Mapping[str, Any] | list[Any]:
    """Classes by key, or in the order of the images' numbers.

    Raises:
        InvalidValueError: no such file, or it holds neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.lstrip().startswith(("{", "[")):
            lines: dict[str, list[str]] = defaultdict(list)
            for key, classes in map(_line, filter(str.strip, text.splitlines())):
                lines[key] += classes
            return dict(lines)
        table = json.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"--mapping {path} cannot be read as JSON or text: {error}") from error
    if not isinstance(table, dict | list):
        raise InvalidValueError(f"--mapping {path} must be a JSON object or list; got {type(table).__name__}")
    return table


def _line(line: str) -> tuple[str, list[str]]:
    # A key may hold blanks where a tab ends it.
    key, _, classes = line.partition("\t") if "\t" in line else line.strip().partition(" ")
    return key.strip(), [each for each in re.split(r"[\s,]+", classes) if each]


def _by_folder(root: Path, places: Sequence[Path], names: Sequence[str]) -> list[frozenset[int]]:
    folders = sorted({place.parts[0] for place in places if len(place.parts) > 1})
    numbers = {name: number for number, name in enumerate(names)}
    # Of a checkpoint without names, whose classes are numbers, folders are the classes in their order, if as many.
    if len(folders) == len(names) and not numbers.keys() & set(folders) and _are_numbers(names):
        numbers = {name: number for number, name in enumerate(folders)}
    if all(len(place.parts) > 1 and place.parts[0] in numbers for place in places):
        return [frozenset([numbers[place.parts[0]]]) for place in places]
    raise SourceError(
        f"{root} has {len(folders)} class folders ({', '.join(folders[:3])} ...), which are not all called as one of "
        f"the checkpoint's {len(names)} classes ({', '.join(names[:3])} ...): give a --mapping"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _numbered(folder: str, names: Sequence[str]) -> frozenset[int]:
    if not folder.isdecimal() or int(folder) >= len(names):
        raise SourceError(f"the folder {folder} is no number of a class, 0 to {len(names) - 1}: give a --mapping file")
    return frozenset([int(folder)])


def _entry(table: Sequence[Any], place: Path, mapping: str) -> Any:
    number = re.search(r"(\d+)$", place.stem)
    if number is None or not 1 <= int(number[1]) <= len(table):
        raise SourceError(f"{mapping} is a list of {len(table)}, and {place} ends in no number from 1 to that")
    return table[int(number[1]) - 1]


def _found(table: Mapping[str, Any], place: Path, mapping: str) -> Any:
    keys = (place.as_posix(), place.with_suffix("").as_posix(), place.name, place.stem, place.parts[0])
    key = next((each for each in keys if each in table), None)
    if key is None:
        raise SourceError(f"{mapping} does not know {place}: neither it, nor its name, nor its folder")
    return table[key]


def _classes(said: Any, names: Sequence[str], mapping: str) -> frozenset[int]:
    found = set()
    for each in said if isinstance(said, list) else [said]:
        if isinstance(each, str) and each in names:
            found.add(names.index(each))
        elif str(each).isdecimal() and int(each) < len(names):
            found.add(int(each))
        else:
            raise InvalidValueError(
                f"{mapping} has the class {each!r}; the checkpoint's are 0 to {len(names) - 1}, or "
                f"{', '.join(names[:3])} ..., by name"
            )
    return frozenset(found)


if __name__ == "__main__":
    main()
