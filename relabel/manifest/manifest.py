"""`Manifest`: everything that two runs must agree on to write into one store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from relabel.errors import InvalidValueError, StoreError
from relabel.geometry import WHOLE, Footprint, Grid
from relabel.manifest.reading import UNSAID, plain, read
from relabel.manifest.records import (
    MOST_SHARD_BYTES,
    DataRecord,
    Fit,
    Frame,
    ImportRecord,
    Mean,
    MemberRecord,
    Preprocessing,
    ScoreRecord,
    TeacherRecord,
    check_choice,
)
from relabel.manifest.spaces import ClassSpaces, class_spaces

FORMAT = 1
PerRow = Literal["per row"]
PER_ROW: PerRow = "per row"
"""In place of the one footprint of all maps: each row has its own."""

_SHORT = 80
_MOST_OTHERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that must be equal for two runs to write into one store, plus the versions that wrote it.

    A map holds the answer of `teacher`, averaged with those of `others` if there are any; with `flip_average`, each
    also saw the mirrored image; `mean` says of what the average is, where it is one.
    `footprint` is the one of all maps, or `PER_ROW` where each row stores its own.
    `preprocessing` is None where another program made the maps and did not say.
    `class_names` are of the teacher's classes that a map speaks of; None where they are not known. `imported` is None
    unless the maps were made by other software. `versions` informs and is not part of the identity.
    """

    teacher: TeacherRecord
    preprocessing: Preprocessing | None
    scores: ScoreRecord
    data: DataRecord
    others: tuple[MemberRecord, ...] = ()
    flip_average: bool = False
    mean: Mean = field(default="probability", metadata=UNSAID)
    footprint: Footprint | PerRow = WHOLE
    class_names: tuple[str, ...] | None = None
    imported: ImportRecord | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not isinstance(self.footprint, Footprint) and self.footprint != PER_ROW:
            raise InvalidValueError(f"a manifest's footprint is a Footprint or {PER_ROW!r}; got {self.footprint!r}")
        if self.class_names is not None and len(self.class_names) != self.scores.num_classes:
            raise InvalidValueError(
                f"{self.scores.num_classes} classes need as many class names; got {len(self.class_names)}"
            )
        if len(self.others) > _MOST_OTHERS:
            raise InvalidValueError(f"maps average at most {_MOST_OTHERS} more passes; got {len(self.others)}")
        check_choice("mean", self.mean, Mean)
        if self.mean != "probability" and self.passes == 1:
            # One store, one identity: of a single forward pass nothing is said.
            raise InvalidValueError(f"a map of one forward pass is no mean of {self.mean}: leave out `mean`")
        # An id takes up to four bytes.
        if (size := 4 * self.data.rows_per_shard * (self.scores.planes + self.scores.profile)) > 2 * MOST_SHARD_BYTES:
            raise InvalidValueError(
                f"{self.data.rows_per_shard} rows of {self.scores.planes} + {self.scores.profile} classes may take "
                f"{size} bytes, and a shard's classes take at most {2 * MOST_SHARD_BYTES}: make smaller shards"
            )

    def __repr__(self) -> str:
        scores, data = self.scores, self.data
        others = f" and {len(self.others)} more forward passes" if self.others else ""
        return (
            f"Manifest({self.teacher.name}{others}, {scores.planes} planes + {scores.profile} profile classes of "
            f"{scores.num_classes}, grid {Grid(*scores.grid_hw)}, {scores.dtype}, {len(data.shards)} shards of at most "
            f"{data.rows_per_shard} images from a {data.kind})"
        )

    @property
    def passes(self) -> int:
        """How many forward passes a map is the average of."""
        return (1 + len(self.others)) * (2 if self.flip_average else 1)

    @property
    def fit(self) -> Fit | None:
        """How images became the teacher's input; None where that is not known."""
        return None if self.preprocessing is None else self.preprocessing.fit

    @property
    def frame(self) -> Frame:
        """What boxes are fractions of: the image "decoded", without EXIF rotation, or turned "upright" by it."""
        return "upright" if self.preprocessing is not None and self.preprocessing.exif == "upright" else "decoded"

    def identity(self) -> bytes:
        """32 bytes that two manifests share if and only if they differ in nothing but `versions`.

        The sha256 of all other fields as JSON: keys sorted, no blanks, ASCII only.
        """
        body = {name: value for name, value in self._plain().items() if name != "versions"}
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).digest()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the identity; `from_json` rebuilds an equal manifest from them."""
        return {"relabel": self._plain() | {"identity": self.identity().hex()}}

    def _plain(self) -> dict[str, Any]:
        # Read once: a fraction that was given as a whole number must not make another store of it.
        values: dict[str, Any] = plain(read(Manifest, plain(self), "manifest"))
        return values

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any]) -> Manifest:
        """Rebuild a manifest from a store's group attributes.

        Raises:
            StoreError: the attributes are not those of a format this version reads, or were changed.
        """
        body = attributes.get("relabel")
        if not isinstance(body, Mapping):
            raise StoreError(
                "not a relabel store: its zarr group has no attribute 'relabel'. "
                "Give the folder that `relabel generate` wrote"
            )
        if body.get("format") != FORMAT or type(body["format"]) is not int:
            raise StoreError(
                f"the store has format {repr(body.get('format'))[:_SHORT]}; this version reads format {FORMAT}"
                ". Use the relabel that wrote it (attribute relabel.versions), or generate the store again"
            )
        if "identity" not in body:
            raise StoreError(
                "the store's manifest has no identity: it is of a draft of format 1 from before relabel's first "
                "release, or was edited. Generate the store again"
            )
        told = {name: value for name, value in body.items() if name != "identity"}
        try:
            found: Manifest = read(cls, told, "manifest")
        except (TypeError, InvalidValueError, OverflowError, RecursionError) as error:
            raise StoreError(
                f"the store's manifest is damaged or foreign ({type(error).__name__}: {error}). "
                "Restore its zarr.json, or generate the store again"
            ) from error
        # What a record fills in by itself is a change, too: the identity alone would not show it.
        if body["identity"] != found.identity().hex() or found._plain() != told:
            raise StoreError(
                f"the store's manifest was changed after it was written: it has the identity "
                f"{repr(body['identity'])[:_SHORT]}, "
                f"and what it says has {found.identity().hex()!r}. Restore its zarr.json, or generate the store again"
            )
        return found

    def class_spaces(self, most_truth: int) -> ClassSpaces:
        """Whether labels and ground truth, whose largest number is `most_truth` (-1: none), are of the same classes."""
        return class_spaces(self.class_names, self.scores.num_classes, self.data.class_names, most_truth)

    def difference(self, other: Manifest, *, besides: Collection[str] = ()) -> list[str]:
        """One readable line for each field that differs from `other`, identity only; empty when they agree.

        Each line reads ``field: <self's value> != <other's value>``; of two long lists, the first item that differs.
        `besides` are fields that are left out, ``data.counts``, or whole records, ``data``.

        >>> from dataclasses import replace
        >>> scores = ScoreRecord(num_classes=1000, planes=16, profile=64, grid_hw=(15, 15))
        >>> data = DataRecord(kind="folder", shards=("a", "b"), counts=(9, 5), rows_per_shard=9, fingerprint="0f")
        >>> teacher = TeacherRecord(
        ...     source="timm", name="resnet18", weights="pretrained", weights_digest="3c", head="linear"
        ... )
        >>> preprocessing = Preprocessing(image_size_hw=(480, 480), mean=(0.5,), std=(0.5,))
        >>> mine = Manifest(teacher=teacher, preprocessing=preprocessing, scores=scores, data=data)
        >>> mine.difference(replace(mine, data=replace(data, counts=(9, 6))))
        ['data.counts: [9, 5] != [9, 6]']
        """
        mine, theirs = (_leaves({"mean": m.mean, **m._plain(), "versions": None}) for m in (self, other))
        names = [n for n in dict.fromkeys([*mine, *theirs]) if n not in besides and n.partition(".")[0] not in besides]
        return [_unlike(name, mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)]


def fingerprint(keys: Iterable[str]) -> str:
    """A digest of keys in their order, as 32 hexadecimal digits: `DataRecord.fingerprint`."""
    digest = hashlib.blake2b(digest_size=16)
    for key in keys:
        digest.update(key.encode() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of relabel and the libraries that scores depend on; "unknown" where one is not installed as a package."""
    return {name: _version(name) for name in ("relabel", "torch", "torchvision", "timm")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return "unknown"


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
