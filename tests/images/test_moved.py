"""Whether a loaded image shows what its file does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from relabel.images.moved import shows


def _picture(side_hw: tuple[int, int] = (150, 200)) -> Image.Image:
    """Blots of all sizes, as of a photograph: noise at several scales."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.zeros(1, 3, *side_hw)
    for cells in (2, 4, 8, 16, 32):
        noise = torch.rand(1, 1, cells, cells, generator=draw) / cells**0.5
        pixels += torch.nn.functional.interpolate(noise, side_hw, mode="bicubic")
    return v2.functional.to_pil_image((pixels[0] - pixels.min()) / (pixels.max() - pixels.min()))


def _file(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


_CASES: dict[str, tuple[str | None, Callable[[Image.Image], Any]]] = {
    "itself": ("whole", lambda image: image),
    "smaller and stretched": ("whole", lambda image: image.resize((64, 64))),
    "grey": ("whole", lambda image: image.convert("L")),
    "other colours": ("whole", lambda image: ImageOps.posterize(image, 3)),
    "tensor of fractions": (
        "whole",
        lambda image: v2.functional.to_dtype(v2.functional.pil_to_tensor(image), scale=True),
    ),
    "one colour": (None, lambda image: Image.new("RGB", image.size, "red")),
    "cropped": ("moved", lambda image: image.crop((5, 4, 195, 146))),
    "mirrored": ("moved", ImageOps.mirror),
    "shifted": ("moved", lambda image: v2.functional.affine(image, 0, [6, 0], 1, [0])),
    "padded": ("moved", lambda image: ImageOps.expand(image, 6)),
    "cropped, in other colours": ("moved", lambda image: ImageOps.posterize(image.crop((10, 8, 190, 142)), 3)),
    "another picture": ("other", lambda image: image.transpose(Image.Transpose.ROTATE_90)),
}


@pytest.mark.parametrize("case", _CASES)
def test_what_is_moved_is_told_from_what_is_coloured(case: str) -> None:
    image = _picture()
    expected, change = _CASES[case]
    assert shows(change(image), _file(image)) == expected


def test_turned_upright_it_is_the_whole_file() -> None:
    image = _picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _file(image, exif=exif)
    assert shows(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), data) == "whole"
    assert shows(image, data) == "whole"
