"""Pillow with switches of our own: a program sets them for its process, and they decide what is an image."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin

from relabel.errors import ImageError

MAX_MEGAPIXELS = 200
"""Larger images are refused before they are decoded: their pixels would take more than half a gigabyte."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_TEXT_BYTES = 2**20
_SWITCHES: tuple[tuple[object, str, object], ...] = (
    # A cut image is none.
    (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    # Pillow refuses what has twice as many.
    (Image, "MAX_IMAGE_PIXELS", MAX_MEGAPIXELS * 1_000_000 // 2),
    (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    (PngImagePlugin, "MAX_TEXT_CHUNK", _TEXT_BYTES),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 64 * _TEXT_BYTES),
)
_lock = threading.Lock()
_opened: set[object] = set()
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An encoded image, open; inside, Pillow's switches are ours, for all threads that are inside.

    Not `Image.open`, whose limit on the size is the process's and warns, and which runs a program on PostScript.

    Raises:
        ImageError: of no format that is known.
    """
    ticket = object()
    with _lock:
        if not _opened:
            _take_over()
        _opened.add(ticket)
    try:
        with _image(data) as image:
            yield image
    finally:
        with _lock:
            _opened.discard(ticket)
            if not _opened:
                _restore.close()


def _take_over() -> None:
    _restore.enter_context(warnings.catch_warnings())
    # They may be errors to a program, and then a warning is a failed image.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for owner, name, value in _SWITCHES:
        _restore.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _image(data: bytes) -> Image.Image:
    Image.init()
    for name in _FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is not None and accepts is not None and accepts(data[:16]) is True:
            return factory(io.BytesIO(data), "")
    raise ImageError(f"not a readable image: {'unknown format' if data else 'the file is empty'}")
