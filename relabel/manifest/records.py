"""The parts of a manifest: frozen, and checked where they are born, so that what has no meaning cannot be built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from relabel.errors import InvalidValueError
from relabel.geometry import Grid

Fit = Literal["squash", "center", "letterbox"]
Scores = Literal["log-probability", "logit"]
CodeType = Literal["uint8", "float16"]
Compression = Literal["zstd", "none"]
Decode = Literal["cpu", "cuda"]
Exif = Literal["ignored", "upright"]
Frame = Literal["decoded", "upright"]
Interpolation = Literal["bilinear", "bicubic"]
Select = Literal["image", "cell"]
Kind = Literal["webdataset", "folder", "list", "written"]
Archive = Literal["relabel", "tokenlabeling"]
Orientation = Literal["yx", "xy"]
TeacherSource = Literal["timm", "torchvision", "transformers", "function", "other"]
Weights = Literal["pretrained", "checkpoint", "random", "own", "unknown"]
Mean = Literal["log-probability", "probability"]

_SCORE_KINDS = {
    ("log-probability", "uint8", "image"): "coded log-probabilities of whole planes",
    ("log-probability", "float16", "image"): "log-probabilities of whole planes as halves",
    ("logit", "float16", "cell"): "raw logits of per-cell lists, as the published archives have them",
}
"""What scores can be. Codes end at 0, so raw logits have none; the rest of raw logits is no mean of logs."""
PLANES, PROFILE = 16, 64
"""K and M where nothing else is said."""
STEP, LEAST_STEP, MOST_STEP = 1 / 4, 1 / 16, 1.0
"""Nats per code: the default and the bounds. Finer codes end before -16 nats, coarser ones tell too little."""
_MOST_CLASSES, _MOST_SIDE, _MOST_ROWS, _MOST_SHARDS = 1 << 20, 1 << 9, 1 << 22, 1 << 18
_MOST_PIXELS, _MOST_ROWS_IN_ALL = 1 << 24, 1 << 30
MOST_MAP_BYTES, MOST_SHARD_BYTES = 1 << 26, 1 << 29
"""Bounds far above any real store's: a number beyond them is damage, and would be taken for a size of memory.

