"""What made a store, as JSON that rebuilds it: the zarr group's attributes are the `Manifest`."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from relabel.errors import InvalidValueError, StoreError
from relabel.geometry import Footprint, Grid

FORMAT = 1

Fit = Literal["squash", "center", "letterbox"]
Scores = Literal["log-probability", "logit"]
CodeType = Literal["uint8", "float16"]
Compression = Literal["zstd", "none"]
Decode = Literal["cpu", "cuda"]
Interpolation = Literal["bilinear", "bicubic"]
Select = Literal["image", "cell"]
Kind = Literal["webdataset", "folder", "list"]
Archive = Literal["relabel", "tokenlabeling"]
Orientation = Literal["yx", "xy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a decoded image becomes the teacher's input.

    `image_size_hw` is (height, width) in pixels; `mean` and `std` are per channel, of pixels scaled to [0, 1];
    `fit` is "squash" (resize to the size, whatever the aspect ratio), "center" (a centred crop of that aspect ratio,
    its sides `crop` times those of the largest such) or "letterbox" (the whole image, padded); `decode` is where JPEGs
    were decoded, since a GPU's decoder rounds otherwise.
    """

    image_size_hw: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    fit: Fit = "squash"
    crop: float = 1.0
    decode: Decode = "cpu"

    def __post_init__(self) -> None:
        if len(self.image_size_hw) != 2 or min(self.image_size_hw) < 1:
            raise InvalidValueError(f"image_size_hw must be (height, width), both positive; got {self.image_size_hw}")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise InvalidValueError(
                f"mean and std need one finite value a channel, std above 0; got mean {self.mean}, std {self.std}"
            )
        _check_choice("interpolation", self.interpolation, Interpolation)
        _check_choice("fit", self.fit, Fit)
        _check_choice("decode", self.decode, Decode)
        if not 0 < self.crop <= 1 or (self.crop != 1 and self.fit != "center"):
            raise InvalidValueError(
                "crop is the part of the largest centred crop's side that fit 'center' keeps, in (0, 1]; any other fit "
                f"takes 1. Got {self.crop} with fit {self.fit!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRecord:
    """Which model answered. `weights_digest` is the sha256 of the state dict, so a renamed checkpoint is the same.

    `classes` is "all", or says which of its classes were kept, and in which order.
    """

    name: str
    weights: str
    weights_digest: str
    head: str
    precision: str = "float32"
    classes: str = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """One of several forward passes, of another teacher or at another size."""

    teacher: TeacherRecord
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """How a score map is stored: K planes, M profile classes, the grid and the coding of scores.

    `step` is nats a code of uint8 scores, 1/16 to 1. Manifests of before it was a choice do not name it, and mean 1/8.
    """

    num_classes: int
    planes: int
    profile: int
    grid_hw: tuple[int, int]
    scores: Scores = "log-probability"
    dtype: CodeType = "uint8"
    compression: Compression = "zstd"
    select: Select = "image"
    step: float = 1 / 8

    def __post_init__(self) -> None:
        Grid(*self.grid_hw)
        if self.planes < 1 or self.profile < 0 or self.planes + self.profile > self.num_classes:
            raise InvalidValueError(
                f"planes + profile must lie between 1 and the {self.num_classes} classes, planes at least 1; "
                f"got {self.planes} planes and {self.profile} profile classes"
            )
        _check_choice("scores", self.scores, Scores)
        _check_choice("dtype", self.dtype, CodeType)
        _check_choice("compression", self.compression, Compression)
        _check_choice("select", self.select, Select)
        if not isinstance(self.step, (int, float)) or not 1 / 16 <= self.step <= 1:
            raise InvalidValueError(f"step is the nats of a code, 1/16 to 1; got {self.step!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Which images were labelled.

    `shards` names each shard's source (a tar's file name; a folder's key range), `counts` its images (empty when the
    listing was skipped), `rows_per_shard` is R, the size of the row axis, and `fingerprint` digests the ordered keys
    (only the shards' names when the listing was skipped).
    """

    kind: Kind
    shards: tuple[str, ...]
    counts: tuple[int, ...]
    rows_per_shard: int
    fingerprint: str

    def __post_init__(self) -> None:
        if not self.shards or self.rows_per_shard < 1:
            raise InvalidValueError(
                "a data record needs at least one shard of one row; "
                f"got {len(self.shards)} shards of {self.rows_per_shard} rows"
            )
        if self.counts and len(self.counts) != len(self.shards):
            raise InvalidValueError(f"{len(self.shards)} shards need as many counts; got {len(self.counts)}")
        if not all(0 <= count <= self.rows_per_shard for count in self.counts):
            raise InvalidValueError(
                f"a shard holds 0 to {self.rows_per_shard} images, one a row; "
                f"got counts from {min(self.counts)} to {max(self.counts)}"
            )
        _check_choice("kind", self.kind, Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRecord:
    """The published archive that maps were imported from; what the manifest says of their teacher is hearsay.

    `orientation` says whether its maps were stored [y, x], or [x, y] and turned; `digest` is of its files.
    """

    archive: Archive
    orientation: Orientation
    digest: str

    def __post_init__(self) -> None:
        _check_choice("archive", self.archive, Archive)
        _check_choice("orientation", self.orientation, Orientation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that must be equal for two runs to write into one store, plus the versions that wrote it.

    `footprint` is the one footprint of all maps, or None where each row stores its own. `class_names` may be None.
    A map holds the probabilities of `teacher`, averaged with those of `others` if there are any; with `flip_average`,
    each also saw the mirrored image. `imported` is None unless the maps were made by other software. `versions` informs
    and is not part of the identity.
    """

    teacher: TeacherRecord
    preprocessing: Preprocessing
    scores: ScoreRecord
    data: DataRecord
    others: tuple[MemberRecord, ...] = ()
    flip_average: bool = False
    footprint: tuple[float, float, float, float] | None = (0.0, 0.0, 1.0, 1.0)
    class_names: tuple[str, ...] | None = None
    imported: ImportRecord | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.footprint is not None:
            if len(self.footprint) != 4:
                raise InvalidValueError(f"a footprint is (x0, y0, x1, y1) or None; got {self.footprint}")
            Footprint(*self.footprint)
        if self.class_names is not None and len(self.class_names) != self.scores.num_classes:
            raise InvalidValueError(
                f"{self.scores.num_classes} classes need as many class names; got {len(self.class_names)}"
            )

    def __repr__(self) -> str:
        scores, data = self.scores, self.data
        others = f" and {len(self.others)} more forward passes" if self.others else ""
        return (
            f"Manifest({self.teacher.name}{others}, {scores.planes} planes + {scores.profile} profile classes of "
            f"{scores.num_classes}, grid {Grid(*scores.grid_hw)}, {scores.dtype}, {len(data.shards)} shards of at most "
            f"{data.rows_per_shard} images from a {data.kind})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` rebuilds an equal manifest from them."""
        values = dataclasses.asdict(self)
        values["versions"] = dict(self.versions)
        return {"relabel": _plain(values)}

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any]) -> Manifest:
        """Rebuild a manifest from a store's group attributes.

        Raises:
            StoreError: the attributes are not those of a format this version reads.
        """
        body = attributes.get("relabel")
        if not isinstance(body, Mapping):
            raise StoreError(
                "not a relabel store: its zarr group has no attribute 'relabel'. "
                "Give the folder that `relabel generate` wrote"
            )
        if body.get("format") != FORMAT:
            raise StoreError(
                f"the store has format {body.get('format')!r}; this version of relabel reads format {FORMAT}. "
                "Use the version of relabel that wrote it (attribute relabel.versions), or generate the store again"
            )
        try:
            special = {*_RECORDS, "versions", "others", "imported"}
            rest = {k: _frozen(v) for k, v in body.items() if k not in special}
            records = {k: _record(t, body[k]) for k, t in _RECORDS.items()}
            listed = body.get("others", [])
            if not isinstance(listed, list):
                # An empty object, or text, would pass as no others.
                raise TypeError(f"others is {listed!r}, not a list")
            others = tuple(MemberRecord(**{k: _record(_RECORDS[k], v) for k, v in o.items()}) for o in listed)
            made_by = body.get("imported")
            imported = None if made_by is None else _record(ImportRecord, made_by)
            # `items` refuses what is no object; dict("") or dict([]) would pass as no versions.
            versions = dict(body.get("versions", {}).items())
            return cls(**records, **rest, others=others, imported=imported, versions=versions)
        except (KeyError, TypeError, AttributeError, InvalidValueError) as error:
            raise StoreError(
                f"the store's manifest is damaged or foreign ({type(error).__name__}: {error}). "
                "Restore its zarr.json, or generate the store again"
            ) from error

    def difference(self, other: Manifest) -> list[str]:
        """One readable line for each field that differs from `other`, identity only; empty when they agree.

        Each line reads ``field: <self's value> != <other's value>``; of two long lists, the first item that differs.

        >>> scores = ScoreRecord(num_classes=1000, planes=16, profile=64, grid_hw=(15, 15))
        >>> data = DataRecord(kind="folder", shards=("a", "b"), counts=(9, 5), rows_per_shard=9, fingerprint="0f")
        >>> teacher = TeacherRecord(name="resnet18", weights="a file", weights_digest="3c", head="linear")
        >>> preprocessing = Preprocessing(image_size_hw=(480, 480), mean=(0.5,), std=(0.5,))
        >>> mine = Manifest(teacher=teacher, preprocessing=preprocessing, scores=scores, data=data)
        >>> other = dataclasses.replace(mine, data=dataclasses.replace(data, counts=(9, 6)))
        >>> mine.difference(other)
        ['data.counts: [9, 5] != [9, 6]']
        """
        mine, theirs = _leaves(self.to_json()["relabel"]), _leaves(other.to_json()["relabel"])
        names = [n for n in dict.fromkeys([*mine, *theirs]) if n != "versions" and not n.startswith("versions.")]
        return [_unlike(name, mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)]


def fingerprint(keys: Iterable[str]) -> str:
    """A digest of keys in their order, as 32 hexadecimal digits: `DataRecord.fingerprint`."""
    digest = hashlib.blake2b(digest_size=16)
    for key in keys:
        digest.update(key.encode() + b"\0")
    return digest.hexdigest()


_SHORT = 80
_RECORDS: dict[str, type[Any]] = {
    "teacher": TeacherRecord,
    "preprocessing": Preprocessing,
    "scores": ScoreRecord,
    "data": DataRecord,
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _record(kind: type[Any], values: Mapping[str, Any]) -> Any:
    return kind(**{name: _frozen(value) for name, value in values.items()})


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            leaves |= _leaves(inner, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = inner
    return leaves


def _unlike(name: str, mine: Any, theirs: Any) -> str:
    """One line on two values that differ; lists may be thousands long, so it goes to the first item that differs."""
    texts = repr(mine), repr(theirs)
    if max(map(len, texts)) > _SHORT and isinstance(mine, list) and isinstance(theirs, list):
        if len(mine) != len(theirs):
            return f"{name}: {len(mine)} items != {len(theirs)} items"
        index = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        return _unlike(f"{name}[{index}]", mine[index], theirs[index])
    return f"{name}: " + " != ".join(t if len(t) <= _SHORT else f"{t[:_SHORT]}... ({len(t)} characters)" for t in texts)


def _check_choice(name: str, value: object, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
