"""Data sets of Hugging Face's ``datasets``: known by the bytes of their images, for their paths say little.

Nothing of the package is imported here: all is asked of the data set that was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relabel.errors import InvalidValueError
from relabel.loader.datasets import Images, Key, Loaded, class_of

_ROWS = 64
"""Rows that are read at once: a few MB of photographs."""
_LABELS = ("label", "labels")
"""Columns that hold the class where no feature, or several, say so."""


class HuggingFaceImages(Images):
    """A map-style ``datasets.Dataset``: rows are mappings, images are decoded as its format says.

    Its images are turned upright by their EXIF orientation, as ``datasets`` decodes them.
    """

    watched = ("_format_type", "_format_kwargs", "_format_columns")

    def __init__(self, dataset: Any, columns: tuple[str, str] | None) -> None:
        super().__init__(dataset)
        if dataset.format["type"] == "custom":
            raise InvalidValueError(
                "the data set has a transform of batches (set_transform, with_transform), in which an image's own "
                "cannot be followed: give the data set as it was before, and Labeled(..., transform=) from one image "
                "to an output"
            )
        self._image, self._label = columns or _columns(dataset)
        feature = dataset.features.get(self._image)
        if not getattr(feature, "decode", False) or type(feature).__name__ != "Image":
            raise InvalidValueError(
                f"the column {self._image!r} of the data set holds {feature!r}, not images that are decoded: label it "
                "as it was before its images were turned into something else, or cast_column to datasets.Image()"
            )
        self._undecoded = dataset.with_format(None).cast_column(self._image, type(feature)(decode=False))

    def name(self, index: int) -> str:
        """See `Images.name`."""
        path = self._undecoded[index][self._image]["path"]
        return f"row {index}" + (f" ({path})" if path else "")

    def keys(self, indices: Sequence[int], key: Key | None, *, of_tars: bool) -> list[str] | None:
        """See `Images.keys`; a rule is given a row, its image as path and bytes."""
        return None if key is None else [key(self._undecoded[index]) for index in indices]

    def encoded(self, index: int) -> bytes:
        """See `Images.encoded`."""
        return _file(self._undecoded[index][self._image])

    def files(self, indices: Sequence[int]) -> Iterator[list[bytes]]:
        """See `Images.files`; a row alone takes longer to look up than to hash."""
        for first in range(0, len(indices), _ROWS):
            some = indices[first : first + _ROWS]
            yield [_file(held) for held in self._undecoded[some][self._image]]

    def item(self, output: Any, label: Any, rest: Any) -> Any:
        """See `Images.item`: the row, with the two columns replaced."""
        rest[self._image], rest[self._label] = output, label
        return rest

    def _load(self, index: int) -> Loaded:
        row = self.dataset[index]
        return row[self._image], class_of(row.get(self._label)), row


def _file(held: Mapping[str, Any]) -> bytes:
    return Path(held["path"]).read_bytes() if held["bytes"] is None else bytes(held["bytes"])


def _columns(dataset: Any) -> tuple[str, str]:
    """The one column of images, and the one of classes."""
    images = _of_kind(dataset, "Image")
    if len(images) != 1:
        raise InvalidValueError(
            f"the data set has {len(images) or 'no'} columns of images, and one is needed: its features are "
            f"{dataset.features}. Give columns=(image, label)"
        )
    classes = _of_kind(dataset, "ClassLabel")
    named = [name for name in _LABELS if name in dataset.features]
    if len(classes) == 1:
        return images[0], classes[0]
    if classes and not set(named) & set(classes):
        raise InvalidValueError(f"which of {', '.join(classes)} holds the class? Give columns=(image, label)")
    return images[0], next(iter(named), "label")


def _of_kind(dataset: Any, kind: str) -> list[str]:
    return [name for name, feature in dataset.features.items() if type(feature).__name__ == kind]
