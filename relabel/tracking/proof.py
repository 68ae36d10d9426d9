"""The proof that a pipeline shows what it tells: it is run on position images, and what comes out is looked at."""

from __future__ import annotations

import copy
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.agreement import Agreement, agreement
from relabel.tracking.generators import kept
from relabel.tracking.places import position_image

_SIZES_HW = ((160, 240), (64, 48), (240, 160), (300, 200), (48, 64), (224, 224))
"""Wide and high ones, and small ones as of CIFAR, which a crop of 224 pixels refuses: then the others are taken."""
_MORE_HW = ((375, 500), (32, 32), (100, 300), (240, 160), (160, 240), (1024, 768))
"""Of unknown steps, which may do something to large, small or long ones; two have a frame, to be trimmed."""
_FRAMED = {9: 0, 10: 255}
FRAME = 8
"""Of a side, one part."""
FRAMED = 1 / FRAME + 0.05
"""Of a side, with what a blur carries inside."""
_DRAWS = 24
_VIEWS = 3
"""Of the outputs of a draw are looked at: of ten crops each seven times then."""
_DRAWS_OF_KNOWN = 12
"""A flip of one half that is not told goes unnoticed once in 4,096 times."""
_DRAWS_IN_DOUBT = 120
"""Of an unknown step, once an output was wrong: what is done to one image in twenty is then done to some more."""
_ENOUGH = 6
"""Faults, after which no more images are drawn."""
_SEED = 7916
"""Its first 24 numbers in [0, 1), of Python, numpy and torch, reach below 0.006 and above 0.994, so that what is done
to one image of a hundred is done once. Those of Python's 0 are all above 0.25."""
_SHARE = 0.1
"""Of the outputs must be wrong where one may be chance: a stretched contrast, noise and an erased part at once."""
_SHARE_OF_UNKNOWN = 0.01
"""Honest steps: one output in 2,000."""

ORIENTATION, _TURNED = 0x0112, 6
_TURNED_SEEDS = (1, 3, 5)
WAYS_OUT = (
    "A step moves pixels that nobody follows; leave it out, or say what it shows with relabel.register_view. If it "
    "moves none and only hides them, as masks and fog do, list it in untracked="
)

KINDS: dict[str, Callable[[Any], Any]] = {
    "an image of Pillow's": Image.fromarray,
    "a uint8 tensor (3, h, w)": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
    "a float tensor (3, h, w)": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 255,
    "a uint8 array (h, w, 3)": lambda pixels: pixels,
}
"""What a pipeline may take, in the order in which it is tried."""


def as_loaded(pixels: NDArray[np.uint8], like: Any) -> Any:
    """The pixels (h, w, 3) of a position image, of the kind of an image that a data set loads."""
    if isinstance(like, torch.Tensor):
        channels = torch.from_numpy(pixels).permute(2, 0, 1)[: 3 if like.ndim == 2 else like.shape[-3]].contiguous()
        scaled = channels.to(like.dtype) / 255 if like.dtype.is_floating_point else channels.to(like.dtype)
        return tv_tensors.wrap(scaled[0] if like.ndim == 2 else scaled, like=like)
    if isinstance(like, np.ndarray):
        same = pixels[..., 0] if like.ndim == 2 else pixels[..., : like.shape[2]]
        return (same / 255 if np.issubdtype(like.dtype, np.floating) else same).astype(like.dtype)
    image = Image.fromarray(pixels)
    if "exif" in getattr(like, "info", ()):
        # A step may turn the image by it.
        image.info["exif"] = like.info["exif"]
    if isinstance(like, bytes):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()
    return image.convert(like.mode)


