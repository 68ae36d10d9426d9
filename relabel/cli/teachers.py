"""The options that say which teachers label, and how; and the command that shows one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relabel.cli.output import show
from relabel.cli.size import NumbersCommand, each, numbers, size
from relabel.cli.text import aligned

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.teacher import Ensemble, EnsembleSpec, Teacher, TeacherSpec

_Command = TypeVar("_Command", bound=Callable[..., Any])

OWN_WEIGHTS = "pretrained"
ALL_CLASSES = "all"


class Weights(click.Path):
    """A file, or the word for the teacher's own weights."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path, or the word as it is."""
        return value if value == OWN_WEIGHTS else super().convert(value, param, ctx)


_OPTIONS = (
    click.option(
        "--checkpoint",
        "checkpoints",
        metavar="FILE",
        multiple=True,
        type=Weights(exists=True, dir_okay=False, path_type=Path),
        help="The teacher's weights: a safetensors file or a torch state dict. Default: its pretrained weights.",
    ),
    click.option("--random-weights", type=int, metavar="SEED", multiple=True, help="Random weights, for benchmarks."),
    click.option(
        "--image-size",
        "image_sizes",
        callback=each(size),
        multiple=True,
        metavar="H [W]",
        help="The teacher's input in pixels, height first; larger gives a finer map where the model allows it.",
    ),
    click.option(
        "--classes",
        multiple=True,
        metavar="NAME|FILE",
        help="Keep some classes only, renormalised: imagenet-1k out of a larger one, or a file of a class a line.",
    ),
    click.option(
        "--fit",
        type=click.Choice(["squash", "center", "letterbox"]),
        default="squash",
        show_default=True,
        help="Resize the whole image, a centred crop of it, or pad it.",
    ),
    click.option(
        "--crop",
        type=click.FloatRange(0, 1, min_open=True),
        help="With --fit center: the crop's side over the largest centred crop's [1].",
    ),
    click.option(
        "--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Of the resize [the teacher's own]."
    ),
    click.option(
        "--decode",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where JPEGs are decoded; the pixels of a GPU's decoder differ by rounding.",
    ),
    click.option("--mean", callback=numbers, metavar="R G B", help="Of pixels in [0, 1] [the teacher's own]."),
    click.option("--std", callback=numbers, metavar="R G B", help="Of pixels in [0, 1] [the teacher's own]."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Of the forward pass; auto is bfloat16 on a GPU that has it, else float32.",
    ),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...; auto takes a GPU if any."),
    click.option("--compile", "compile_model", is_flag=True, help="Run the teacher through torch.compile."),
    click.option("--channels-last", is_flag=True, help="Run the teacher in channels-last memory order."),
    click.option("--flip-average", is_flag=True, help="Average with the answers to the mirrored image."),
    click.option(
        "--scales",
        callback=numbers,
        metavar="S ...",
        help="Average over these multiples of the image size, as 1.0 1.25.",
    ),
    click.option(
        "--grid", callback=size, metavar="H [W]", help="Cells of the map, averaged or resampled [the first teacher's]."
    ),
)


def teacher_options(command: _Command) -> _Command:
    """Decorate a command with every option of its teachers but their names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def ensemble_spec(names: Sequence[str], given: dict[str, Any]) -> EnsembleSpec:
    """What a command's options ask for."""
    from relabel.teacher import EnsembleSpec

    if any(":" in name for name in names):
        # As `python -m relabel` does by itself: a user's teacher is looked for where the user stands.
        sys.path.insert(0, str(Path.cwd()))
    return EnsembleSpec(
        teachers=tuple(teacher_specs(names, given)),
        scales=given["scales"] or (1.0,),
        flip=given["flip_average"],
        grid_hw=given["grid"],
    )