Of a map's scores, of which a batch has hundreds; and of a shard's array that is read whole, such as its classes: more
than a million rows of the usual 80.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a decoded image becomes the teacher's input.

    `image_size_hw` is (height, width) in pixels; `mean` and `std` are per channel, of pixels scaled to [0, 1];
    `fit` is "squash" (resize to the size, whatever the aspect ratio), "center" (a centred crop of that aspect ratio,
    its sides `crop` times those of the largest such) or "letterbox" (the whole image, padded); `decode` is where JPEGs
    were decoded, since a GPU's decoder rounds otherwise; with `exif` "upright" the decoded image was first turned as
    its EXIF orientation says, and boxes are of what came out.
    """

    image_size_hw: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    fit: Fit = "squash"
    crop: float = 1.0
    decode: Decode = "cpu"
    exif: Exif = "ignored"

    def __post_init__(self) -> None:
        if len(self.image_size_hw) != 2 or min(self.image_size_hw) < 1:
            raise InvalidValueError(f"image_size_hw must be (height, width), both positive; got {self.image_size_hw}")
        if math.prod(self.image_size_hw) > _MOST_PIXELS:
            raise InvalidValueError(f"a teacher's image has at most {_MOST_PIXELS} pixels; got {self.image_size_hw}")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise InvalidValueError(
                f"mean and std need one finite value per channel, std above 0; got mean {self.mean}, std {self.std}"
            )
        check_choice("interpolation", self.interpolation, Interpolation)
        check_choice("fit", self.fit, Fit)
        check_choice("decode", self.decode, Decode)
        check_choice("exif", self.exif, Exif)
        if not 0 < self.crop <= 1 or (self.crop != 1 and self.fit != "center"):
            raise InvalidValueError(
                "crop is the part of the largest centred crop's side that fit 'center' keeps, in (0, 1]; any other fit "
                f"takes 1. Got {self.crop} with fit {self.fit!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecord:
    """Which of a teacher's classes a map speaks of, where it does not speak of all.

    `selection` is the name of a subset of ImageNet, or "file"; `count` classes were kept out of `of`; `digest` is the
    sha256 of their numbers in the teacher's answer, in hexadecimal.
    """

    selection: str
    count: int
    of: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRecord:
    """Which model answered, as far as it can be made again.

    Attributes:
        source: who brought it: a library, a "function" of the user's, or "other" where relabel never saw the model.
        name: as a teacher's specification names it.
        weights: which weights it ran with: its "pretrained" ones, a "checkpoint", "random" ones of a `seed`, those
            that a function brought as its "own", or "unknown".
        seed: of random weights, None of all others.
        weights_digest: sha256 of the state dict, so that a renamed checkpoint is the same.
        head: how its dense logits were proved.
        precision: of the forward pass.
        kept: the classes that a map speaks of; None is all.
    """

    source: TeacherSource
    name: str
    weights: Weights
    seed: int | None = None
    weights_digest: str
    head: str
    precision: str = "float32"
    kept: KeptRecord | None = None

    def __post_init__(self) -> None:
        check_choice("source", self.source, TeacherSource)
        check_choice("weights", self.weights, Weights)
        if (self.weights == "random") != (self.seed is not None):
            raise InvalidValueError(
                f"random weights have a seed, and no others have; got {self.weights!r} with seed {self.seed}"
            )

    @classmethod
    def unseen(cls, name: str) -> TeacherRecord:
        """That of a teacher that relabel never saw, whose maps another program made."""
        unknown = "unknown"
        return cls(
            source="other", name=name, weights="unknown", weights_digest=unknown, head=unknown, precision=unknown
        )

    @property
    def described(self) -> str:
        """Its name, its weights and, where they are known, the beginning of their digest, for a person."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        # Of weights that nobody saw the digest is no sha256.
        digest = "" if self.weights == "unknown" else f", sha256 {self.weights_digest[:12]}"
        return f"{self.name} ({self.weights} weights{seed}{digest})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """One of several forward passes, of another teacher or at another size."""

    teacher: TeacherRecord
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """How a score map is stored: K planes, M profile classes, the grid and the coding of scores.

    `scores`, `dtype` and `select` together are one of three kinds: log-probabilities of whole planes, coded or as
    halves, or raw logits of per-cell lists. `step` is nats per code, 1/16 to 1; None where scores are no codes.
    """

    num_classes: int
    planes: int
    profile: int
    grid_hw: tuple[int, int]
    scores: Scores = "log-probability"
    dtype: CodeType = "uint8"
    select: Select = "image"
    step: float | None = None
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        grid = Grid(*self.grid_hw)
        if max(grid.size_hw) > _MOST_SIDE or self.num_classes > _MOST_CLASSES:
            raise InvalidValueError(
                f"a map has at most {_MOST_CLASSES} classes and a grid of {_MOST_SIDE} x {_MOST_SIDE} cells; got "
                f"{self.num_classes} classes and {grid} cells"
            )
        if self.planes < 1 or self.profile < 0 or self.planes + self.profile > self.num_classes:
            raise InvalidValueError(
                f"planes + profile must lie between 1 and the {self.num_classes} classes, planes at least 1; "
                f"got {self.planes} planes and {self.profile} profile classes"
            )
        check_choice("compression", self.compression, Compression)
        if (size := self.map_bytes) > MOST_MAP_BYTES:
            raise InvalidValueError(
                f"a map takes at most {MOST_MAP_BYTES} bytes; {self.planes} planes of {grid} cells take {size}"
            )
        for name, choices in (("scores", Scores), ("dtype", CodeType), ("select", Select)):
            check_choice(name, getattr(self, name), choices)
        kind = (self.scores, self.dtype, self.select)
        if kind not in _SCORE_KINDS:
            kinds = "; ".join(f"{', '.join(k)} ({what})" for k, what in _SCORE_KINDS.items())
            raise InvalidValueError(f"scores, dtype and select are one of: {kinds}; got {', '.join(kind)}")
        if self.has_holes and self.profile:
            raise InvalidValueError(f"per-cell lists have no profile; got {self.profile} profile classes")
        if self.dtype == "uint8" and self.step is None:
            object.__setattr__(self, "step", STEP)
        coded = self.step is not None and LEAST_STEP <= self.step <= MOST_STEP
        if coded != (self.dtype == "uint8") or (self.step is not None) != coded:
            raise InvalidValueError(
                f"step is nats per code of uint8 scores, 1/16 to 1, and float16 has none; got {self.step} with "
                f"{self.dtype}"
            )

    @property
    def map_bytes(self) -> int:
        """Of the planes and the rest of one image, uncompressed."""
        return (self.planes + 1) * math.prod(self.grid_hw) * (1 if self.dtype == "uint8" else 2)

    @property
    def is_logit(self) -> bool:
        """Whether scores are raw logits, not log-probabilities."""
        return self.scores == "logit"

    @property
    def has_holes(self) -> bool:
        """Whether a plane may miss cells."""
        return self.select == "cell"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Which images were labelled.

    Attributes:
        kind: of the source: tars ("webdataset"), a "folder", a "list" of files, or "written" by another program.
        shards: names each shard's source: a tar's file name, or a range of the images.
        counts: each shard's images; empty when the listing was skipped.
        rows_per_shard: R, the size of the row axis.
        fingerprint: digests the ordered keys (only the shards' names when the listing was skipped).
        class_names: of the ground truth, by class; None where its classes are only numbers.
    """

    kind: Kind
    shards: tuple[str, ...]
    counts: tuple[int, ...]
    rows_per_shard: int
    fingerprint: str
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.shards or not 1 <= self.rows_per_shard <= _MOST_ROWS:
            raise InvalidValueError(
                f"a data record needs at least one shard, of 1 to {_MOST_ROWS} rows; "
                f"got {len(self.shards)} shards of {self.rows_per_shard} rows"
            )
        if len(self.shards) > _MOST_SHARDS:
            raise InvalidValueError(f"a store has at most {_MOST_SHARDS} shards; got {len(self.shards)}")
        if len(self.shards) * self.rows_per_shard > _MOST_ROWS_IN_ALL:
            raise InvalidValueError(
                f"a store has at most {_MOST_ROWS_IN_ALL} rows; got {len(self.shards)} shards of {self.rows_per_shard}"
            )
        if self.counts and len(self.counts) != len(self.shards):
            raise InvalidValueError(f"{len(self.shards)} shards need as many counts; got {len(self.counts)}")
        if not all(0 <= count <= self.rows_per_shard for count in self.counts):
            raise InvalidValueError(
                f"a shard holds 0 to {self.rows_per_shard} images, one per row; "
                f"got counts from {min(self.counts)} to {max(self.counts)}"
            )
        check_choice("kind", self.kind, Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRecord:
    """The published archive that maps were imported from; what the manifest says of their teacher is hearsay.

    `orientation` says whether its maps were stored [y, x], or [x, y] and turned; `digest` is of its files.
    """

    archive: Archive
    orientation: Orientation
    digest: str

    def __post_init__(self) -> None:
        check_choice("archive", self.archive, Archive)
        check_choice("orientation", self.orientation, Orientation)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise an InvalidValueError for what is none of a `Literal`'s values."""
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
