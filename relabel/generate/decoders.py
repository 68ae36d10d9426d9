"""Encoded images to batches of pixels: by threads of the CPU, or JPEGs on the teacher's device."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from relabel.errors import ImageError
from relabel.images import DecodedImage, EncodedImage, decode_and_fit
from relabel.images.device import decode_and_fit_on, is_for_device
from relabel.manifest import Preprocessing
from relabel.store import Row

_TOGETHER = 4
"""Images that a thread takes at a time: to hand over each alone costs a tenth of decoding it."""

_Told = tuple[Row, bool]
"""What is known of an image, and whether a slower decoder had to read it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images as uint8 (n, 3, h, w), once for each view, zeros for those that failed, and what is known of each.

    Its footprint is that of the first view. `fallbacks` is how many the decoder whose turn it was refused, and a slower
    one read.

    They are channels-last in memory, as decoders and resizing leave them. `seconds` is how long the decoding threads
    worked on them, their mean.
    """

    views: tuple[Tensor, ...]
    rows: list[Row]
    fallbacks: int
    seconds: float


class Decoder(Protocol):
    """Decodes batches in the background."""

    def submit(self, images: Sequence[EncodedImage]) -> Callable[[], Pixels]:
        """Start on a batch; what it returns waits for the pixels, in the thread that is to use them."""

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""


def decoder(views: Sequence[Preprocessing], threads: int, device: torch.device) -> Decoder:
    """A decoder of batches for a teacher on a device, its threads started; on that device where a view says so."""
    if any(view.decode == "cuda" for view in views):
        return _DeviceDecoder(views, threads, device)
    return _CpuDecoder(views, threads, pinned=device.type == "cuda")


class _CpuDecoder:
    """Decodes and resizes in a pool of threads: that work happens outside Python's lock.

    Pixels lie in the CPU's memory, page-locked with `pinned`; torch keeps such memory for the next batch.
    """

    def __init__(self, views: Sequence[Preprocessing], threads: int, *, pinned: bool) -> None:
        self._views, self._threads, self._pinned = views, threads, pinned
        self._pool = single_threaded_pool(threads)

    def submit(self, images: Sequence[EncodedImage]) -> Callable[[], Pixels]:
        pixels = tuple(
            _channels_last(torch.empty(len(images), *view.image_size_hw, 3, dtype=torch.uint8, pin_memory=self._pinned))
            for view in self._views
        )
        starts = range(0, len(images), _TOGETHER)
        pending = [self._pool.submit(self._rows, images[i : i + _TOGETHER], [p[i:] for p in pixels]) for i in starts]
        return lambda: self._collected(pixels, [rows.result() for rows in pending])

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, images: Sequence[EncodedImage], pixels: Sequence[Tensor]) -> tuple[list[_Told], float]:
        started = time.perf_counter()
        rows = [
            _row(image, image.image_hash, _by_cpu(image, self._views), [p[i] for p in pixels])
            for i, image in enumerate(images)
        ]
        return rows, time.perf_counter() - started

    def _collected(self, pixels: tuple[Tensor, ...], parts: Sequence[tuple[list[_Told], float]]) -> Pixels:
        told = [one for part, _ in parts for one in part]
        return _pixels(pixels, told, sum(seconds for _, seconds in parts) / self._threads)


class _DeviceDecoder:
    """Decodes and resizes JPEGs on a device (nvJPEG on a GPU), a batch at a time; other images on the CPU's threads.

    Pixels lie on the device. A JPEG that the device refuses is decoded by the CPU, and counts as a fallback.
    """

    def __init__(self, views: Sequence[Preprocessing], threads: int, device: torch.device) -> None:
        self._views, self._device = views, device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # Small kernels that need not queue behind a whole forward pass.
            self._stream = torch.cuda.Stream(device, priority=-1)
        self._pool = single_threaded_pool(threads)
        # One thread, since torchvision decodes one batch at a time in a process.
        self._driver = single_threaded_pool(1)

    def submit(self, images: Sequence[EncodedImage]) -> Callable[[], Pixels]:
        pending = self._driver.submit(self._pixels, images)
        return lambda: self._handed_over(pending.result())

    def close(self) -> None:
        for pool in (self._driver, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def _pixels(self, images: Sequence[EncodedImage]) -> Pixels:
        try:
            return self._by_device(images, on_device=True)
        except torch.OutOfMemoryError as error:
            _log.debug("a batch is decoded by the CPU: %s", error)
        # Not before the handler is left: the error holds the frames, and they the memory.
        torch.cuda.empty_cache()
        return self._by_device(images, on_device=False)

    def _by_device(self, images: Sequence[EncodedImage], *, on_device: bool) -> Pixels:
        """Pixels on the device; or, where its memory is full, in the CPU's, all decoded there."""
        started = time.perf_counter()
        where = self._device if on_device else torch.device("cpu")
        hashes = self._pool.map(lambda image: image.image_hash, images)
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            batches = tuple(
                _channels_last(torch.empty(len(images), *view.image_size_hw, 3, dtype=torch.uint8, device=where))
                for view in self._views
            )
            data = [image.data for image in images]
            decoded = decode_and_fit_on(where, data, self._views) if on_device else [None] * len(images)
            left = [image for image, found in zip(images, decoded, strict=True) if found is None]
            by_cpu = self._pool.map(lambda image: _by_cpu(image, self._views), left)
            told = [
                _row(image, digest, found or _fallback(image, next(by_cpu)), [batch[i] for batch in batches])
                for i, (image, digest, found) in enumerate(zip(images, hashes, decoded, strict=True))
            ]
        if self._stream is not None:
            # Whatever stream uses the pixels need not wait then; here, nobody waits for this thread but the memory.
            self._stream.synchronize()
        return _pixels(batches, told, time.perf_counter() - started)

    def _handed_over(self, pixels: Pixels) -> Pixels:
        if self._stream is not None:
            for batch in (view for view in pixels.views if view.is_cuda):
                # The stream that frees them is not the one that made them.
                batch.record_stream(torch.cuda.current_stream(self._device))
        return pixels


