"""Handlers of the steps that crop, pad or mirror: what they show is a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relabel.geometry import Box
from relabel.geometry.frames import image_size_hw
from relabel.geometry.views import View
from relabel.tracking.handling import FLIPPED, FLIPPED_VERTICALLY, Shown, watched, watched_once


def _crop(tlhw: Sequence[float], image: Any) -> View:
    top, left, height, width = tlhw
    image_height, image_width = image_size_hw(image)
    # Not Box.from_crop: a crop of a padded image may well have nothing of the image.
    return View(
        Box(left / image_width, top / image_height, (left + width) / image_width, (top + height) / image_height)
    )


def mirrored(step: Any, image: Any) -> tuple[Any, Shown]:
    """Both versions of the horizontal flip hand back the very image that they leave alone."""
    output = step(image)
    return output, None if output is image else FLIPPED


def mirrored_vertically(step: Any, image: Any) -> tuple[Any, Shown]:
    """As `mirrored`, top to bottom."""
    output = step(image)
    return output, None if output is image else FLIPPED_VERTICALLY


def crop_v1(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomResizedCrop of torchvision v1 and of timm: ``get_params`` answers (top, left, height, width)."""
    output, crop = watched_once(step, "get_params", image)
    return output, _crop(crop, image)


def padded_crop_v1(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomCrop of torchvision v1, whose ``get_params`` sees the image after it was padded."""
    output, (top, left, height, width) = watched_once(step, "get_params", image)
    image_height, image_width = image_size_hw(image)
    pad_left, pad_top, pad_right, pad_bottom = _ltrb(step.padding)
    if step.pad_if_needed:
        pad_left += max(0, step.size[1] - (image_width + pad_left + pad_right))
        pad_top += max(0, step.size[0] - (image_height + pad_top + pad_bottom))
    return output, _crop((top - pad_top, left - pad_left, height, width), image)


def crop_v2(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomResizedCrop and RandomCrop of torchvision v2."""
    output, params = watched_once(step, "make_params", image)
    pad_left, pad_top = params.get("padding", (0, 0))[:2]
    crop = params["top"] - pad_top, params["left"] - pad_left, params["height"], params["width"]
    return output, _crop(crop, image)


def center_crop(step: Any, image: Any) -> tuple[Any, Shown]:
    """CenterCrop of both versions, and timm's that pads as they do."""
    output = step(image)
    # v2 hands back what it takes for no image, an array say.
    return output, None if output is image else centered(image_size_hw(output), image_size_hw(image))


def centered(size_hw: tuple[int, int], image_hw: tuple[int, int]) -> View:
    """The view of torchvision's centre crop."""
    top, left = (
        # A larger crop is padded, the odd pixel behind; else the start is rounded to the nearest even.
        -((crop - side) // 2) if crop > side else round((side - crop) / 2)
        for side, crop in zip(image_hw, size_hw, strict=True)
    )
    return View(Box.from_crop(top, left, *size_hw, image_hw))


def padded(step: Any, image: Any) -> tuple[Any, Shown]:
    """Pad of both versions."""
    output = step(image)
    return output, None if output is image else _padding(_ltrb(step.padding), image)


def padded_timm(step: Any, image: Any) -> tuple[Any, Shown]:
    """timm's RandomPad, whose ``get_params`` answers (left, top, right, bottom)."""
    output, ltrb = watched_once(step, "get_params", image)
    return output, _padding(ltrb, image)


def zoomed_out(step: Any, image: Any) -> tuple[Any, Shown]:
    """RandomZoomOut, which draws its padding only when it pads."""
    output, answers = watched(step, "make_params", image)
    return output, _padding(answers[0]["padding"], image) if answers else None


def _padding(ltrb: tuple[int, int, int, int], image: Any) -> View:
    left, top, right, bottom = ltrb
    height, width = image_size_hw(image)
    return _crop((-top, -left, height + top + bottom, width + left + right), image)


def _ltrb(padding: Any) -> tuple[int, int, int, int]:
    """torchvision's padding, one number, two (x, y) or four, as left, top, right, bottom."""
    if padding is None:
        return (0, 0, 0, 0)
    sides = (padding,) if isinstance(padding, int) else tuple(padding)
    sides = sides * (4 // len(sides))
    return sides[0], sides[1], sides[2], sides[3]


def crop_or_pad_timm(step: Any, image: Any) -> tuple[Any, Shown]:
    """timm's RandomCropOrPad, whose ``get_params`` answers (top, left), negative where it pads."""
    output, (top, left) = watched_once(step, "get_params", image)
    return output, _crop((top, left, *image_size_hw(output)), image)


def trimmed_timm(step: Any, image: Any) -> tuple[Any, Shown]:
    """timm's TrimBorder: as many pixels less on each side."""
    border = step.border_size
    height, width = image_size_hw(image)
    return step(image), _crop((border, border, height - 2 * border, width - 2 * border), image)


def five_crops(step: Any, image: Any) -> tuple[Any, Shown]:
    """FiveCrop: the four corners, row by row, and the centre."""
    output = step(image)
    return output, None if output is image else _corners(output[0], image)


def ten_crops(step: Any, image: Any) -> tuple[Any, Shown]:
    """TenCrop: the same again, of the mirrored image."""
    output = step(image)
    if output is image:
        return output, None
    turned = FLIPPED_VERTICALLY if step.vertical_flip else FLIPPED
    five = _corners(output[0], image)
    return output, (*five, *(turned.then(view) for view in five))


def _corners(crop: Any, image: Any) -> tuple[View, ...]:
    crop_hw, image_hw = image_size_hw(crop), image_size_hw(image)
    below, beside = (side - cut for side, cut in zip(image_hw, crop_hw, strict=True))
    starts = ((0, 0), (0, beside), (below, 0), (below, beside))
    return (*(_crop((*start, *crop_hw), image) for start in starts), centered(crop_hw, image_hw))


def classification_preset(step: Any, image: Any) -> tuple[Any, Shown]:
    """torchvision's ``weights.transforms()``: the shorter side resized, then a centre crop."""
    height, width = image_size_hw(image)
    (short,) = step.resize_size
    # As torchvision's resize cuts the fraction of the longer side.
    longer = int(short * max(height, width) / min(height, width))
    resized = (short, longer) if height <= width else (longer, short)
    output = step(image)
    return output, centered(image_size_hw(output), resized)
