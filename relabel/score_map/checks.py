"""What must hold of a score map, looked at where it is born."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import Footprint
from relabel.geometry.boxes import FARTHEST, LEAST_SIDE
from relabel.manifest import LEAST_STEP, MOST_STEP
from relabel.score_map.coding import NOT_STORED, is_code
from relabel.score_map.tensors import MapTensors

Size = int | tuple[int, int]

_ABOVE = 1 / 16
"""Nats above 0 that a log-probability may have by rounding: of a teacher's scores of 8 bits, even."""


def bins_hw(size: Size | None) -> tuple[int, int]:
    """The bins (h, w) of each box that a `size` asks for; (1, 1) for None."""
    both = (1, 1) if size is None else (size, size) if isinstance(size, int) else size
    if not isinstance(both, Sequence) or len(both) != 2 or not all(isinstance(n, int) and n > 0 for n in both):
        raise InvalidValueError(
            "size must be None (one label a crop), n or (h, w) (a label for each of h x w tokens), whole numbers of at "
            f"least 1; got {size!r}"
        )
    return both[0], both[1]


def check_flip(flip: Tensor, count: int) -> None:
    """Refuse what is not one value a box."""
    got = tuple(flip.shape) if isinstance(flip, Tensor) else f"a {type(flip).__name__}"
    if got != (count,):
        raise InvalidValueError(f"flip must be ({count},), one a box; got {got}")


def check(maps: MapTensors) -> None:
    """Refuse shapes, dtypes and, on the CPU, values that have no meaning together.

    Looking at values on a device would wait for it; `relabel verify shards` looks at every stored one.
    """
    _check_shapes(maps)
    _check_dtypes(maps)
    if len(maps) and maps.classes.device.type == "cpu":
        check_classes(maps.classes, maps.num_classes)
    if len(maps) and maps.planes.device.type == "cpu":
        _check_scores(maps)
    if not isinstance(maps.footprint, Footprint) and maps.footprint.device.type == "cpu":
        _check_footprint(maps.footprint)


def _check_shapes(maps: MapTensors) -> None:
    planes, classes = maps.planes, maps.classes
    if planes.ndim != 4 or classes.ndim != 2:
        raise InvalidValueError(
            "a score map needs planes (B, K, H, W) and classes (B, K + M); "
            f"got planes {tuple(planes.shape)} and classes {tuple(classes.shape)}"
        )
    batch, count, height, width = planes.shape
    profiled = classes.shape[1] - count
    if count < 1 or profiled < 0 or count + profiled > maps.num_classes or height < 1 or width < 1:
        raise InvalidValueError(
            f"K must be at least 1, K + M at most num_classes = {maps.num_classes}, and the grid at least 1 x 1; "
            f"got K = {count}, M = {profiled} and {height} x {width} cells"
        )
    expected = {
        "classes": (classes, (batch, count + profiled)),
        "rest": (maps.rest, (batch, height, width)),
        "profile": (maps.profile, (batch, profiled + 1)),
        "footprint": (maps.footprint, (batch, 4)),
    }
    for name, (tensor, shape) in expected.items():
        if isinstance(tensor, Tensor) and tuple(tensor.shape) != shape:
            raise InvalidValueError(
                f"{name} must be {shape} beside planes {tuple(planes.shape)} and classes {tuple(classes.shape)}; "
                f"got {tuple(tensor.shape)}"
            )
    if maps.profile is None and profiled:
        raise InvalidValueError(f"{profiled} profile classes need a profile of (B, {profiled + 1}) offsets; got none")


