"""What a shard knows of its rows besides their maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError
from relabel.geometry import WHOLE, Footprint
from relabel.manifest import MOST_SHARD_BYTES
from relabel.store.codecs import MOST_TEXT_BYTES
from relabel.store.layout import FAILED, LABELED

_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one image besides its map.

    Attributes:
        key: which image.
        image_hash: of its encoded bytes; 0 where they are not known.
        label: its ground truth class, -1 where unknown.
        size_hw: (height, width) of the decoded image, (0, 0) where not known.
        orientation: its EXIF orientation, 1 to 8; 0 where not known.
        footprint: the part of it that its map covers.
        error: why it has no map; empty where it has one.
    """

    key: str
    image_hash: int = 0
    label: int = -1
    size_hw: tuple[int, int] = (0, 0)
    orientation: int = 0
    footprint: Footprint = WHOLE
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowTable:
    """What a shard knows of its first n rows.

    Attributes:
        keys: n strings.
        image_hashes: (n,) uint64, 0 where not known.
        labels: (n,) int32, -1 where unknown.
        sizes_hw: (n, 2) uint32, height and width of the decoded image in pixels; 0 where not known.
        orientations: (n,) uint8, EXIF's 1 to 8; 0 where not known.
        statuses: (n,) uint8: 0 no image, 1 labelled, 2 failed.
        errors: n strings, empty unless the status is 2.
    """

    keys: list[str]
    image_hashes: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sizes_hw: NDArray[np.uint32]
    orientations: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    errors: list[str]

    def __post_init__(self) -> None:
        dtypes = {name: getattr(self, name).dtype for name in _DTYPES}
        if dtypes != _DTYPES:
            raise InvalidValueError(
                f"a table of rows needs {', '.join(f'{n} of {np.dtype(t)}' for n, t in _DTYPES.items())}; "
                f"got {', '.join(map(str, dtypes.values()))}"
            )
        lengths = {len(getattr(self, field.name)) for field in fields(self)}
        if len(lengths) != 1 or self.sizes_hw.shape != (len(self.keys), 2):
            raise InvalidValueError(
                f"a table of rows needs columns of one length, and sizes (n, 2); got {sorted(lengths)} and "
                f"{self.sizes_hw.shape}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> RowTable:
        """The table of rows that each hold an image."""
        return cls(
            keys=[row.key for row in rows],
            image_hashes=np.array([row.image_hash for row in rows], np.uint64),
            labels=np.array([row.label for row in rows], np.int32),
            sizes_hw=np.array([row.size_hw for row in rows], np.uint32).reshape(-1, 2),
            orientations=np.array([row.orientation for row in rows], np.uint8),
            statuses=np.array([FAILED if row.error else LABELED for row in rows], np.uint8),
            errors=[row.error for row in rows],
        )

    def first(self, count: int) -> RowTable:
        """That of the first so many rows."""
        return RowTable(**{field.name: getattr(self, field.name)[:count] for field in fields(self)})

    @property
    def columns(self) -> dict[str, Any]:
        """The columns by the name of their array in a store."""
        return {array: getattr(self, name) for array, name in ARRAYS.items()}


def check_text(texts: Iterable[str]) -> None:
    """Refuse text that a store cannot keep so that every reader finds it again.

    UTF-8 cannot say surrogates, as which a file name in another encoding comes; numpy's strings lose a NUL at their
    end, and readers refuse what is too long.
    """
    total = 0
    for text in texts:
        total += 4 + (length := len(text) if text.isascii() else len(text.encode(errors="surrogatepass")))
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidValueError(f"a store keeps text as UTF-8, which cannot say {text[:_SHOWN]!r}; rename the file")
        if "\0" in text:
            raise InvalidValueError(f"a store keeps text without NUL characters; got {text[:_SHOWN]!r}")
        if length > MOST_TEXT_BYTES:
            raise InvalidValueError(
                f"a store keeps texts of at most {MOST_TEXT_BYTES} bytes; got {length}, {text[:_SHOWN]!r}..."
            )
    if total > MOST_SHARD_BYTES:
        raise InvalidValueError(
            f"the keys and errors of a shard take at most {MOST_SHARD_BYTES} bytes; got {total}. Make smaller shards"
        )


_DTYPES: dict[str, Any] = {
    "image_hashes": np.uint64,
    "labels": np.int32,
    "sizes_hw": np.uint32,
    "orientations": np.uint8,
    "statuses": np.uint8,
}
ARRAYS = {
    "key": "keys",
    "image_hash": "image_hashes",
    "label": "labels",
    "size_hw": "sizes_hw",
    "orientation": "orientations",
    "error": "errors",
    "status": "statuses",
}
"""The columns of a table by the array of a store that keeps them."""
