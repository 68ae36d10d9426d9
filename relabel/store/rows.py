"""What goes into a store and comes out of it: numpy arrays of coded rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowBatch:
    """n coded score maps.

    Attributes:
        classes: (n, K + M) uint16 or uint32.
        scores: (n, K + 1, H, W) uint8 codes or float16, the planes, then the rest.
        profile: (n, M + 1) int8 codes.
        footprint: (n, 4) float32 xyxy, or None where the manifest has one for all.
    """

    classes: NDArray[Any]
    scores: NDArray[Any]
    profile: NDArray[np.int8]
    footprint: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        arrays = [a for a in (self.classes, self.scores, self.profile, self.footprint) if a is not None]
        if len({len(array) for array in arrays}) != 1 or self.scores.ndim != 4:
            raise InvalidValueError(f"a batch of rows needs arrays of one length; got {[a.shape for a in arrays]}")

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: NDArray[np.intp]) -> RowBatch:
        """Some of the rows."""
        footprint = None if self.footprint is None else self.footprint[index]
        return RowBatch(
            classes=self.classes[index], scores=self.scores[index], profile=self.profile[index], footprint=footprint
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowTable:
    """What a shard knows of its first n rows besides their maps.

    Attributes:
        keys: n strings.
        image_hashes: (n,) uint64.
        labels: (n,) int32, -1 where unknown.
        statuses: (n,) uint8: 0 no image, 1 labelled, 2 failed.
        errors: n strings, empty unless the status is 2.
    """

    keys: list[str]
    image_hashes: NDArray[np.uint64]
    labels: NDArray[np.int32]
    statuses: NDArray[np.uint8]
    errors: list[str]

    def __post_init__(self) -> None:
        expected = {"image_hashes": np.uint64, "labels": np.int32, "statuses": np.uint8}
        dtypes = {name: getattr(self, name).dtype for name in expected}
        if dtypes != expected:
            raise InvalidValueError(
                f"a table of rows needs {', '.join(f'{n} of {np.dtype(t)}' for n, t in expected.items())}; "
                f"got {', '.join(map(str, dtypes.values()))}"
            )
        lengths = {len(c) for c in (self.keys, self.image_hashes, self.labels, self.statuses, self.errors)}
        if len(lengths) != 1:
            raise InvalidValueError(f"a table of rows needs columns of one length; got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.keys)
