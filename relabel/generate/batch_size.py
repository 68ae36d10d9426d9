"""How many images a forward pass should hold: as many as the device needs to be at its fastest, and no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from relabel.generate.annotate import Annotator
from relabel.manifest import Preprocessing
from relabel.progress import Progress

_log = logging.getLogger(__name__)

_SIZES = (8, 16, 32, 64, 128, 256, 512)
_SMALLER = (4, 2, 1)
_GAIN = 1.03
"""A size that is not so much faster is not worth its memory, and ends the search."""
_SECONDS = 0.5
_SLOW_SECONDS = 2.0


def fastest_batch_size(
    annotator: Annotator, views: Sequence[Preprocessing], device: torch.device, *, most: int, shown: bool
) -> int:
    """The smallest of 8, 16, .. 512 whose rate on noise is within 3 % of the best; fewer than 8 where they do not fit.

    Args:
        annotator: the device stage, whose rate it is.
        views: the kinds of pixels that it takes.
        device: where it runs.
        most: the images of the largest shard; sizes that hold it more than twice are not tried.
        shown: whether stderr gets a line on it.
    """
    rates: dict[int, float] = {}
    with Progress("finding the batch size", None, unit="images", shown=shown) as progress:
        for size in _SIZES:
            rate = _images_per_second(annotator, _noise(views, size, device))
            if rate is None:
                break
            is_faster = rate >= _GAIN * max(rates.values(), default=0.0)
            rates[size] = rate
            tried = ", ".join(f"{n}: {r:.3g}" for n, r in rates.items())
            progress.advance(size, f"images/s by size {tried}")
            if not is_faster or size >= most:
                break
        if rates:
            found = min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))
        else:
            fitting = (n for n in _SMALLER if annotator.try_whole(_noise(views, n, device)) is not None)
            # With 1 the first batch of the run says what is wrong.
            found, tried = next(fitting, 1), f"{_SIZES[0]} do not fit"
        progress.advance(0, f"images/s by size {tried}; taken: {found}")
    _log.info("batch size %d; images/s by size: %s", found, tried)
    return found


def _noise(views: Sequence[Preprocessing], count: int, device: torch.device) -> list[Tensor]:
    """uint8 (count, 3, h, w) for each view, on the device: in a run, pixels travel while it computes."""
    # Of its own random numbers: those of the program are not used up.
    numbers = torch.Generator(device).manual_seed(0)
    sizes = [(1, *view.image_size_hw, 3) for view in views]
    images = [torch.randint(256, size, generator=numbers, dtype=torch.uint8, device=device) for size in sizes]
    # With the channels of a pixel side by side, as decoders leave them.
    return [image.repeat(count, 1, 1, 1).permute(0, 3, 1, 2) for image in images]


def _images_per_second(annotator: Annotator, views: Sequence[Tensor]) -> float | None:
    """As in a run, with a batch on the device while the one before it is fetched; None if they do not fit."""
    started = time.perf_counter()
    first = annotator.try_whole(views)
    if first is None:
        return None
    first.wait()
    if (seconds := time.perf_counter() - started) > _SLOW_SECONDS:
        # What is so slow has warmed up meanwhile.
        return len(views[0]) / seconds
    started, batches = time.perf_counter(), 0
    pending = annotator.try_whole(views)
    while pending is not None and (batches < 2 or time.perf_counter() - started < _SECONDS):
        following = annotator.try_whole(views)
        pending.wait()
        pending, batches = following, batches + 1
    if pending is None:
        return None
    pending.wait()
    return len(views[0]) * (batches + 1) / (time.perf_counter() - started)
