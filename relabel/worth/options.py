"""What is asked of the worth of labels, and of the teachers that run for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from relabel.options import QUIET, Option, SourceOptions, check_options
from relabel.teacher.spec import CHECKPOINT, CLASSES, DEVICE, IMAGE_SIZE, NAME, RANDOM_WEIGHTS, Precision

_RECORDED = "the manifest's"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunOptions:
    """What the manifest does not say, or says otherwise, of the teachers to run: fields of `TeacherSpec`.

    A tuple is empty for what the manifest says, and holds one value for all teachers or one for each; None stands for a
    teacher's own weights, and for all of its classes. Sizes are (height, width) in pixels.
    """

    teachers: Annotated[
        tuple[str, ...], replace(NAME, help="Others than the manifest says, as for generate.", unset=_RECORDED)
    ] = ()
    checkpoint: Annotated[
        tuple[Path | None, ...],
        replace(CHECKPOINT, help="The weights' file, if they came from one: a manifest has their digest.", unset=""),
    ] = ()
    random_weights: Annotated[tuple[int, ...], replace(RANDOM_WEIGHTS, help="Random weights, with --teacher.")] = ()
    image_size_hw: Annotated[
        tuple[tuple[int, int], ...], replace(IMAGE_SIZE, help="Its input in pixels.", unset=_RECORDED)
    ] = ()
    classes: Annotated[
        tuple[str | None, ...], replace(CLASSES, help="The classes that were kept.", unset=_RECORDED)
    ] = ()
    device: Annotated[str, DEVICE] = "auto"
    precision: Annotated[
        Precision | None, Option("Of the forward pass.", "run", unset="the manifest's on a GPU, float32 on the CPU")
    ] = None
    crop_size_hw: Annotated[
        tuple[int, int] | None,
        Option(
            "Pixels to which every crop is resized before the teacher answers.",
            "teacher",
            least=1,
            unset="the input of the maps",
            metavar="H [W]",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsOptions(SourceOptions):
    """How labels are verified; `rerun` says which teachers run, where the manifest alone does not."""

    count: Annotated[int, Option("Images, at random, evenly over the store.", "map", least=1, flag="-n/--count")] = 256
    crops: Annotated[int, Option("Random crops of each.", "map", least=1)] = 4
    sizes: Annotated[
        tuple[int, ...] | None,
        Option(
            "Image sizes besides the store's: what each, and coarser grids, would give a label for their cost.",
            "map",
            least=1,
            metavar="H ...",
        ),
    ] = None
    seed: Annotated[int, Option("Of images and crops.", "map")] = 0
    batch_size: Annotated[
        int,
        # More gain nothing, and every image has dense logits and several crops.
        Option("Images at a time; fewer where their logits take much memory.", "run", least=1, most=32),
    ] = 16
    fit: Annotated[
        bool,
        Option(
            "Fit how labels are read, of tokens too, and write STORE/reading.json if it brings them nearer.",
            "output",
        ),
    ] = False
    rerun: RerunOptions = field(default_factory=RerunOptions)
    show_progress: Annotated[bool, QUIET] = True

    def __post_init__(self) -> None:
        check_options(self)