def prove(run: Callable[[Any], tuple[Any, Any]], name: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
    """Run a copy of something on position images, and compare what it shows with what it tells.

    No random state is left changed. An output of which it tells that it is not exact is not
    compared; steps that are to be ignored should be left out of `run`.

    Args:
        run: from an image to an output and its `View`, or to several and a tuple of views.
        name: what it is called in the error.
        kinds: of images that it may take, of `KINDS`; the first one that it takes is given.

    Raises:
        InvalidValueError: what it tells is not what it shows; or nothing of that can be compared, or it takes none of
            the images.
    """
    with kept(run):
        prove_copy(copy.deepcopy(run), name, kinds)


def prove_copy(run: Callable[[Any], tuple[Any, Any]], name: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
    """As `prove`, of what is a copy already."""
    with undisturbed():
        found = _drawn(run, name, kinds, _DRAWS)
    if all(each is None for each in found):
        raise InvalidValueError(
            f"{name} shows nothing that could be compared with what it tells: its outputs are plain, hold fewer than "
            "some 100 pixels, or show what a step before it moved and nobody followed. If it moves no pixel and only "
            "hides them, as masks and fog do, list it in untracked="
        )
    _refuse(found, name, _SHARE_OF_UNKNOWN)


def prove_known(run: Callable[[Any], tuple[Any, Any]], name: str) -> None:
    """As `prove`, of a pipeline whose every step is known, or was proved: only what is sure is a fault.

    Strong blur of a small output leaves so little of the places that a true view may look wrong.

    Raises:
        InvalidValueError: what it tells is not what it shows.
    """
    with kept(run), undisturbed():
        try:
            found = _drawn(run, name, tuple(KINDS), _DRAWS_OF_KNOWN)
        except InvalidValueError:
            # It takes images of another kind, or of other sizes.
            return
    _refuse([each for each in found if each is not None and (each.is_sure or not each.fault)], name, _SHARE)


def _refuse(found: Sequence[Agreement | None], name: str, share: float) -> None:
    if fault := verdict(found, share):
        raise InvalidValueError(
            f"{name} does not show what it tells: of {len(found)} images whose pixels say where they are, {fault}. "
            f"{WAYS_OUT}"
        )


def verdict(found: Sequence[Agreement | None], share: float = _SHARE) -> str | None:
    """What is wrong with outputs, None if nothing is: how many have which fault; one, or that `share`, is forgiven."""
    faults = [each for each in found if each is not None and each.fault]
    told = sum(each is not None for each in found)
    if not any(each.is_sure for each in faults) and len(faults) <= max(1, share * told):
        return None
    kinds = Counter(str(each.fault) for each in faults)
    return ", ".join(f"{count} {fault}" for fault, count in kinds.most_common(3))


def _drawn(
    run: Callable[[Any], tuple[Any, Any]], name: str, kinds: Sequence[str], draws: int
) -> list[Agreement | None]:
    """What came of all images."""
    sizes_hw = _SIZES_HW if draws < _DRAWS else (*_SIZES_HW, *_MORE_HW)
    pixels = [_framed(position_image(seed, size_hw), seed) for seed, size_hw in enumerate(sizes_hw)]
    error: Exception | None = None
    for kind in kinds:
        found: list[Agreement | None] = []
        refused: set[int] = set()
        faults = 0
        for draw in range(draws if draws < _DRAWS else _DRAWS_IN_DOUBT):
            if draw >= draws and not faults:
                break
            seed = draw % len(pixels)
            if seed in refused:
                continue
            try:
                output, view = run(_turned(KINDS[kind](pixels[seed].copy()), seed))
            except Exception as caught:  # noqa: BLE001 - not ours, it may raise anything
                error = error or caught
                refused.add(seed)
                continue
            found += compared(*_some(output, view, draw), seed, sizes_hw[seed], FRAMED * (seed in _FRAMED))
            faults = sum(each is not None and each.fault is not None for each in found)
            if faults >= _ENOUGH:
                return found
        if len(refused) < len(pixels):
            return found
    raise InvalidValueError(
        f"{name} takes no image to prove it on: {type(error).__name__}: {error}. Tried were {', '.join(kinds)}"
    ) from error


def _some(output: Any, view: Any, draw: int) -> tuple[Any, Any]:
    """Of more than some outputs of one draw those, others of each draw."""
    if isinstance(view, View) or len(view) <= _VIEWS:
        return output, view
    chosen = [(draw * _VIEWS + number) % len(view) for number in range(_VIEWS)]
    return [output[index] for index in chosen], [view[index] for index in chosen]


def _framed(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    if seed not in _FRAMED:
        return pixels
    height, width = (side // FRAME for side in pixels.shape[:2])
    framed = np.full_like(pixels, _FRAMED[seed])
    framed[height:-height, width:-width] = pixels[height:-height, width:-width]
    return framed


def _turned(image: Any, seed: int) -> Any:
    if isinstance(image, Image.Image) and seed in _TURNED_SEEDS:
        exif = Image.Exif()
        exif[ORIENTATION] = _TURNED
        image.info["exif"] = exif.tobytes()
    return image


def compared(
    output: Any, view: Any, seed: int, size_hw: tuple[int, int], margin: float = 0.0
) -> Iterator[Agreement | None]:
    """The agreement of an output with its view, or of several with theirs; none of what is told not to be exact."""
    pairs = [(output, view)] if isinstance(view, View) else zip(output, view, strict=True)
    for image, shown in pairs:
        if shown.is_exact:
            yield agreement(image, shown, seed, size_hw, margin)


@contextmanager
def undisturbed(seed: int = _SEED) -> Iterator[None]:
    """Inside, random numbers are drawn from a seed that is always the same; afterwards all is as it was before.

    Of what Python, numpy and torch draw from; generators of a step's own are for `kept`.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - transforms draw from it
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    # Not torch.manual_seed: it would seed CUDA, too, once that is begun.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
