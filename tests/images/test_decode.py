"""Encoded bytes to pixels: Pillow is the oracle, and an image whose colour is its position proves every footprint."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image

from relabel.errors import ImageError
from relabel.images import decode_and_fit, image_hash
from relabel.images.decode import MAX_MEGAPIXELS, Decoded, decode, decode_rgb
from relabel.images.device import is_for_device
from relabel.manifest import Fit, Preprocessing

FITS: tuple[Fit, ...] = ("squash", "center", "letterbox")


def preprocessing(
    size_hw: tuple[int, int], fit: Fit = "squash", mean: Sequence[float] = (0.5, 0.25, 1.0), **options: Any
) -> Preprocessing:
    return Preprocessing(image_size_hw=size_hw, mean=tuple(mean), std=(1.0,) * 3, fit=fit, **options)


def position_image(height: int, width: int) -> Image.Image:
    """Red is 255 x, green is 255 y of each pixel's centre, in fractions of the image; blue is 0."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.round((np.arange(width) + 0.5) / width * 255)
    pixels[:, :, 1] = np.round((np.arange(height) + 0.5) / height * 255)[:, None]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def pixels_of(data: bytes, size_hw: tuple[int, int], fit: Fit = "squash", **options: Any) -> NDArray[np.int64]:
    """(h, w, 3), as numpy and Pillow order them."""
    (decoded,) = decode_and_fit(data, [preprocessing(size_hw, fit, **options)])
    assert decoded.pixels.dtype == torch.uint8
    assert tuple(decoded.pixels.shape) == (3, *size_hw)
    return decoded.pixels.permute(1, 2, 0).numpy().astype(np.int64)


