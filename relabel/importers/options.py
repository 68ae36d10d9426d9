"""What an import is asked for, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from relabel.errors import InvalidValueError
from relabel.manifest import Archive, Orientation
from relabel.options import Option, RunOptions, check_options
from relabel.plan import RunSummary

FootprintChoice = Literal["whole", "center"]


class Published(NamedTuple):
    """What the authors of an archive say of it; nothing in its files does."""

    title: str
    teacher: str
    dtype: str
    footprint: FootprintChoice
    image_size_hw: tuple[int, int]


PUBLISHED: dict[Archive, Published] = {
    "relabel": Published("ReLabel", "tf_efficientnet_l2_ns_475", "float32", "whole", (475, 475)),
    "tokenlabeling": Published("TokenLabeling", "dm_nfnet_f6", "float16", "center", (576, 576)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions(RunOptions):
    """How an archive of a published format, `archive`, becomes a store; what is None is as published, or as found."""

    archive: Annotated[Archive, Option("Whose format it has.", "map")]
    extension: Annotated[
        str, Option("Without --images: what ends a key, after the file's name.", "map", metavar=".EXT")
    ] = ".JPEG"
    num_classes: Annotated[int, Option("C, of the teacher.", "map", least=1, flag="--classes", metavar="C")] = 1000
    planes: Annotated[
        int | None,
        Option("K, classes kept of an image.", "map", least=1, unset="all that any image lists", metavar="K"),
    ] = None
    footprint: Annotated[
        FootprintChoice | None,
        Option("What a map covers, the whole image or its central square.", "map", unset="as published"),
    ] = None
    orientation: Annotated[
        Orientation, Option("How the archive's maps are stored, [.., y, x] or [.., x, y].", "map")
    ] = "yx"
    teacher_name: Annotated[
        str | None, Option("What the manifest calls the teacher.", "map", unset="as its authors do", metavar="NAME")
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.extension and (self.extension[0] != "." or "/" in self.extension or not self.extension.isprintable()):
            raise InvalidValueError(f"extension is what ends an image's name, such as .JPEG; got {self.extension!r}")

    @property
    def whose_footprint(self) -> FootprintChoice:
        """As given, or as published."""
        return self.footprint or PUBLISHED[self.archive].footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary(RunSummary):
    """What an import did.

    Attributes:
        planes: K.
        classes_most, classes_mean: how many classes a map of the archive lists.
        scores, scores_dropped: of the shards published now, all scores and those of classes beyond K.
        maps: the archive's files; `maps_without_image` of them belong to no image.
        footprint, orientation: as imported.
    """

    planes: int
    classes_most: int
    classes_mean: float
    scores: int
    scores_dropped: int
    maps: int
    maps_without_image: int
    footprint: FootprintChoice
    orientation: Orientation
