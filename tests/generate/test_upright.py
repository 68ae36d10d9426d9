"""`generate --exif upright`: the maps of photographs that EXIF turns are those of the photographs turned by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images.test_decode import photograph_like
from labeled import label
from PIL import Image, ImageOps

import relabel
from relabel.images import decode_and_fit
from relabel.images.device import decode_and_fit_on
from relabel.manifest import Preprocessing
from relabel.store import StoreReader
from relabel.teacher import TeacherSpec
from relabel.verify import verify_shards
from relabel.worth import LabelsOptions, RerunOptions, verify_labels


def held(orientation: int, fmt: str = "PNG") -> bytes:
    """A picture, 60 high and 80 wide as decoded, of an EXIF orientation."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    photograph_like().rotate(orientation, translate=(orientation, 3)).save(stream, fmt, exif=exif)
    return stream.getvalue()


def turned_by_hand(data: bytes) -> bytes:
    """The same upright, without Exif."""
    stream = io.BytesIO()
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    Image.fromarray(np.asarray(image)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures of every orientation, and the same turned by hand, under the same names."""
    root = tmp_path_factory.mktemp("pictures")
    for orientation in range(1, 9):
        data = held(orientation)
        for folder, content in (("held", data), ("turned", turned_by_hand(data))):
            (root / folder / "a").mkdir(parents=True, exist_ok=True)
            (root / folder / "a" / f"{orientation}.png").write_bytes(content)
    return root / "held", root / "turned"


@pytest.mark.parametrize("fit", ["squash", "center", "letterbox"])
def test_maps_are_those_of_images_turned_by_hand_and_facts_of_the_decoded(
    folders: tuple[Path, Path], tmp_path: Path, fit: Any
) -> None:
    teacher = TeacherSpec(name="labeled:first", device="cpu", fit=fit, exif="upright")
    ours = StoreReader(label(folders[0], tmp_path / "ours.zarr", teacher))
    theirs = StoreReader(label(folders[1], tmp_path / "theirs.zarr", teacher))
    assert ours.manifest.frame == "upright"
    for mine, other in zip(vars_of(ours), vars_of(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    table = ours.table(0)
    assert table.orientations.tolist() == list(range(1, 9))
    assert (table.sizes_hw == (60, 80)).all()
    assert verify_shards(ours.files.where, str(folders[0]), show_progress=False).is_clean


def vars_of(reader: StoreReader) -> tuple[Any, ...]:
    """Of all rows: classes, scores, profile, footprints."""
    rows = reader.read(np.arange(8))
    boxes = rows.footprint if isinstance(rows.footprint, np.ndarray) else np.array(rows.footprint.xyxy)
    return rows.classes, rows.scores, rows.profile, boxes


def test_the_teacher_runs_again_on_upright_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    spec = TeacherSpec(name="labeled:first", device="cpu", exif="upright")
    store = label(folders[0], tmp_path / "labels.zarr", spec)
    options = LabelsOptions(
        count=8, crops=1, rerun=RerunOptions(teachers=(spec.name,), device="cpu"), show_progress=False
    )
    report = verify_labels(store, str(folders[0]), options)
    assert report.is_clean
    # Crops are of the upright image too: their labels are worth what those of the images turned by hand are.
    by_hand = verify_labels(label(folders[1], tmp_path / "turned.zarr", spec), str(folders[1]), options)
    assert str(report.lines) == str(by_hand.lines)


def test_stores_of_two_frames_are_compared_in_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Of a teacher that reads colours, whose maps turn with the image, up to what resizing and coding round."""
    stores = [tmp_path / f"{exif}.zarr" for exif in ("ignored", "upright")]
    for store in stores:
        spec = {"name": "colour_teacher:make", "image_size_hw": (160, 160), "fit": "letterbox", "exif": store.stem}
        label(folders[0], store, TeacherSpec(**spec, device="cpu"))
    for pair in (stores, stores[::-1]):
        found = relabel.diff(*pair, show_progress=False)
        assert found.other_footprint.count == 0
        assert found.apart_largest <= found.step
        assert [line.partition(":")[0] for line in found.differences] == ["preprocessing.exif"]


@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_a_device_turns_its_pixels_too(orientation: int) -> None:
    view = Preprocessing(image_size_hw=(24, 24), mean=(0.5,) * 3, std=(1.0,) * 3, fit="center", exif="upright")
    data = held(orientation, "JPEG")
    (found,) = decode_and_fit_on(torch.device("cpu"), [data], [view])
    (expected,) = decode_and_fit(turned_by_hand(data), [view])
    assert found is not None
    assert torch.equal(found[0].pixels, expected.pixels)
    assert found[0].footprint == expected.footprint
    assert found[0].facts == decode_and_fit(data, [view])[0].facts
