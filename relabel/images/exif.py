"""How a camera was held, from an image's Exif or XMP block; whatever else stands there is neither read nor trusted."""

from __future__ import annotations

import re
from typing import Literal

UPRIGHT = 1
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
"""What the blocks begin with in a JPEG."""

_ORIENTATION = 0x0112
_BYTES = {1: 1, 3: 2, 4: 4}
"""Of a number by its type: the types that are whole numbers."""
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that means anything.

    Args:
        exif: the block, with or without its first six bytes; empty where there is none.
        xmp: the XMP packet, which counts where the Exif block does not name an orientation.
    """
    found = _in_exif(exif.removeprefix(EXIF))
    if found is None:
        match = _IN_XMP.search(xmp)
        found = int(match[1]) if match else UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT


def _in_exif(block: bytes) -> int | None:
    """The number in the first directory of a TIFF block, 0 for one that is no whole number; None where it is not named.

    A slice beyond the end is short or empty, so that no offset leads anywhere else.
    """
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return None

    def number(place: int, size: int) -> int:
        return int.from_bytes(block[place : place + size], order)

    first = number(4, 4) + 2
    for entry in range(first, min(first + 12 * number(first - 2, 2), len(block) - 11), 12):
        if number(entry, 2) == _ORIENTATION:
            is_one = number(entry + 4, 4) == 1
            return number(entry + 8, _BYTES.get(number(entry + 2, 2), 0)) if is_one else 0
    return None