def teacher_specs(names: Sequence[str], given: dict[str, Any]) -> list[TeacherSpec]:
    """A spec for each name; of options that may be given once for each, one value serves for all."""
    from relabel.teacher import TeacherSpec

    checkpoints = _for_each(names, "--checkpoint", given["checkpoints"], shared=False)
    seeds = _for_each(names, "--random-weights", given["random_weights"])
    sizes = _for_each(names, "--image-size", given["image_sizes"])
    classes = _for_each(names, "--classes", given["classes"])
    return [
        TeacherSpec(
            name=name,
            checkpoint=None if checkpoint == OWN_WEIGHTS else checkpoint,
            random_weights=seed,
            image_size_hw=size_hw,
            fit=given["fit"],
            crop=given["crop"],
            mean=given["mean"],
            std=given["std"],
            interpolation=given["interpolation"],
            decode=given["decode"],
            classes=None if kept == ALL_CLASSES else kept,
            precision=given["precision"],
            device=given["device"],
            compile=given["compile_model"],
            channels_last=given["channels_last"],
        )
        for name, checkpoint, seed, size_hw, kept in zip(names, checkpoints, seeds, sizes, classes, strict=True)
    ]


def _for_each(names: Sequence[str], option: str, values: Sequence[Any], *, shared: bool = True) -> Sequence[Any]:
    if not values:
        return [None] * len(names)
    if len(values) == 1 and (shared or len(names) == 1):
        return [values[0]] * len(names)
    if len(values) != len(names):
        stand_in = {"--checkpoint": OWN_WEIGHTS, "--classes": ALL_CLASSES}.get(option)
        raise click.UsageError(
            f"{len(names)} teachers and {len(values)} times {option}: give it once for each, in their order"
            + (f" ({option} {stand_in} where there is none)" if stand_in else "")
        )
    return values


@click.command(cls=NumbersCommand)
@click.argument("names", nargs=-1, required=True, metavar="NAME ...")
@teacher_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def teacher(names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Load and prove a teacher, or several, and print its grid, input, head and classes; it labels nothing.

    \b
    Example:
      relabel teacher eva02_large_patch14_448.mim_m38m_ft_in22k_in1k
      relabel teacher convnext_tiny --random-weights 0 --image-size 320 448
    """
    from relabel.teacher import load_ensemble

    ensemble = load_ensemble(ensemble_spec(names, given))
    show(_as_json(ensemble) if as_json else _as_text(ensemble))


def _as_json(ensemble: Ensemble) -> dict[str, Any]:
    return {
        "grid_hw": ensemble.grid.size_hw,
        "num_classes": ensemble.num_classes,
        "flip_average": ensemble.flip_average,
        "members": [
            {
                **asdict(member.record),
                **asdict(member.preprocessing),
                "own_grid_hw": member.grid.size_hw,
                **{key: getattr(member.proof, key) for key in ("linear_error", "constant_error", "localises")},
            }
            for member in ensemble.members
        ],
    }


def _as_text(ensemble: Ensemble) -> str:
    parts = [aligned(_facts(member)) for member in ensemble.members]
    if len(ensemble.members) > 1 or ensemble.flip_average or ensemble.grid != ensemble.members[0].grid:
        passes = len(ensemble.members) * (2 if ensemble.flip_average else 1)
        of_passes = f"the mean of {passes} forward passes" if passes > 1 else "resampled"
        parts.append(f"an image's map: {of_passes}, on a grid of {ensemble.grid} cells")
    return "\n\n".join(parts)


def _facts(member: Teacher) -> dict[str, object]:
    record, proof, pixels = member.record, member.proof, member.preprocessing
    height, width = pixels.image_size_hw
    numbers_of = [", ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std)]
    return {
        "teacher": f"{record.name} ({record.weights}, sha256 {record.weights_digest[:12]})",
        "input": f"{height} x {width} pixels, {pixels.fit}, {pixels.interpolation}, "
        f"mean {numbers_of[0]}, std {numbers_of[1]}",
        "map": f"grid {member.grid}, a cell is {height / member.grid.height:g} x {width / member.grid.width:g} pixels",
        "classes": f"{member.num_classes} ({record.classes}"
        + (f"; {member.class_names[0]}; ...)" if member.class_names else ")"),
        "head": f"{record.head}: "
        + (
            "answers maps by itself"
            if record.head == "given"
            else f"mean of the map off by {proof.linear_error:.1e}, constant field by {proof.constant_error:.1e}"
        ),
        "place": "a change shows where it is" if proof.localises else "NOT shown: look at some maps before you use it",
        "runs": f"{record.precision} on {member.device}",
    }
