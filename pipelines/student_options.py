"""The options of train_student.py: where things lie, and every field of a recipe by its name."""

from __future__ import annotations

import argparse
import dataclasses
import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipelines.presets import PRESETS, preset_named
from pipelines.recipe import Recipe
from pipelines.student_data import KEYS, Places
from relabel.errors import InvalidValueError

_NOT_GIVEN = object()


@dataclass(frozen=True, slots=True)
class Command:
    """What the command line asks for."""

    recipe: Recipe
    places: Places
    out: Path
    resume: bool
    device: str


def parse(arguments: list[str] | None, description: str | None) -> Command:
    """The command line; leaves with 2 and a sentence where it makes no sense."""
    parser = argparse.ArgumentParser(
        "train_student.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", required=True, help="training images, a folder of class folders, or tars as 'train-{000..099}.tar'"
    )
    parser.add_argument("--val", type=Path, required=True, help="validation images, of the same class folders")
    parser.add_argument("--labels", help="store of the training images' labels, for targets relabel and token")
    parser.add_argument(
        "--keys", choices=KEYS, default="path", help="what a folder's images are called in the store [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=Path("student-output"), help="output folder [%(default)s]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto [%(default)s]")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help=f"start from one of {', '.join(PRESETS)}")
    fields = parser.add_argument_group("fields of the recipe, over the preset's; a new --batch-size moves its rates")
    hints = get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        shape = _shape(hints[field.name])
        default = None if field.default is dataclasses.MISSING else field.default
        shape["help"] = "" if default is None else f"[{default}]"
        fields.add_argument(f"--{field.name.replace('_', '-')}", default=_NOT_GIVEN, **shape)
    given = parser.parse_args(arguments)
    try:
        recipe = _recipe(given)
    except InvalidValueError as error:
        parser.error(str(error))
    places = Places(images=given.images, validation=given.val, labels=given.labels, keys=given.keys)
    return Command(recipe, places, given.out, given.resume, given.device)


def _recipe(given: argparse.Namespace) -> Recipe:
    changes = {field.name: getattr(given, field.name) for field in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in changes.items() if value is not _NOT_GIVEN}
    if given.preset is None:
        if "model" not in changes:
            raise InvalidValueError("give --model NAME, timm's or lvvit.py's, or --preset NAME")
        return Recipe(**{"name": changes["model"], **changes})
    recipe = preset_named(given.preset).recipe
    if "model" in changes:
        # What the preset's model is built with means nothing to another.
        changes.setdefault("model_options", {})
    if "batch_size" in changes:
        recipe = recipe.for_batch_size(changes["batch_size"])
    # Fields that exclude each other change together.
    return dataclasses.replace(recipe, **changes)


def _shape(hint: Any) -> dict[str, Any]:
    """What argparse needs for a field of this type."""
    if tuple[float, float, float] in get_args(hint):
        return {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    if get_origin(hint) in (Union, types.UnionType):
        inner = _shape(next(each for each in get_args(hint) if each is not type(None)))
        choices, kind = inner.pop("choices", None), inner.pop("type", str)
        metavar = "{" + ",".join([*(choices or ()), "none"]) + "}" if choices else f"{kind.__name__.upper()}|none"

        def value(text: str) -> Any:
            return None if text == "none" else kind(text)

        # argparse names the type by it where a value is none.
        value.__name__ = f"{kind.__name__} or none"
        return {"type": value, "metavar": metavar}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        return {"type": float, "nargs": 2, "metavar": ("LEAST", "MOST")}
    if hint in (int, float, str):
        return {"type": hint, "metavar": {int: "N", float: "X", str: "TEXT"}[hint]}
    return {"type": _json, "metavar": "JSON"}


def _json(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text}")
    return {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}
