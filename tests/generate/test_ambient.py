"""What a program or a teacher's module sets in the process changes no byte of a store, and is left as it was."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import answer, convolutions, make_teacher, options, picture, tar_bytes, write_tar
from PIL import Image, ImageFile, PngImagePlugin
from store.samples import contents

from relabel.generate import generate
from relabel.teacher import Teacher, TeacherSpec, load_teacher


def saved(kind: str, **given: object) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(stream, kind, **given)
    return stream.getvalue()


def long_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2_000_000, zip=True)
    return info


IMAGES = {
    "cut.png": picture(0)[:-600],
    "half.webp": saved("WEBP")[:-60],
    "text.png": saved("PNG", pnginfo=long_text()),
    "a.webp": saved("WEBP"),
    "b.jpg": saved("JPEG"),
    "c.png": picture(2),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """torch's state and numpy's, Pillow's and the system's, after each test."""
    pillow = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    folder, mask, numbers = Path.cwd(), os.umask(0o022), np.geterr()
    os.umask(mask)
    with warnings.catch_warnings():
        yield
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pillow
    os.chdir(folder)
    os.umask(mask)
    np.seterr(**numbers)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_autocast_enabled("cpu", False)
    torch.set_float32_matmul_precision("highest")


Is = Callable[[], bool]


def truncated() -> Is:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    return lambda: ImageFile.LOAD_TRUNCATED_IMAGES


def small_limit() -> Is:
    Image.MAX_IMAGE_PIXELS = 10
    return lambda: Image.MAX_IMAGE_PIXELS == 10


def large_text() -> Is:
    PngImagePlugin.MAX_TEXT_CHUNK = 10**9
    return lambda: PngImagePlugin.MAX_TEXT_CHUNK == 10**9


def float64() -> Is:
    torch.set_default_dtype(torch.float64)
    return lambda: torch.get_default_dtype() == torch.float64


def meta() -> Is:
    torch.set_default_device("meta")
    return lambda: torch.get_default_device().type == "meta"


def autocast() -> Is:
    torch.set_autocast_enabled("cpu", True)
    return lambda: torch.is_autocast_enabled("cpu")


def imprecise() -> Is:
    torch.set_float32_matmul_precision("medium")
    return lambda: torch.get_float32_matmul_precision() == "medium"


def raising() -> Is:
    np.seterr(all="raise")
    warnings.simplefilter("error")
    return lambda: set(np.geterr().values()) == {"raise"}


STATES = (truncated, small_limit, large_text, float64, meta, autocast, imprecise, raising)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write_tar(folder / "a.tar", list(IMAGES.items()))
    summary = generate(str(folder / "a.tar"), folder / "store", letterboxing(), options())
    assert {failure.key for failure in summary.failures} == {"cut", "half", "text"}
    return folder


def letterboxing() -> Teacher:
    """Its margins have a colour that is computed."""
    return make_teacher(convolutions(), fit="letterbox")


@pytest.mark.parametrize("set_state", STATES)
def test_what_a_program_sets_changes_no_byte_and_stays(set_state: Callable[[], Is], plain, tmp_path):
    teacher = letterboxing()
    is_set = set_state()
    generate(str(plain / "a.tar"), tmp_path / "set", teacher, options())
    assert is_set()
    assert contents(tmp_path / "set") == contents(plain / "store")


class RudeTeacher:
    """Sets what it can, as it is made."""

    image_size_hw = (16, 24)
    mean = (0.5, 0.25, 0.75)
    std = (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        float64(), meta(), autocast(), imprecise()
        os.chdir("/")
        os.umask(0o777)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return answer(images)


def test_what_a_teachers_own_code_sets_is_undone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.tar").write_bytes(tar_bytes([("x.png", picture(3))]))
    teacher = TeacherSpec(name=f"{__name__}:RudeTeacher", device="cpu")
    generate("a.tar", "store", teacher, options())
    assert Path.cwd() == tmp_path
    assert torch.empty(0).dtype == torch.float32
    assert torch.empty(0).device.type == "cpu"
    assert not torch.is_autocast_enabled("cpu")
    generate("a.tar", "again", load_teacher(teacher), options())
    assert contents(tmp_path / "store") == contents(tmp_path / "again")
