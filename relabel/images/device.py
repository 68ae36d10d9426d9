"""JPEGs to pixels on a device: nvJPEG on a GPU, and the same way through libjpeg on the CPU, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from relabel.images.decode import Decoded, DecodedImage, as_tensor, fitted
from relabel.images.exif import UPRIGHT
from relabel.images.jpeg import has_too_many_scans, jpeg_header
from relabel.manifest import Preprocessing

_MOST_PIXELS = 50_000_000
"""Pixels decoded together, at most: 150 MB of the device's memory. A larger image is left to the CPU."""


def decode_and_fit_on(
    device: torch.device, images: Sequence[bytes], views: Sequence[Preprocessing]
) -> list[list[DecodedImage] | None]:
    """Decode ordinary colour JPEGs on a device and fit each to every view; pixels stay on the device.

    None stands for images that are something else, and for those that the device refused or ran out of memory for:
    `decode_and_fit` knows what to do with them. nvJPEG's pixels differ from libjpeg's by a grey level here and there,
    since it interpolates colours otherwise. On a GPU this works in the current stream, and waits for what it holds.
    """
    found: list[list[DecodedImage] | None] = [None] * len(images)
    for group in _groups(images):
        for i, pixels in zip(group, _decoded([as_tensor(images[i]) for i in group], device), strict=True):
            if pixels is not None:
                header = jpeg_header(images[i])
                found[i] = _fitted(Decoded(pixels, header.orientation if header else UPRIGHT), views)
    return found


def is_for_device(data: bytes) -> bool:
    """Whether `decode_and_fit_on` would decode an image, as far as its header tells."""
    return _pixels(data) is not None


def _pixels(data: bytes) -> int | None:
    header = jpeg_header(data)
    if header is None or not header.is_colour:
        return None
    pixels = header.height * header.width
    return None if pixels > _MOST_PIXELS or has_too_many_scans(data, pixels, header) else pixels


def _groups(images: Sequence[bytes]) -> Iterator[list[int]]:
    """The numbers of the images for the device, as many at a time as may be decoded together."""
    group: list[int] = []
    total = 0
    for i, data in enumerate(images):
        pixels = _pixels(data)
        if pixels is None:
            continue
        if total + pixels > _MOST_PIXELS:
            yield group
            group, total = [], 0
        group.append(i)
        total += pixels
    if group:
        yield group


def _decoded(encoded: list[Tensor], device: torch.device) -> list[Tensor | None]:
    """Pixels (3, H, W) of each, None for those that are refused."""
    if device.type == "cuda":
        # nvJPEG writes in a stream of its own, and does not wait until ours has read what lay there before.
        torch.cuda.current_stream(device).synchronize()
    try:
        decoded: list[Tensor | None] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    except RuntimeError:
        # One image is to blame, and the others' pixels are lost with it.
        return [None] if len(encoded) == 1 else [_decoded([one], device)[0] for one in encoded]
    return decoded


def _fitted(image: Decoded, views: Sequence[Preprocessing]) -> list[DecodedImage] | None:
    try:
        return [DecodedImage(*fitted(image.seen(view.exif), view), image.facts) for view in views]
    except RuntimeError:
        # A GPU cannot shrink thousands of pixels to a few: the filter is too wide for its kernel.
        return None
