"""Encoded bytes to the pixels that a teacher sees, and the part of the image that they show.

Called from many threads at once: the heavy parts, decoding and resizing, run outside Python's lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from relabel.errors import ImageError, lacks_memory
from relabel.geometry import Box, Footprint
from relabel.geometry.frames import turned
from relabel.images.exif import UPRIGHT, orientation_of
from relabel.images.jpeg import JpegHeader, has_too_many_scans, jpeg_header
from relabel.images.pillow import MAX_MEGAPIXELS, opened
from relabel.manifest import Exif, Preprocessing

_AT_ONCE = 1 << 24
"""Pixels that Pillow converts at once: more than of any photograph in a data set."""

_Fitted = tuple[Tensor, Footprint]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Of an image as `decode` gives it, without rotation: (height, width) in pixels; and its EXIF orientation, 1 to 8.

    The orientation is 1 where there is none, and of a TIFF, which is turned by its own while it is decoded.
    """

    size_hw: tuple[int, int]
    orientation: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels uint8 (3, H, W), RGB; `is_fallback` says that Pillow read a JPEG that torchvision refused."""

    pixels: Tensor
    orientation: int
    is_fallback: bool = False

    @property
    def facts(self) -> ImageFacts:
        """Size and orientation."""
        height, width = self.pixels.shape[1:]
        return ImageFacts((height, width), self.orientation)

    def seen(self, exif: Exif) -> Tensor:
        """The pixels that a teacher sees: as decoded, or turned upright."""
        return turned(self.pixels, self.orientation) if exif == "upright" else self.pixels


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels uint8 (3, h, w) at the teacher's size, the part of the image that they show, and facts of the whole image.

    `is_fallback` says that the decoder whose turn it was refused the image, and a slower one read it.
    """

    pixels: Tensor
    footprint: Footprint
    facts: ImageFacts
    is_fallback: bool = False


def decode_and_fit(data: bytes, views: Sequence[Preprocessing]) -> list[DecodedImage]:
    """Decode an image once, turn it if they say so, and fit it to each of the teachers' inputs, in their order.

    Raises:
        ImageError: not an image, cut, or too large; says which.
    """
    image = decode(data)
    return [DecodedImage(*fitted(image.seen(view.exif), view), image.facts, image.is_fallback) for view in views]


def fitted(pixels: Tensor, view: Preprocessing) -> tuple[Tensor, Footprint]:
    """Pixels uint8 (3, H, W) on any device, in a teacher's frame, as its input (3, h, w); and what part it shows."""
    return _FITS[view.fit](pixels, view)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Whatever a decoder comes to is an `ImageError`: none may end a run over a million images.

    But a want of memory: that is a state of the machine, and no fault of the image.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: above {MAX_MEGAPIXELS} megapixels; resize it") from error
    except Exception as error:
        if lacks_memory(error):
            raise MemoryError(str(error)) from error
        raise ImageError(f"not a readable image: {_reason(error)}") from error


@_reading()
def decode(data: bytes) -> Decoded:
    """The pixels of an encoded image.

    Grey, palette and CMYK images are converted, transparency is dropped, and of 16 bits the upper 8 are kept. JPEGs
    have the same pixels from both decoders.

    Raises:
        ImageError: not an image, cut, or too large; says which.
        MemoryError: not enough memory.
    """
    header = jpeg_header(data)
    if header is not None:
        # Most images by far, so Pillow, which is slower to open one, only sees those that something is amiss with.
        refuse_too_large(header.height, header.width)
        _refuse_scans(data, header.height * header.width, header)
        pixels = _by_torchvision(data)
        if pixels is not None:
            return Decoded(pixels, header.orientation)
    return _by_pillow(data, is_refused=header is not None)


@_reading()
def decode_rgb(data: bytes) -> tuple[Image.Image, int]:
    """The same as Pillow's RGB, for what goes on with that, and the EXIF orientation; its pixels are as decoded.

    Raises:
        ImageError: as `decode`.
        MemoryError: likewise.
    """
    with contextlib.suppress(ImageError), _reading(), opened(data) as image:
        _refuse_unread(image, data)
        found = _loaded(image)
        return found if found.mode == "RGB" else found.convert("RGB"), orientation_told(image)
    # A JPEG that Pillow alone refuses was labelled all the same.
    read = decode(data)
    return Image.fromarray(np.ascontiguousarray(read.pixels.permute(1, 2, 0).numpy())), read.orientation


@_reading()
def header_facts(data: bytes) -> ImageFacts:
    """What an encoded image's header says of it, which is what `decode` finds.

    Raises:
        ImageError: not an image; says why.
    """
    header = jpeg_header(data)
    if header is not None:
        return ImageFacts((header.height, header.width), header.orientation)
    with opened(data) as image:
        is_behind = image.format == "PNG" and "exif" not in image.info and b"eXIf" in data
        if image.format == "TIFF" or is_behind:
            # A TIFF is turned while it is loaded, by its XMP too; a PNG's Exif may stand behind its pixels.
            refuse_too_large(image.height, image.width)
            image.load()
        return ImageFacts((image.height, image.width), orientation_told(image))


def refuse_too_large(height: int, width: int) -> None:
    """Raise an ImageError for an image of more than `MAX_MEGAPIXELS`."""
    if height * width > MAX_MEGAPIXELS * 1_000_000:
        raise ImageError(f"too large: {width} x {height} pixels, above {MAX_MEGAPIXELS} megapixels; resize it")