def _check_dtypes(maps: MapTensors) -> None:
    planes, rest, classes = maps.planes, maps.rest, maps.classes
    _check_step(maps.step)
    if planes.dtype != rest.dtype or not (is_code(planes) or planes.is_floating_point()):
        raise InvalidValueError(
            f"planes and rest must both be floating or both uint8 codes; got {planes.dtype} and {rest.dtype}"
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise InvalidValueError(f"class ids are integers, never floats; got {classes.dtype}")
    if maps.profile is not None and not (maps.profile.dtype == torch.int8 or maps.profile.is_floating_point()):
        raise InvalidValueError(f"a profile is floating, in nats, or int8 codes; got {maps.profile.dtype}")
    if isinstance(maps.footprint, Footprint):
        return
    if not isinstance(maps.footprint, Tensor) or not maps.footprint.is_floating_point():
        what = maps.footprint.dtype if isinstance(maps.footprint, Tensor) else f"a {type(maps.footprint).__name__}"
        raise InvalidValueError(
            f"a footprint is one Footprint for all maps, or floating (B, 4), fractions of the whole image; got {what}"
        )


def check_classes(classes: Tensor, num_classes: int) -> None:
    """Refuse ids (n, k) on the CPU that lie outside [0, num_classes), or stand twice in a row."""
    # numpy sorts rows of 16-bit ids about 15 times faster than torch, and this stands in every batch's way.
    ids = np.sort(classes.numpy(), axis=1)
    low, high = int(ids[:, 0].min()), int(ids[:, -1].max())
    if low < 0 or high >= num_classes:
        raise InvalidValueError(f"class ids must lie in [0, {num_classes}); got {low} .. {high}")
    twice = ids[:, 1:] == ids[:, :-1]
    if twice.any():
        first = int(twice.any(axis=1).argmax())
        raise InvalidValueError(f"a class must stand once in an image, and once at a cell; list {first} repeats one")


def check_codable(planes: Tensor, step: float) -> None:
    """Refuse a step that is none; planes on the CPU that hold scores above 0, more than rounding explains."""
    _check_step(step)
    highest = float(planes.nan_to_num(0.0).max()) if planes.device.type == "cpu" and planes.numel() else 0.0
    if highest > _ABOVE:
        raise InvalidValueError(
            f"codes are for log-probabilities, at most 0; got a score of {highest:.4g}. Keep raw logits floating, or "
            "subtract their logsumexp over the classes first"
        )


def _check_step(step: float) -> None:
    if not isinstance(step, (int, float)) or not LEAST_STEP <= step <= MOST_STEP:
        raise InvalidValueError(f"the step of codes lies in [{LEAST_STEP:g}, {MOST_STEP:g}] nats; got {step}")


def _check_scores(maps: MapTensors) -> None:
    planes, rest = maps.planes, maps.rest
    if is_code(planes):
        # In numpy, as the classes above.
        rest_misses = bool(rest.numpy().max() == NOT_STORED)
        planes_miss = not maps.holes and bool(planes.numpy().max() == NOT_STORED)
    else:
        # A sum is finite only if all its terms are, and needs no mask as large as the planes.
        rest_misses = not bool(rest.sum(dtype=torch.float64).isfinite())
        known = planes.masked_fill(planes.isnan(), 0) if maps.holes else planes
        planes_miss = not bool(known.sum(dtype=torch.float64).isfinite())
    if rest_misses:
        raise InvalidValueError(
            f"the rest needs a score at every cell; some are missing (NaN, or code {NOT_STORED}) or infinite. "
            "Logits must be finite"
        )
    if planes_miss:
        raise InvalidValueError(
            f"a plane lacks cells (NaN, or code {NOT_STORED}) or is infinite there. Logits must be finite; pass "
            "holes=True for maps whose cells each list their own classes"
        )


def _check_footprint(footprint: Tensor) -> None:
    start, end = footprint[:, :2], footprint[:, 2:]
    wrong = ~((end - start >= LEAST_SIDE) & (start < 1) & (end > 0)).all(1) | ~(footprint.abs() <= FARTHEST).all(1)
    if bool(wrong.any()):
        image = int(wrong.nonzero()[0, 0])
        raise InvalidValueError(
            "a footprint is (x0, y0, x1, y1), fractions of the whole image, x0 < x1, y0 < y1, and overlaps the image; "
            f"that of image {image} is {footprint[image].tolist()}"
        )