def header_only_png(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def photograph_like(height: int = 60, width: int = 80) -> Image.Image:
    """Smooth colours, which JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width] / 10
    waves = [np.sin(x + i) * np.cos(y * (i + 1) / 2) for i in range(3)]
    return Image.fromarray(np.stack([(127 + 100 * wave).astype(np.uint8) for wave in waves], 2))


class TestPixels:
    @pytest.mark.parametrize("fmt", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
    def test_lossless_formats_are_exactly_pillows(self, fmt: str) -> None:
        image = photograph_like()
        data = encoded(image, fmt, **({"lossless": True} if fmt == "WEBP" else {}))
        assert np.array_equal(pixels_of(data, (60, 80)), np.asarray(image))

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("subsampling", [0, 2])
    def test_jpegs_of_every_mode_are_near_pillows(self, mode: str, progressive: bool, subsampling: int) -> None:
        options = {} if mode == "L" else {"subsampling": subsampling}
        data = encoded(photograph_like().convert(mode), "JPEG", quality=95, progressive=progressive, **options)
        difference = np.abs(pixels_of(data, (60, 80)) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert difference.mean() < 0.5
        assert difference.max() <= 8

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
    def test_png_modes_are_pillows_rgb(self, mode: str) -> None:
        data = encoded(photograph_like().convert(mode))
        assert Image.open(io.BytesIO(data)).mode == mode
        assert np.array_equal(pixels_of(data, (60, 80)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    @pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
    def test_of_sixteen_bits_the_upper_eight_are_kept(self, fmt: str) -> None:
        # Pillow's conversion to RGB cuts off at 255: an almost white image.
        deep = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13
        data = encoded(Image.fromarray(deep), fmt)
        assert Image.open(io.BytesIO(data)).mode == "I;16"
        assert np.array_equal(pixels_of(data, (60, 80)), np.repeat(deep[:, :, None] // 256, 3, axis=2))

    def test_a_jpeg_of_several_pictures_is_its_first(self) -> None:
        data = encoded(photograph_like(), "MPO", save_all=True, append_images=[photograph_like(30, 40)])
        assert Image.open(io.BytesIO(data)).format == "MPO"
        assert np.array_equal(pixels_of(data, (60, 80)), pixels_of(encoded(photograph_like(), "JPEG"), (60, 80)))

    def test_a_palette_with_transparency_is_decoded_without_a_warning(self) -> None:
        image = photograph_like().convert("P")
        expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(pixels_of(encoded(image, transparency=bytes(range(256))), (60, 80)), expected)

    @pytest.mark.parametrize(("fmt", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "I;16")])
    def test_a_trainer_that_wants_pillows_images_has_the_same_pixels(
        self, fmt: str, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deep = Image.fromarray(np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13)
        data = encoded(deep if mode == "I;16" else photograph_like().convert(mode), fmt)
        image, orientation = decode_rgb(data)
        assert (image.mode, orientation) == ("RGB", 1)
        assert np.array_equal(np.asarray(image), decode(data).pixels.permute(1, 2, 0).numpy())
        if (fmt, mode) == ("JPEG", "RGB"):
            # What Pillow refuses and torchvision reads was labelled.
            monkeypatch.setitem(Image.OPEN, "JPEG", (None, lambda _: False))
            assert np.array_equal(np.asarray(decode_rgb(data)[0]), np.asarray(image))

    def test_a_gif_is_its_first_frame(self) -> None:
        frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert np.array_equal(pixels_of(data, (6, 8)), np.asarray(frames[0]))

    @pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
    def test_exif_never_rotates(self, fmt: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned, plain = (encoded(position_image(40, 80), fmt, **o) for o in ({"exif": exif}, {}))
        assert b"Exif" in turned or b"eXIf" in turned or b"EXIF" in turned
        assert np.array_equal(pixels_of(turned, (40, 80)), pixels_of(plain, (40, 80)))

    def test_pillow_reads_a_jpeg_that_torchvision_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refusing(*_: object, **__: object) -> None:
            raise RuntimeError("unsupported")

        data = encoded(photograph_like(), "JPEG")
        usual = pixels_of(data, (60, 80))
        monkeypatch.setattr("relabel.images.decode.decode_jpeg", refusing)
        (decoded,) = decode_and_fit(data, [preprocessing((60, 80))])
        assert decoded.is_fallback
        assert np.array_equal(decoded.pixels.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(data))))
        assert np.array_equal(usual, np.asarray(Image.open(io.BytesIO(data))))

    @pytest.mark.parametrize(("fmt", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")])
    def test_an_image_that_its_own_decoder_read_is_no_fallback(self, fmt: str, mode: str) -> None:
        (decoded,) = decode_and_fit(encoded(photograph_like().convert(mode), fmt), [preprocessing((8, 8))])
        assert not decoded.is_fallback

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size_hw", [(24, 40), (30, 30), (90, 100)])
    def test_squash_is_pillows_antialiased_resize(self, interpolation: str, size_hw: tuple[int, int]) -> None:
        image = photograph_like()
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        theirs = np.asarray(image.resize(size_hw[::-1], filters[interpolation])).astype(np.int64)
        assert np.abs(pixels_of(encoded(image), size_hw, interpolation=interpolation) - theirs).max() <= 2

    def test_many_threads_decode_as_one_does(self) -> None:
        kinds = [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("WEBP", "RGB")]
        images = [encoded(photograph_like(40 + n, 50).convert(mode), fmt) for n in range(6) for fmt, mode in kinds]
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda data: pixels_of(data, (16, 16)), images * 4))
        alone = [pixels_of(data, (16, 16)) for data in images] * 4
        assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
        assert list(warnings.filters) == filters


class TestFootprints:
    @pytest.mark.parametrize(
        ("image_hw", "target_hw", "fit", "expected"),
        [
            ((300, 400), (64, 64), "squash", (0, 0, 1, 1)),
            ((400, 300), (64, 64), "squash", (0, 0, 1, 1)),
            ((300, 400), (64, 64), "center", (0.125, 0, 0.875, 1)),
            ((400, 300), (64, 64), "center", (0, 0.125, 1, 0.875)),
            ((300, 400), (40, 80), "center", (0, 1 / 6, 1, 5 / 6)),
            ((400, 300), (80, 40), "center", (1 / 6, 0, 5 / 6, 1)),
            ((301, 400), (64, 64), "center", (49 / 400, 0, 350 / 400, 1)),
            ((300, 400), (64, 64), "letterbox", (0, -1 / 6, 1, 7 / 6)),
            ((400, 300), (64, 64), "letterbox", (-1 / 6, 0, 7 / 6, 1)),
            ((30, 40), (60, 80), "letterbox", (0, 0, 1, 1)),
        ],
    )
    def test_footprints_are_the_hand_computed_ones(
        self, image_hw: tuple[int, int], target_hw: tuple[int, int], fit: Fit, expected: tuple[float, ...]
    ) -> None:
        (decoded,) = decode_and_fit(encoded(position_image(*image_hw)), [preprocessing(target_hw, fit)])
        assert decoded.footprint.xyxy == pytest.approx(expected, abs=1e-9)

    @given(
        image_hw=st.tuples(st.integers(8, 120), st.integers(8, 120)),
        target_hw=st.tuples(st.integers(8, 48), st.integers(8, 48)),
        fit=st.sampled_from([*((fit, 1.0) for fit in FITS), ("center", 0.875), ("center", 0.5)]),
    )
    @settings(deadline=None, max_examples=150)
    def test_every_pixel_shows_the_place_that_the_footprint_says(
        self, image_hw: tuple[int, int], target_hw: tuple[int, int], fit: tuple[Fit, float]
    ) -> None:
        view = preprocessing(target_hw, fit[0], crop=fit[1])
        (decoded,) = decode_and_fit(encoded(position_image(*image_hw)), [view])
        x0, y0, x1, y1 = decoded.footprint.xyxy
        x = x0 + (np.arange(target_hw[1]) + 0.5) / target_hw[1] * (x1 - x0)
        y = y0 + (np.arange(target_hw[0]) + 0.5) / target_hw[0] * (y1 - y0)
        shown_x, shown_y = (x > 0) & (x < 1), (y > 0) & (y < 1)
        pixels = decoded.pixels.numpy()[:, shown_y][:, :, shown_x].astype(np.float64)
        # At the image's edge a filter sees only one side: half a pixel, of the image or of the result.
        slack_x = 1.5 + 255 * max(0.5 / image_hw[1], 0.5 * (x1 - x0) / target_hw[1])
        slack_y = 1.5 + 255 * max(0.5 / image_hw[0], 0.5 * (y1 - y0) / target_hw[0])
        assert np.abs(pixels[0] - 255 * x[shown_x]).max() <= slack_x
        assert np.abs(pixels[1] - 255 * y[shown_y, None]).max() <= slack_y
        assert pixels[2].max() == 0

    def test_letterbox_margins_have_the_mean_colour_and_hold_no_image(self) -> None:
        pixels = pixels_of(encoded(Image.new("RGB", (80, 40), "white")), (32, 32), "letterbox", mean=(0.5, 0.25, 1.0))
        assert np.array_equal(np.unique(pixels[:8].reshape(-1, 3), axis=0), [[128, 64, 255]])
        assert np.array_equal(pixels[24:], pixels[:8])
        assert (pixels[8:24] == 255).all()

    @pytest.mark.parametrize("fit", FITS)
    @pytest.mark.parametrize("image_hw", [(1, 1), (1, 2), (12_000, 3), (3, 12_000), (1, 12_000)])
    def test_images_of_extreme_size_are_fitted(self, fit: Fit, image_hw: tuple[int, int]) -> None:
        image = Image.new("RGB", image_hw[::-1], (10, 200, 30))
        pixels = pixels_of(encoded(image), (33, 20), fit, mean=(10 / 255, 200 / 255, 30 / 255))
        assert (pixels == [10, 200, 30]).all()


class TestViews:
    def test_each_view_is_what_it_would_be_alone_and_the_image_is_decoded_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        views = [
            preprocessing((32, 24)),
            preprocessing((20, 20), "letterbox"),
            preprocessing((20, 20), "center", crop=0.875, interpolation="bicubic"),
        ]
        data = encoded(photograph_like(), "JPEG")
        alone = [decode_and_fit(data, [view])[0] for view in views]
        calls: list[bytes] = []

        def counting(data: bytes) -> Decoded:
            calls.append(data)
            return decode(data)

        monkeypatch.setattr("relabel.images.decode.decode", counting)
        together = decode_and_fit(data, views)
        assert calls == [data]
        assert [one.footprint for one in together] == [one.footprint for one in alone]
        assert all(a.pixels.equal(b.pixels) for a, b in zip(together, alone, strict=True))

    @pytest.mark.parametrize(
        ("image_hw", "target_hw", "crop", "expected"),
        [
            ((300, 400), (64, 64), 0.5, (0.3125, 0.25, 0.6875, 0.75)),
            ((400, 300), (64, 64), 0.5, (0.25, 0.3125, 0.75, 0.6875)),
            ((300, 400), (40, 80), 0.5, (0.25, 1 / 3, 0.75, 2 / 3)),
            ((1000, 1000), (64, 64), 0.875, (0.062, 0.062, 0.937, 0.937)),
        ],
    )
    def test_a_smaller_crop_has_the_hand_computed_footprint(
        self, image_hw: tuple[int, int], target_hw: tuple[int, int], crop: float, expected: tuple[float, ...]
    ) -> None:
        (decoded,) = decode_and_fit(encoded(position_image(*image_hw)), [preprocessing(target_hw, "center", crop=crop)])
        assert decoded.footprint.xyxy == pytest.approx(expected, abs=1e-9)

    def test_a_smaller_crop_is_timms_resize_then_crop(self) -> None:
        # timm resizes the shorter side to the target over the crop's fraction, and cuts the target out of the middle.
        image = photograph_like(240, 320)
        whole = image.resize((128, 96), Image.Resampling.BILINEAR).crop((24, 8, 104, 88))
        ours = pixels_of(encoded(image), (80, 80), "center", crop=80 / 96)
        inner = np.abs(ours - np.asarray(whole).astype(np.int64))[2:-2, 2:-2]
        assert inner.max() <= 2


class TestBadImages:
    def reason(self, data: bytes) -> str:
        with pytest.raises(ImageError) as caught:
            decode_and_fit(data, [preprocessing((8, 8))])
        return str(caught.value)

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "the file is empty"),
            (b"not an image at all", "unknown format"),
            (b"<html>404</html>" * 50, "unknown format"),
            (b"\xff\xd8\xff", "not a readable image"),
            (b"\x89PNG\r\n\x1a\n", "not a readable image"),
            (bytes(5000), "unknown format"),
        ],
    )
    def test_what_is_no_image_has_a_one_line_reason(self, data: bytes, expected: str) -> None:
        reason = self.reason(data)
        assert expected in reason
        assert "\n" not in reason
        # An address in memory would make a store's bytes differ from run to run.
        assert "0x" not in reason

    @pytest.mark.parametrize(
        ("fmt", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("JPEG", {"mode": "CMYK"}),
            ("PNG", {}),
            ("WEBP", {}),
            ("GIF", {}),
            ("BMP", {}),
            ("PPM", {}),
        ],
    )
    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
    def test_a_cut_image_is_refused(self, fmt: str, options: dict[str, Any], kept: float) -> None:
        options = dict(options)
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(noise).convert(options.pop("mode", "RGB")), fmt, **options)
        assert "\n" not in self.reason(data[: int(len(data) * kept)])

    def test_an_image_above_the_limit_is_refused_by_our_own_limit(self) -> None:
        height = MAX_MEGAPIXELS * 100 + 1
        reason = self.reason(header_only_png(10_000, height))
        assert f"10000 x {height}" in reason
        assert f"{MAX_MEGAPIXELS} megapixels" in reason

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("tail", [b"", b"behind the end"])
    def test_a_jpeg_of_hundreds_of_scans_is_refused(self, mode: str, tail: bytes) -> None:
        data = encoded(position_image(40, 30).convert(mode), "JPEG", progressive=True)
        _, *scans = (b"\xff\xda" + scan for scan in data.split(b"\xff\xda"))
        start = data.index(b"\xff\xda")
        few, many = (data[:start] + scans[0] * n + data[start + len(scans[0]) :] + tail for n in (50, 200))
        assert decode(few).facts.size_hw == (40, 30)
        assert "so many scans" in self.reason(many)
        assert not is_for_device(many)

    def test_an_image_just_below_the_limit_is_not_refused_for_its_size(self) -> None:
        # It is refused all the same, because it holds no pixels.
        assert "limit" not in self.reason(header_only_png(10_000, MAX_MEGAPIXELS * 100 - 1))

    def test_a_large_image_sets_off_no_warning(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.reason(header_only_png(10_000, 10_000))
        assert caught == []

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_numbers_of_unknown_range_are_no_pixels(self, dtype: type[np.generic]) -> None:
        assert "32-bit" in self.reason(encoded(Image.fromarray(np.ones((6, 8), dtype)), "TIFF"))

    def test_whatever_a_decoder_raises_is_an_image_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> Image.Image:
            raise KeyError(object())

        monkeypatch.setitem(Image.OPEN, "PNG", (broken, Image.OPEN["PNG"][1]))
        assert self.reason(encoded(photograph_like())) == "not a readable image: KeyError"

    def test_postscript_in_an_images_clothes_runs_no_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "gs"
        program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        # Pillow looks for Ghostscript once in a process.
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
        self.reason(encoded(photograph_like(), "EPS"))
        assert not (tmp_path / "ran").exists()

    @given(
        kind=st.sampled_from(
            [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "L")]
        ),
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    )
    @settings(deadline=None, max_examples=300)
    def test_changed_bytes_give_an_image_or_an_image_error(
        self, kind: tuple[str, str], changes: list[tuple[float, int]]
    ) -> None:
        data = bytearray(encoded(photograph_like(12, 16).convert(kind[1]), kind[0]))
        for place, value in changes:
            # The square favours the headers, where the decisions are.
            data[int(place**2 * len(data))] = value
        reason, shape = "", torch.Size((3, 8, 8))
        try:
            shape = decode_and_fit(bytes(data), [preprocessing((8, 8))])[0].pixels.shape
        except ImageError as error:
            reason = str(error)
        assert "\n" not in reason
        assert "0x" not in reason
        assert shape == (3, 8, 8)


class TestImageHash:
    def test_it_is_blake2b_of_eight_bytes_little_endian(self) -> None:
        for data in (b"", b"relabel", bytes(range(256)) * 100):
            digest = hashlib.blake2b(data, digest_size=8).digest()
            assert image_hash(data) == sum(byte << (8 * place) for place, byte in enumerate(digest))

    def test_it_never_changes(self) -> None:
        # Stores keep it: another value here would disown every store written so far.
        assert image_hash(b"relabel") == 12797252646237113610
        assert np.uint64(image_hash(b"relabel")) == image_hash(b"relabel")