def _refuse_scans(data: bytes, pixels: int, header: JpegHeader | None = None) -> None:
    if has_too_many_scans(data, pixels, header):
        raise ImageError("a JPEG of so many scans that it would take long to decode; save it again")


def as_tensor(data: bytes) -> Tensor:
    """Encoded bytes as uint8 (n,), a copy: torch refuses memory that it must not write to."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _by_torchvision(data: bytes) -> Tensor | None:
    """A JPEG's pixels, or None where libjpeg refuses it."""
    try:
        pixels: Tensor = decode_jpeg(as_tensor(data), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels


def _by_pillow(data: bytes, *, is_refused: bool) -> Decoded:
    """Any image's pixels; a JPEG's from torchvision, unless it has refused it already."""
    with opened(data) as image:
        _refuse_unread(image, data)
        is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        if is_jpeg and not is_refused:
            pixels = _by_torchvision(data)
            if pixels is not None:
                return Decoded(pixels, orientation_told(image))
        # libjpeg refuses a few files that Pillow reads; where both refuse, Pillow's reason is the clearer one.
        return Decoded(_to_tensor(image), orientation_told(image), is_jpeg)


def _refuse_unread(image: Image.Image, data: bytes) -> None:
    """Raise an ImageError for what would take too much, or has no colours, before its pixels are read."""
    refuse_too_large(image.height, image.width)
    if image.mode in ("I", "F"):
        raise ImageError(f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range; convert it to 8 bits")
    if image.format in ("JPEG", "MPO"):
        _refuse_scans(data, image.height * image.width)


def orientation_told(image: Image.Image) -> int:
    """The EXIF orientation of an image of Pillow's, 1 to 8.

    From the blocks that Pillow found, not by its reader of them, which warns of damage or fails.
    """
    if image.format == "TIFF":
        return UPRIGHT
    exif, xmp, hexadecimal = (image.info.get(name) for name in ("exif", "xmp", "Raw profile type exif"))
    if not isinstance(exif, bytes) and isinstance(hexadecimal, str):
        # As ImageMagick wrote it into PNGs for long: a name and a length come first.
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(hexadecimal.split("\n")[3:]))
    return orientation_of(exif if isinstance(exif, bytes) else b"", xmp if isinstance(xmp, bytes) else b"")


def _loaded(image: Image.Image) -> Image.Image:
    """An image whose pixels are read, of 8 bits and without transparency."""
    image.load()
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts them off at 255, which makes nearly every pixel white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # Pillow warns of some kinds of it, and the conversion drops it all the same.
    image.info.pop("transparency", None)
    return image


def _to_tensor(image: Image.Image) -> Tensor:
    image = _loaded(image)
    if image.height * image.width <= _AT_ONCE:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    # In strips: converted whole, an image of 200 megapixels takes 4 bytes a pixel once more.
    pixels, rows = np.empty((image.height, image.width, 3), np.uint8), max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        pixels[top : top + rows] = np.asarray(strip.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    # Stored, so it must be one line and the same in every run; other errors may print an object's address.
    is_worded = isinstance(error, OSError | SyntaxError | ValueError | RuntimeError)
    return (is_worded and " ".join(str(error).split())) or type(error).__name__


def _resize(pixels: Tensor, size_hw: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    mode = InterpolationMode(preprocessing.interpolation)
    resized: Tensor = F.resize(pixels, list(size_hw), interpolation=mode, antialias=True)
    return resized


def _squash(pixels: Tensor, preprocessing: Preprocessing) -> _Fitted:
    return _resize(pixels, preprocessing.image_size_hw, preprocessing), Footprint()


def _center(pixels: Tensor, preprocessing: Preprocessing) -> _Fitted:
    """A centred crop of the input's aspect ratio, its sides `crop` times those of the largest such."""
    height, width = pixels.shape[1:]
    scale = min(height / preprocessing.image_size_hw[0], width / preprocessing.image_size_hw[1]) * preprocessing.crop
    crop_hw = [max(1, round(side * scale)) for side in preprocessing.image_size_hw]
    top, left = (height - crop_hw[0]) // 2, (width - crop_hw[1]) // 2
    crop = pixels[:, top : top + crop_hw[0], left : left + crop_hw[1]]
    box = Box.from_crop(top, left, crop_hw[0], crop_hw[1], (height, width))
    return _resize(crop, preprocessing.image_size_hw, preprocessing), Footprint(*box.xyxy)


def _letterbox(pixels: Tensor, preprocessing: Preprocessing) -> _Fitted:
    """The whole image, as large as fits, in the middle of the teacher's mean colour; the map covers the margins too."""
    height, width = pixels.shape[1:]
    target_h, target_w = preprocessing.image_size_hw
    scale = min(target_h / height, target_w / width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (target_h - inner_h) // 2, (target_w - inner_w) // 2
    colour = (torch.tensor(preprocessing.mean) * 255).round().to(pixels.device, torch.uint8)
    canvas = colour[:, None, None].expand(3, target_h, target_w).clone()
    canvas[:, top : top + inner_h, left : left + inner_w] = _resize(pixels, (inner_h, inner_w), preprocessing)
    margins = Box.from_crop(-top, -left, target_h, target_w, (inner_h, inner_w))
    return canvas, Footprint(*margins.xyxy)


_FITS: dict[str, Callable[[Tensor, Preprocessing], _Fitted]] = {
    "squash": _squash,
    "center": _center,
    "letterbox": _letterbox,
}
