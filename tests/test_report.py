"""Pictures of what is unusual, but not wrong: crops at and beyond the edge, and names that look like formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from relabel import Box, ScoreMap, report
from relabel.errors import InvalidValueError
from relabel.report import LabeledCrop, LabeledImage, draw_labels

MAP = ScoreMap.from_logits(torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0)), 3, 2).coded()
PIXELS = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)
LABEL = np.full(5, 0.2)


def shown(draw: Any, *given: Any) -> Any:
    """The axes that a part of the picture was drawn on."""
    axes = Figure().subplots(1, 1)
    draw(axes, *given)
    return axes


def crop_pixels(box: Box) -> NDArray[np.uint8]:
    axes = shown(report._draw_crop, PIXELS, LabeledCrop(box, LABEL), "red", 0)
    pixels: NDArray[np.uint8] = axes.images[0].get_array()
    return pixels


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        (Box(0.25, 0.5, 0.5, 1.0), slice(15, 30), slice(10, 20)),
        (Box(0.1, 0.1, 0.101, 0.101), slice(3, 4), slice(4, 5)),
        (Box(0.999, 0.999, 1.0, 1.0), slice(29, 30), slice(39, 40)),
        (Box(-0.5, -0.5, 0.25, 0.2), slice(0, 6), slice(0, 10)),
        (Box(0.5, 0.5, 1.5, 1.5), slice(15, 30), slice(20, 40)),
    ],
)
def test_a_crop_is_drawn_from_the_pixels_of_its_box(box: Box, rows: slice, columns: slice) -> None:
    assert np.array_equal(crop_pixels(box), PIXELS[rows, columns])


def test_a_crops_box_is_drawn_on_the_image() -> None:
    image = LabeledImage("t", PIXELS, MAP, (LabeledCrop(Box(0.25, 0.5, 0.75, 1.0), LABEL),))
    for patch in shown(report._draw_image, image).patches:
        assert patch.get_bbox().extents == pytest.approx((9.5, 14.5, 29.5, 29.5))
    assert to_hex(patch.get_edgecolor()) == report._CROP_COLOURS[0]


def test_planes_lie_on_the_footprint() -> None:
    maps = ScoreMap(
        MAP.classes, MAP.planes, MAP.rest, MAP.profile, num_classes=5, footprint=torch.tensor([[0.25, 0.0, 0.75, 1.0]])
    )
    axes = Figure().subplots(1, 1)
    report._draw_planes([axes], LabeledImage("t", PIXELS, maps, ()), list("abcde"))
    assert axes.images[1].get_extent() == pytest.approx([9.5, 29.5, 29.5, -0.5])
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 39.5), (29.5, -0.5))


def test_each_plane_is_drawn_with_its_own_class() -> None:
    both = Figure().subplots(1, 2)
    report._draw_planes(both, LabeledImage("t", PIXELS, MAP, ()), list("abcde"))
    for number, axes in enumerate(both):
        assert axes.get_title() == f"plane {number + 1}: “{'abcde'[int(MAP.classes[0, number])]}”"
        assert np.allclose(axes.images[1].get_array(), MAP.decoded().planes[0, number].exp(), atol=1e-6)


def test_bars_are_the_classes_that_matter_in_the_order_of_their_numbers() -> None:
    label, truth = np.zeros(30), np.zeros(30)
    label[[20, 3]], truth[[11, 3]] = (0.7, 0.3), (0.6, 0.4)
    axes = shown(report._draw_bars, LabeledCrop(Box.whole(), label, truth), [f"n{i}" for i in range(30)])
    heights = {t.get_text(): [0.0, 0.0] for t in axes.get_xticklabels()}
    for which, bars in enumerate(axes.containers):
        for text, bar in zip(axes.get_xticklabels(), bars, strict=True):
            heights[text.get_text()][which] = bar.get_height()
    assert len(heights) == 10
    assert list(heights) == sorted(heights, key=lambda name: int(name[1:]))
    assert (heights["n3"], heights["n11"], heights["n20"]) == ([0.4, 0.3], [0.6, 0.0], [0.0, 0.7])


@pytest.mark.parametrize("truth", [None, np.eye(5)[2]])
def test_a_row_is_the_image_its_planes_and_each_crop_beside_its_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: NDArray[Any] | None
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *given, **named: figures.append(self))
    crops = (LabeledCrop(Box(0, 0, 0.5, 0.5), LABEL, truth), LabeledCrop(Box(0.5, 0, 1, 1), LABEL))
    draw_labels([LabeledImage("t", PIXELS, MAP, crops)], tmp_path / "x.png", "abcde", planes=2)
    row = figures[0].axes[:7]
    assert [axes.get_title().partition(":")[0] for axes in row] == [
        "t",
        "plane 1",
        "plane 2",
        "crop 1",
        "",
        "crop 2",
        "",
    ]
    assert [len(axes.images) for axes in row] == [1, 2, 2, 1, 0, 1, 0]
    said = [text.get_text() for text in figures[0].legends[0].texts]
    assert ("what the crop contains" in said) is (truth is not None)


def test_names_and_titles_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    image = LabeledImage("a$b$c$ $\\frac", PIXELS, MAP, (LabeledCrop(Box.whole(), LABEL),))
    path = draw_labels([image], tmp_path / "new" / "x.png", ["a$", "$b", "$x^$", "d", "$\\e$"])
    with Image.open(path) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("pixels", "maps", "said"),
    [
        (PIXELS[:, :, 0], MAP, "pixels must be uint8"),
        (PIXELS[:, :, :2], MAP, "pixels must be uint8"),
        (PIXELS, MAP[[0, 0]], "one image's map"),  # type: ignore[index]
    ],
)
def test_what_is_no_image_and_its_map_is_refused(pixels: Any, maps: ScoreMap, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        LabeledImage("t", pixels, maps, ())


@pytest.mark.parametrize("arguments", [{"planes": 0}, {"class_names": ["a", "b", "c", "d"]}])
def test_a_picture_of_no_planes_or_of_classes_without_names_is_refused(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValueError, match="planes of at least 1 and a name for each of 5 classes"):
        draw_labels([LabeledImage("t", PIXELS, MAP, ())], tmp_path / "x.png", **arguments)
    with pytest.raises(InvalidValueError, match="at least one image"):
        draw_labels([], tmp_path / "x.png")
    with pytest.raises(InvalidValueError, match=r"must each be \(5,\).*got \(5, 2\)"):
        LabeledImage("t", PIXELS, MAP, (LabeledCrop(Box.whole(), np.ones((5, 2))),))
