"""What the first bytes of a JPEG say, for a tenth of the time that it takes Pillow to open one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from relabel.images.exif import EXIF, UPRIGHT, XMP, orientation_of

_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive, all of them Huffman coded: what libjpeg and nvJPEG decode alike."""

_PROGRESSIVE, _SCAN = 0xC2, 0xDA
_APP1 = 0xE1
"""Exif and XMP."""
_BEFORE_FRAME = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Tables, the restart interval, applications' own and comments."""


_MOST_SCANS, _MOST_SCANNED = 100, 4_000_000_000
"""Of a progressive image, and times its pixels. Encoders write 10 scans, the most thrifty ones under 30; a small file
may hold thousands, each of which passes over all pixels: of 200 megapixels in up to a tenth of a second."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size in pixels, whether it holds brightness and two colours or brightness alone, and EXIF orientation, 1 to 8.

    With `is_one_scan` a decoder passes over its pixels once, whatever follows: it is not progressive, and its first
    scan holds all.
    """

    height: int
    width: int
    is_colour: bool
    orientation: int = UPRIGHT
    is_one_scan: bool = field(default=False, compare=False)


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of an ordinary JPEG: grey or YCbCr, 8 bits, complete up to its end marker; None for anything else.

    None is no verdict on the image: CMYK, RGB and 12-bit JPEGs, arithmetic coding and other formats give it too, and so
    does a file with something behind its end.
    """
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    place = 2
    exif = xmp = b""
    while place + 10 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            header = _frame(data[place + 4 : place + 2 + length], orientation_of(exif, xmp))
            is_one = header is not None and marker != _PROGRESSIVE and _is_whole_scan(data, place + 2 + length, header)
            return replace(header, is_one_scan=True) if header is not None and is_one else header
        # Adobe's segment may say that colours were not transformed: RGB.
        adobe = data[place + 4 : place + 16] if marker == 0xEE else b""
        if marker not in _BEFORE_FRAME or (adobe[:5] == b"Adobe" and adobe[11:] == b"\0"):
            return None
        if marker == _APP1 and not exif and data.startswith(EXIF, place + 4):
            exif = data[place + 4 : place + 2 + length]
        elif marker == _APP1 and data.startswith(XMP, place + 4):
            xmp = data[place + 4 : place + 2 + length]
        place += 2 + length
    return None


def has_too_many_scans(data: bytes, pixels: int, header: JpegHeader | None = None) -> bool:
    """Whether a JPEG would take a minute to decode, by the markers that begin a scan; elsewhere they hardly stand."""
    # To count them takes a twentieth of decoding it.
    if header is not None and header.is_one_scan:
        return False
    return data.count(b"\xff\xda") > min(_MOST_SCANS, _MOST_SCANNED // max(pixels, 1))


def _is_whole_scan(data: bytes, place: int, header: JpegHeader) -> bool:
    """Whether the first scan behind a frame, tables between them, holds all of its components."""
    while place + 4 < len(data) and data[place] == 0xFF:
        if data[place + 1] == _SCAN:
            return data[place + 4] == (3 if header.is_colour else 1)
        if data[place + 1] not in _BEFORE_FRAME:
            return False
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _frame(segment: bytes, orientation: int) -> JpegHeader | None:
    """Of the frame's segment: bits, height, width, and the number, sampling and table of each component."""
    components = segment[6::3]
    if len(segment) != 6 + 3 * segment[5] or segment[0] != 8 or components not in (b"\1", b"\1\2\3"):
        return None
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    return JpegHeader(height, width, len(components) == 3, orientation) if height and width else None
