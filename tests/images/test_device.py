"""JPEGs on a device: on the CPU its pixels are the CPU decoder's, on a GPU near them; the rest is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.io
from images.test_decode import encoded, photograph_like
from PIL import Image

from relabel.images import decode_and_fit
from relabel.images import device as on_device
from relabel.images.device import decode_and_fit_on, is_for_device
from relabel.images.jpeg import JpegHeader, jpeg_header
from relabel.manifest import Preprocessing

CPU = torch.device("cpu")


def view(size_hw: tuple[int, int], **options: Any) -> Preprocessing:
    return Preprocessing(image_size_hw=size_hw, mean=(0.5, 0.25, 1.0), std=(1.0,) * 3, **options)


def jpeg(height: int = 60, width: int = 80, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(photograph_like(height, width).convert(mode), "JPEG", **options)


PNG = encoded(photograph_like(6, 8))
VIEWS = [view((24, 32)), view((20, 20), fit="letterbox"), view((20, 28), fit="center", interpolation="bicubic")]


def with_frame(data: bytes, marker: int, bits: int = 8) -> bytes:
    """The same JPEG, said to be coded in another way."""
    place = data.index(b"\xff\xc0")
    return data[: place + 1] + bytes([marker]) + data[place + 2 : place + 4] + bytes([bits]) + data[place + 5 :]


class TestHeaders:
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
    def test_a_jpegs_size_is_read(self, options: dict[str, Any]) -> None:
        assert jpeg_header(jpeg(35, 90, **options)) == JpegHeader(35, 90, is_colour=True)
        assert jpeg_header(jpeg(35, 90, "L")) == JpegHeader(35, 90, is_colour=False)

    def test_what_stands_before_the_frame_is_passed_over(self) -> None:
        exif = Image.Exif()
        exif[0x010E] = "words " * 100
        data = jpeg(exif=exif, comment="more words", icc_profile=bytes(70_000))
        assert len(data) > 70_000
        assert jpeg_header(data) == JpegHeader(60, 80, is_colour=True)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff\xd8\xff\xd9",
            PNG,
            jpeg(mode="CMYK"),
            jpeg(keep_rgb=True),
            jpeg()[:-2],
            jpeg() + b"\0",
            with_frame(jpeg(), 0xC9),
            with_frame(jpeg(), 0xC0, bits=12),
            jpeg()[:2] + b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\0" + jpeg()[2:],
        ],
        ids=["empty", "hollow", "png", "cmyk", "rgb", "cut", "longer", "arithmetic", "12 bits", "said to be rgb"],
    )
    def test_anything_else_is_no_ordinary_jpeg(self, data: bytes) -> None:
        assert jpeg_header(data) is None

    def test_bytes_cut_anywhere_have_no_header(self) -> None:
        data = jpeg()
        assert {jpeg_header(data[:n] + b"\xff\xd9") for n in range(160)} == {None}


class TestDecoding:
    def test_the_cpu_as_device_gives_what_the_cpu_decoder_gives(self) -> None:
        images = [jpeg(60 + n, 80, quality=90) for n in range(5)]
        for data, found in zip(images, decode_and_fit_on(CPU, images, VIEWS), strict=True):
            expected = decode_and_fit(data, VIEWS)
            assert found is not None
            assert [one.footprint for one in found] == [one.footprint for one in expected]
            assert all(a.pixels.equal(b.pixels) for a, b in zip(found, expected, strict=True))

    def test_only_ordinary_colour_jpegs_are_decoded(self) -> None:
        images = [PNG, jpeg(), jpeg(mode="L"), b"", jpeg(mode="CMYK"), jpeg()[:-40]]
        found = decode_and_fit_on(CPU, images, VIEWS)
        assert [one is not None for one in found] == [is_for_device(data) for data in images]
        assert [one is not None for one in found] == [False, True, False, False, False, False]

    def test_one_that_is_refused_does_not_cost_its_neighbours(self) -> None:
        # Its header is whole, and so is its end; there is nothing between.
        data = jpeg()
        hollow = data[: data.index(b"\xff\xda")] + b"\xff\xd9"
        assert is_for_device(hollow)
        assert [one is not None for one in decode_and_fit_on(CPU, [data, hollow, data], VIEWS)] == [True, False, True]

    def test_few_pixels_are_decoded_at_a_time_and_every_image_keeps_its_place(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        decode = torchvision.io.decode_jpeg

        def counting(encoded: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
            decoded: list[torch.Tensor] = decode(encoded, **options)
            sizes.append(sum(pixels[0].numel() for pixels in decoded))
            return decoded

        monkeypatch.setattr(on_device, "decode_jpeg", counting)
        monkeypatch.setattr(on_device, "_MOST_PIXELS", 10_000)
        images = [jpeg(60, 80), jpeg(50, 100), PNG, jpeg(90, 110), jpeg(60, 82), jpeg(200, 200)]
        found = decode_and_fit_on(CPU, images, VIEWS[:1])
        assert sizes == [9800, 9900, 4920]
        assert [one is not None for one in found] == [True, True, False, True, True, False]
        for data, one in zip(images, found, strict=True):
            assert one is None or one[0].pixels.equal(decode_and_fit(data, VIEWS[:1])[0].pixels)

    @pytest.mark.cuda
    def test_a_gpus_pixels_are_near_the_cpus(self) -> None:
        gpu = torch.device("cuda", torch.cuda.current_device())
        images = [jpeg(60 + n, 80, quality=95, subsampling=n % 3, progressive=n % 2 == 0) for n in range(6)]
        for data, found in zip(images, decode_and_fit_on(gpu, images, VIEWS), strict=True):
            assert found is not None
            for one, expected in zip(found, decode_and_fit(data, VIEWS), strict=True):
                assert one.pixels.device.type == "cuda"
                assert one.footprint == expected.footprint
                difference = (one.pixels.cpu().int() - expected.pixels.int()).abs()
                assert float(difference.float().mean()) < 1.5
                assert int(difference.max()) <= 24
