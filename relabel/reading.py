"""`Reading`: how the pooled scores of a crop become its label, as `relabel verify labels --fit` finds it.

A teacher says other things of a crop's pixels, made large, than of the same part of a whole image: on small crops it is
less sure than its map, and what else the image shows still counts. Two weights, each of them linear in the logarithm of
the crop's area, bring the label nearer to it, and cost no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import Tensor

from relabel.errors import InvalidValueError

LEAST_AREA = 0.08
"""Of the image: smaller crops are read as crops of this area. A fit has seen none, as RandomResizedCrop makes none, and
a line that goes on to smaller ones ends in weights below 0, which turn a label upside down."""
_MOST = 16.0
"""Of a weight: fitted ones lie between 0 and 3; at 16 two scores a nat apart differ by 7 digits, which is one-hot."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The label of a crop is ``softmax((a + b log area) * pooled + (c + d log area) * whole)``.

    `pooled` are the crop's pooled log-probabilities and `whole` those of what the map covers of the image; area is the
    crop's share of the image, at least 0.08 and at most 1: that of its box, or |det| of an affine view. Without
    arguments, (1, 0, 0, 0), it is the label as it is.

    Attributes:
        pooled: a, what the crop's pooled scores count where the crop is the whole image.
        pooled_per_log_area: b, how much more for each nat of the logarithm of its area, which is 0 or below.
        whole: c, what the scores of the whole image count, likewise.
        whole_per_log_area: d.
        tokens: the same of the labels of a crop's tokens, area being that of the *crop*; None is as they are.

    Raises:
        InvalidValueError: a number that is none or beyond 16; weights that turn labels upside down at some area; tokens
            within tokens.

    >>> import torch
    >>> Reading(1.5, 0.3).weights(torch.tensor([1.0, 0.5]))[0]
    tensor([1.5000, 1.2921])
    """

    pooled: float = 1.0
    pooled_per_log_area: float = 0.0
    whole: float = 0.0
    whole_per_log_area: float = 0.0
    tokens: Reading | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and (not isinstance(self.tokens, Reading) or self.tokens.tokens is not None):
            raise InvalidValueError(f"tokens must be None or a Reading without tokens of its own; got {self.tokens!r}")
        for name, number in zip(NUMBERS, self.numbers, strict=True):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= _MOST:
                raise InvalidValueError(f"{name} of a Reading must be a number from -16 to 16; got {number!r}")
        for log_area in (0.0, math.log(LEAST_AREA)):
            pooled, whole = _at(self, log_area)
            if pooled <= 0 or pooled + whole <= 0:
                raise InvalidValueError(
                    "a Reading must weigh the crop's scores, and both scores together, above 0 at each area from "
                    f"{LEAST_AREA} to 1, or the likeliest class becomes the least likely; at {math.exp(log_area):.2g} "
                    f"{self!r} weighs them {pooled:.3g} and {pooled + whole:.3g}"
                )

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """a, b, c and d."""
        return self.pooled, self.pooled_per_log_area, self.whole, self.whole_per_log_area

    @property
    def is_identity(self) -> bool:
        """Whether it leaves image labels as they are."""
        return self.numbers == (1, 0, 0, 0)

    def weights(self, areas: Tensor) -> tuple[Tensor, Tensor]:
        """What the pooled scores of crops count, and those of their whole images; (B,) each, of areas (B,)."""
        return _at(self, log_areas(areas))


def log_areas(areas: Tensor) -> Tensor:
    """The logarithms of areas, fractions of an image, as readings take them: of those from 0.08 to 1."""
    return areas.clamp(LEAST_AREA, 1.0).log()


NUMBERS = tuple(each.name for each in fields(Reading))[:4]
"""The names of a, b, c and d."""


_Number = TypeVar("_Number", float, Tensor)


def _at(reading: Reading, log_area: _Number) -> tuple[_Number, _Number]:
    pooled, pooled_per, whole, whole_per = reading.numbers
    return pooled + pooled_per * log_area, whole + whole_per * log_area
