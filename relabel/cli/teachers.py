"""Which teachers a command asks for; and the command that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from relabel.cli.arguments import find_functions
from relabel.cli.options import Command, made, made_each, options
from relabel.cli.output import as_json, finish
from relabel.cli.text import aligned, input_text, kept_text
from relabel.findings import class_text
from relabel.teacher import EnsembleSpec, TeacherSpec

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.teacher import Ensemble, Teacher


def ensemble_spec(given: Mapping[str, Any]) -> EnsembleSpec:
    """What a command's options ask for."""
    names = given["name"]
    find_functions(names)
    # Without names, each checkpoint says its own.
    count = len(names) or max(1, len(given["checkpoint"]))
    return made(EnsembleSpec, given, teachers=made_each(TeacherSpec, given, count))


@click.command(cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME ...")
@options(TeacherSpec, EnsembleSpec, but=("name",))
@as_json
def teacher(names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Load and prove a teacher, or several, and print its grid, input, head and classes; it labels nothing.

    \b
    Example:
      relabel teacher eva02_large_patch14_448.mim_m38m_ft_in22k_in1k
      relabel teacher convnext_tiny --random-weights 0 --image-size 320 448
    """
    from relabel.teacher import load_ensemble

    ensemble = load_ensemble(ensemble_spec({**given, "name": names}))
    finish(_as_json(ensemble) if as_json else _as_text(ensemble), is_good=True)


def _as_json(ensemble: Ensemble) -> dict[str, Any]:
    return {
        "grid_hw": ensemble.grid.size_hw,
        "num_classes": ensemble.num_classes,
        "class_names": ensemble.class_names,
        "flip_average": ensemble.flip_average,
        "members": [
            {
                **asdict(member.record),
                **asdict(member.preprocessing),
                "own_grid_hw": member.grid.size_hw,
                **{
                    key: getattr(member.proof, key)
                    for key in ("linear_error", "constant_error", "localises", "agreement")
                },
            }
            for member in ensemble.members
        ],
    }


def _as_text(ensemble: Ensemble) -> str:
    parts = [aligned(_facts(member)) for member in ensemble.members]
    if ensemble.passes > 1 or ensemble.grid != ensemble.members[0].grid:
        of_passes = f"the mean of {ensemble.passes} forward passes" if ensemble.passes > 1 else "resampled"
        parts.append(f"an image's map: {of_passes}, on a grid of {ensemble.grid} cells")
    return "\n\n".join(parts)


def _facts(member: Teacher) -> dict[str, object]:
    record, proof, pixels = member.record, member.proof, member.preprocessing
    height, width = pixels.image_size_hw
    ends = [class_text(number, member.class_names) for number in (0, member.num_classes - 1)]
    numbers_of = [", ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std)]
    return {
        "teacher": record.described,
        "input": f"{input_text(pixels)}, mean {numbers_of[0]}, std {numbers_of[1]}",
        "map": f"grid {member.grid}, a cell is {height / member.grid.height:g} x {width / member.grid.width:g} pixels",
        "classes": f"{member.num_classes}: {ends[0]} ... {ends[1]}",
        **({} if record.kept is None else {"kept": kept_text(record.kept)}),
        "head": f"{record.head}: "
        + (
            "answers maps by itself"
            if record.head == "given"
            else f"constant field off by {proof.constant_error:.1e}, mean of the map like the own answer by "
            f"{proof.agreement:.3f}"
        ),
        "place": "a change shows where it is" if proof.localises else "NOT shown: look at some maps before you use it",
        "runs": f"{record.precision} on {member.device}",
    }
