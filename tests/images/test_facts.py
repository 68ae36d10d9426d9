"""Size and EXIF orientation of an image, from its header and from decoding it: those that Pillow finds."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from relabel.geometry import Footprint
from relabel.images import ImageFacts, header_facts
from relabel.images.decode import decode, decode_and_fit
from relabel.images.device import decode_and_fit_on
from relabel.images.exif import orientation_of
from relabel.images.jpeg import jpeg_header
from relabel.manifest import Preprocessing

TAG = 0x0112
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
VIEW = Preprocessing(image_size_hw=(4, 4), mean=(0.5,), std=(0.5,))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)


def block(orientation: object, order: str = "<") -> bytes:
    """An Exif block among other entries, in either byte order."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker with a name that does not fit into its entry"
    exif[TAG] = orientation
    exif[0x8769] = {0x9003: "2026:11:28 10:00:00"}
    return exif.tobytes()


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def pillows(data: bytes) -> ImageFacts:
    """What Pillow says once it has loaded it."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        found = image.getexif().get(TAG, 1)
        return ImageFacts((image.height, image.width), found if found in range(1, 9) else 1)


def ours(data: bytes) -> ImageFacts:
    """The same from the header and from every way to decode it."""
    facts = header_facts(data)
    assert decode(data).facts == facts
    assert decode_and_fit(data, [VIEW])[0].facts == facts
    if (found := decode_and_fit_on(torch.device("cpu"), [data], [VIEW])[0]) is not None:
        assert found[0].facts == facts
    return facts


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("PNG", "RGB"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("MPO", "RGB"),
    ],
)
def test_the_orientation_of_every_format_is_pillows(kind, mode, orientation):
    for order in "<>":
        data = encoded(kind, mode, exif=block(orientation, order))
        found = ours(data)
        assert found == pillows(data)
        if kind != "TIFF":
            assert found == ImageFacts((5, 8), orientation if 1 <= orientation <= 8 else 1)


def test_a_tiff_is_turned_while_it_is_decoded_and_then_upright():
    data = encoded("TIFF", tiffinfo={TAG: 6})
    assert ours(data) == ImageFacts((8, 5), 1)
    turned = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1).rot90(-1, (1, 2))
    assert decode(data).pixels.equal(turned)
    by_xmp = TiffImagePlugin.ImageFileDirectory_v2()
    by_xmp[700], by_xmp.tagtype[700] = XMP % 6, TiffTags.BYTE
    assert ours(encoded("TIFF", tiffinfo=by_xmp)) == ImageFacts((8, 5), 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM"])
def test_an_image_without_exif_is_upright(kind):
    data = encoded(kind)
    assert ours(data) == pillows(data) == ImageFacts((5, 8), 1)


@pytest.mark.parametrize("exif", [b"", block(3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_counts_where_exif_is_silent(kind, exif):
    packet = XMP % 8
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet.decode())
        data = encoded(kind, exif=exif, pnginfo=chunks)
    else:
        data = encoded(kind, exif=exif, xmp=packet)
    assert ours(data) == pillows(data) == ImageFacts((5, 8), 3 if exif else 8)


def test_exif_behind_the_pixels_of_a_png_or_in_the_words_of_imagemagick_counts():
    data = encoded("PNG")
    with_exif = encoded("PNG", exif=block(6))
    start = with_exif.index(b"eXIf") - 4
    chunk = with_exif[start : start + 12 + int.from_bytes(with_exif[start : start + 4], "big")]
    behind = data[:-12] + chunk + data[-12:]
    assert ours(behind) == pillows(behind) == ImageFacts((5, 8), 6)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block(6)):8}\n{block(6).hex()}\n", zip=True)
    assert ours(encoded("PNG", pnginfo=texts)) == ImageFacts((5, 8), 6)
    broken = PngImagePlugin.PngInfo()
    broken.add_text("Raw profile type exif", "\nexif\n  3\nno hex\n", zip=True)
    assert ours(encoded("PNG", pnginfo=broken)) == ImageFacts((5, 8), 1)


def entry(kind: int, count: int, value: bytes, order: str = "big") -> bytes:
    """A TIFF block of one entry, the orientation."""
    numbers = [(42, 2), (8, 4), (1, 2), (TAG, 2), (kind, 2), (count, 4)]
    return (b"MM" if order == "big" else b"II") + b"".join(n.to_bytes(size, order) for n, size in numbers) + value


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (entry(3, 1, b"\0\6\0\0"), 6),
        (b"Exif\0\0" + entry(3, 1, b"\6\0\0\0", "little"), 6),
        (entry(1, 1, b"\6\0\0\0"), 6),
        (entry(4, 1, b"\0\0\0\6"), 6),
        (entry(2, 1, b"6\0\0\0"), 1),
        (entry(3, 2, b"\0\6\0\6"), 1),
        (entry(3, 1, b"\0\x09\0\0"), 1),
        (entry(3, 1, b"\0\6"), 1),
        (b"MM\0*" + b"\xff" * 4, 1),
        (b"MM\0*\0\0\0\4" + b"\xff" * 40, 1),
        (b"no block", 1),
    ],
)
def test_a_number_counts_as_it_is_written_and_anything_else_is_upright(exif, orientation):
    assert orientation_of(exif) == orientation


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_exif_whatever_it_holds_is_more_than_an_orientation(data):
    exif = bytearray(block(5, data.draw(st.sampled_from("<>"))))
    for place in data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4)):
        exif[place] = data.draw(st.integers(0, 255))
    exif = exif[: data.draw(st.integers(0, len(exif)))]
    assert 1 <= orientation_of(bytes(exif), data.draw(st.binary(max_size=40))) <= 8
    header = jpeg_header(encoded("JPEG", exif=bytes(exif)))
    assert header is not None
    assert (header.height, header.width) == (5, 8)


def test_the_first_exif_block_of_a_jpeg_counts():
    first, second = (encoded("JPEG", exif=block(n)) for n in (6, 3))
    place = first.index(b"\xff\xe1")
    end = place + 2 + int.from_bytes(first[place + 2 : place + 4], "big")
    both = first[:end] + second[place:end] + first[end:]
    assert both.count(b"Exif\0\0") == 2
    assert ours(both) == pillows(both) == ImageFacts((5, 8), 6)
    assert decode_and_fit(both, [VIEW])[0].footprint == Footprint()
