"""Which teachers are wanted, and how they run."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from relabel.errors import InvalidValueError, TeacherError
from relabel.manifest import Decode, Exif, Fit, Interpolation, Mean, Preprocessing, TeacherRecord, check_choice
from relabel.options import Option, check_options
from relabel.paths import expanded

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Source = Literal["timm", "torchvision", "transformers", "function"]

_SHOWN, _SHORT = 12, 80
"""Characters of a digest, and of a name."""

_OWN_NAMES = {
    "timm": re.compile(r"\w+(\.\w+)?", re.ASCII),
    "torchvision": re.compile(r"torchvision:\w+(\.\w+)?(@[\w.]+)?", re.ASCII),
}
"""What a library knows by itself. Whatever transformers takes is a folder, or is fetched from anyone's account."""
IMAGENET_SUBSET = re.compile(r"imagenet[a-z0-9-]*", re.ASCII | re.IGNORECASE)
"""A name of classes that is never one of a file."""

_HUB = ("hf-hub", "hf_hub")
"""What stands before the name of a model of the Hugging Face hub in timm's format."""

NAME = Option(
    "A timm model, hf-hub:OWNER/NAME, torchvision:NAME, transformers:NAME_OR_FOLDER, or package.module:function "
    "returning a model. Of several, the mean of their log-probabilities is stored.",
    "teacher",
    unset="what the checkpoint says",
    flag="--teacher",
    metavar="NAME",
    each="",
)
CHECKPOINT = Option(
    "Weights of your own: a safetensors file or a torch state dict; FILE@NAME for one of several in it.",
    "teacher",
    unset="the pretrained ones",
    each="pretrained",
    is_shared=False,
)
RANDOM_WEIGHTS = Option("Random weights, for benchmarks.", "teacher", least=0, most=2**63 - 1, metavar="SEED", each="")
IMAGE_SIZE = Option(
    "Its input in pixels; a larger one gives a finer map, and not by itself a better label.",
    "teacher",
    least=1,
    unset="the model's own",
    metavar="H [W]",
    each="",
)
CLASSES = Option(
    "Keep some classes only, renormalised: imagenet-1k out of a larger one, or a file of a class per line.",
    "teacher",
    unset="all",
    metavar="NAME|FILE",
    each="all",
)
DEVICE = Option("cpu, cuda, cuda:1 ...; auto takes a GPU if any.", "run", metavar="NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """A teacher by name, and how it runs; None is the model's own value.

    Attributes:
        name: a timm model, with or without the tag of its weights (``resnet18.a1_in1k``); a model of the Hugging Face
            hub in timm's format (``hf-hub:owner/name``); ``torchvision:NAME`` or ``torchvision:NAME.WEIGHTS``;
            ``transformers:NAME_OR_FOLDER``; or ``package.module:function`` returning a classifier, or a module or
            callable that maps normalised images (B, 3, h, w) to logits (B, C, H, W). What that function returns may say
            ``image_size_hw``, ``mean``, ``std`` and ``interpolation``, as `Preprocessing` has them; without, it is
            given bilinear images of 224 x 224 pixels in [0, 1]. For all but timm's, ``@SUBMODULE`` at the end names the
            submodule whose output is the map of features, where it should not be found by itself. Empty is the model
            that the checkpoint says its weights are of.
        checkpoint: a file of weights; ``FILE@NAME`` are those that it calls NAME, where it has several. Where it says
            them, as train_student.py's does, mean, deviation, interpolation, image size and class names are its own; a
            `mean`, `std` or `name` that says otherwise is refused when it is loaded.
        random_weights: a seed; excludes `checkpoint`.
        image_size_hw: the input's (height, width) in pixels.
        crop: with fit "center", the crop's side as a fraction of the largest centred crop's; None is 1. It is what
            timm calls crop_pct: at its own value a teacher sees things as large as in its own evaluation.
        classes: see `relabel.teacher.classes`.
        precision: the proof runs in float32. On a GPU, "float32" convolves in TF32 unless torch's settings forbid it.
        device: "auto" gives each local process of torchrun or srun its own GPU.
    """

    name: Annotated[str, NAME] = ""
    checkpoint: Annotated[Path | None, CHECKPOINT] = None
    random_weights: Annotated[int | None, RANDOM_WEIGHTS] = None
    image_size_hw: Annotated[tuple[int, int] | None, IMAGE_SIZE] = None
    fit: Annotated[Fit, Option("Resize the whole image, a centred crop of it, or pad it.", "teacher")] = "squash"
    crop: Annotated[
        float | None,
        Option(
            "With --fit center: the crop's side over the largest centred crop's.",
            "teacher",
            least=0,
            most=1,
            is_open=True,
            unset="1",
        ),
    ] = None
    exif: Annotated[
        Exif,
        Option(
            "Whether the teacher sees photographs upright, as their EXIF orientation says, or as they are decoded.",
            "teacher",
        ),
    ] = "ignored"
    mean: Annotated[
        tuple[float, float, float] | None,
        Option("Of pixels in [0, 1].", "teacher", unset="the model's own", metavar="R G B"),
    ] = None
    std: Annotated[
        tuple[float, float, float] | None,
        Option("Of pixels in [0, 1].", "teacher", unset="the model's own", metavar="R G B"),
    ] = None
    interpolation: Annotated[Interpolation | None, Option("Of the resize.", "teacher", unset="the model's own")] = None
    decode: Annotated[Decode, Option("Where JPEGs are decoded; a GPU's decoder rounds pixels otherwise.", "run")] = (
        "cpu"
    )
    classes: Annotated[str | None, CLASSES] = None
    precision: Annotated[
        Precision, Option("Of the forward pass; auto is bfloat16 on a GPU that has it, else float32.", "run")
    ] = "auto"
    device: Annotated[str, DEVICE] = "auto"
    compile: Annotated[bool, Option("Run the teacher through torch.compile.", "run")] = False
    channels_last: Annotated[bool, Option("Run the teacher in channels-last memory order.", "run")] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", expanded(self.checkpoint))
        if self.checkpoint is not None and self.random_weights is not None:
            raise InvalidValueError("give a checkpoint or a seed for random weights, not both")
        if not self.name:
            object.__setattr__(self, "name", self._named())

    @classmethod
    def of(cls, record: TeacherRecord, preprocessing: Preprocessing, **said: Any) -> TeacherSpec:
        """The spec that a record tells of, for the device that is said, or with what else is said of it otherwise.

        Args:
            record: of a manifest, as `Teacher.record`.
            preprocessing: likewise.
            said: fields; where it holds a checkpoint or a seed, even None, nothing is taken of the recorded weights.
                A record may be a stranger's: what it names is used only where it is a library's own, or said here.

        Raises:
            TeacherError: weights or classes came from a file, or the model from anywhere but timm or torchvision, and
                it is not said.
        """
        if "name" not in said:
            _check_own(record)
        if not {"checkpoint", "random_weights"} & said.keys() and record.weights in ("checkpoint", "unknown"):
            raise TeacherError(
                f"the manifest says that {_short(record.name)} ran with the weights {record.weights!r} (sha256 "
                f"{record.weights_digest[:_SHOWN]}), and not where they are: give --checkpoint FILE, or --teacher NAME "
                "where that is no name of a teacher"
            )
        kept = record.kept
        if "classes" not in said and kept is not None and not IMAGENET_SUBSET.fullmatch(kept.selection):
            raise TeacherError(
                f"the manifest says that {_short(record.name)} kept {kept.count} of {kept.of} classes by a file "
                f"(sha256 {kept.digest[:_SHOWN]}): give it as --classes FILE"
            )
        recorded = {
            **{part.name: getattr(preprocessing, part.name) for part in fields(preprocessing)},
            "crop": preprocessing.crop if preprocessing.fit == "center" else None,
            "random_weights": None if "checkpoint" in said else record.seed,
            "classes": kept and kept.selection,
            "precision": record.precision,
        }
        return cls(**{"name": record.name, **recorded, **said})

    def _named(self) -> str:
        if self.checkpoint is None:
            raise InvalidValueError("give --teacher NAME, or a --checkpoint that says which model its weights are of")
        # A command line's help must not wait for torch.
        from relabel.teacher.checkpoints import architecture_of

        return architecture_of(self.checkpoint)

    @property
    def source(self) -> Source:
        """Who knows the name: timm where it has no colon, or is a model of the hub."""
        kind, colon, _ = self.name.partition(":")
        if not colon or kind in _HUB:
            return "timm"
        named: tuple[Source, ...] = ("torchvision", "transformers")
        return next((source for source in named if source == kind), "function")


def _check_own(record: TeacherRecord) -> None:
    """Whether what a record names is a library's own model; anything else would run, fetch or open what it says."""
    own = _OWN_NAMES.get(record.source)
    if own is None or not own.fullmatch(record.name):
        raise TeacherError(
            f"the manifest says that the teacher was {_short(record.name)} (source {record.source}), which is no "
            "model of timm's or torchvision's own. Whoever made the store could name any code, file or download there, "
            "so it is not used: if you know that teacher, give it again as --teacher NAME"
        )


def _short(name: str) -> str:
    return repr(name) if len(name) <= _SHORT else f"{name[:_SHORT]!r}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSpec:
    """Which teachers label together, one or more, and how maps better than one forward pass's are made.

    `grid_hw` is (height, width) in cells, or a word for `kept_grid`. `mean` says what is averaged: log-probabilities,
    as pooling averages them; probabilities only where the teachers of an older store are run again.
    """

    teachers: tuple[TeacherSpec, ...]
    scales: Annotated[
        tuple[float, ...],
        Option(
            "Average over these multiples of the image size, rounded to whole cells, as 1.0 1.25.",
            "map",
            least=0,
            most=8,
            is_open=True,
            metavar="S ...",
        ),
    ] = (1.0,)
    flip: Annotated[bool, Option("Average with the answers to the mirrored image.", "map", flag="--flip-average")] = (
        False
    )
    grid_hw: Annotated[
        tuple[int, int] | Literal["auto", "teacher"],
        Option(
            "Cells of the map, averaged or resampled: of the first teacher's grid at most 16 x 16, or all of it, for "
            "token labels; or so many.",
            "map",
            least=1,
            metavar="auto|teacher|H [W]",
        ),
    ] = "auto"

    mean: Mean = "log-probability"

    def __post_init__(self) -> None:
        check_options(self)
        check_choice("mean", self.mean, Mean)
        if not self.teachers:
            raise InvalidValueError("an ensemble needs a teacher; got none")
        if len(set(self.scales)) != len(self.scales):
            raise InvalidValueError(f"scales are different numbers; got {self.scales}")