def _channels_last(pixels: Tensor) -> Tensor:
    """(n, h, w, 3) seen as (n, 3, h, w)."""
    return pixels.permute(0, 3, 1, 2)


def _by_cpu(image: EncodedImage, views: Sequence[Preprocessing]) -> list[DecodedImage] | ImageError:
    try:
        return decode_and_fit(image.encoded(), views)
    except ImageError as error:
        return error


def _fallback(image: EncodedImage, found: list[DecodedImage] | ImageError) -> list[DecodedImage] | ImageError:
    """What the CPU made of an image that the device left to it, marked where it was the device's turn."""
    if isinstance(found, ImageError) or not is_for_device(image.data):
        return found
    return [replace(one, is_fallback=True) for one in found]


def _row(
    image: EncodedImage, digest: int, found: Sequence[DecodedImage] | ImageError, targets: Sequence[Tensor]
) -> _Told:
    """Fill an image's place in the batches; say what is known of it."""
    if isinstance(found, ImageError):
        for target in targets:
            target.zero_()
        return Row(key=image.key, image_hash=digest, label=image.label, error=str(found)), False
    for target, view in zip(targets, found, strict=True):
        target.copy_(view.pixels)
    facts = found[0].facts
    row = Row(
        key=image.key,
        image_hash=digest,
        label=image.label,
        size_hw=facts.size_hw,
        orientation=facts.orientation,
        footprint=found[0].footprint,
    )
    return row, found[0].is_fallback


def _pixels(views: tuple[Tensor, ...], told: Sequence[_Told], seconds: float) -> Pixels:
    return Pixels(views, [row for row, _ in told], sum(is_fallback for _, is_fallback in told), seconds)


def single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """A pool of threads that each keep to themselves: an inner pool for every one would fight it for the cores."""
    process_wide = torch.get_num_threads()
    # With a limit: where the system refuses a thread, the others must not wait for it for ever.
    started = threading.Barrier(threads, timeout=60)

    def to_itself(_: int) -> None:
        torch.set_num_threads(1)
        # Only a thread that has looked at the number keeps it when another thread sets it.
        torch.get_num_threads()
        started.wait()

    pool = ThreadPoolExecutor(threads, "decode")
    try:
        list(pool.map(to_itself, range(threads)))
    except BaseException:
        # Those that wait for a thread that was never started let go.
        started.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(process_wide)
    return pool
