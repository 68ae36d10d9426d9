"""In which frame a trainer's code loads images: as they are decoded, or turned upright by their EXIF orientation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.geometry.frames import image_size_hw, is_transposing, shows_whole
from relabel.images import header_facts
from relabel.images.loaded import likeness
from relabel.loader.maps import LabelMaps
from relabel.manifest import Frame

_TRIES = 3
"""Images of an orientation that are looked at, until one tells the frame: some look alike in both."""
_HEADERS = 64
"""Files whose orientation is looked up where the store knows none."""
_FRAMES: tuple[Frame, Frame] = ("decoded", "upright")
GIVE_FRAME = (
    "say so with frame='decoded' (no EXIF rotation, as Image.open loads) or frame='upright' (after exif_transpose)"
)


@dataclass(frozen=True, slots=True)
class Photograph:
    """What is known of an image: (height, width) as decoded, and EXIF orientation, 1 to 8; 0 where nothing is."""

    size_hw: tuple[int, int]
    orientation: int

    @property
    def sizes_hw(self) -> dict[Frame, tuple[int, int]]:
        """Its size in each frame."""
        height, width = self.size_hw
        return {
            "decoded": self.size_hw,
            "upright": (width, height) if is_transposing(self.orientation) else self.size_hw,
        }

    def frames_of_size(self, size_hw: tuple[int, int]) -> frozenset[Frame]:
        """The frames in which an image of a size can be this one, whole."""
        return frozenset(frame for frame, own_hw in self.sizes_hw.items() if shows_whole(size_hw, own_hw))


def check_size(name: Callable[[], str], image: Any, labeled_hw: tuple[int, int]) -> None:
    """Refuse a loaded image of another shape than that of (height, width), which was labelled; (0, 0) is not known.

    Args:
        name: what to call it, if need be.
        image: the image; bytes, of a transform that decodes them itself, have no shape yet.
        labeled_hw: the size that it had.

    Raises:
        LabelError: it is another.
        InvalidValueError: it is no kind of image that is known.
    """
    if labeled_hw == (0, 0) or isinstance(image, bytes):
        return
    loaded_hw = loaded_size_hw(image)
    if loaded_hw != labeled_hw and not shows_whole(loaded_hw, labeled_hw):
        raise LabelError(
            f"{name()} is loaded as {loaded_hw[0]} x {loaded_hw[1]} pixels (height x width), and was labelled as "
            f"{labeled_hw[0]} x {labeled_hw[1]}: it was replaced, cropped, turned or resized to another shape since, "
            "so its label is of something else. Crops belong into the transform; else label images as they are now"
        )


def loaded_size_hw(image: Any) -> tuple[int, int]:
    """(height, width) of an image of any kind that is known.

    Raises:
        InvalidValueError: it is of none.
    """
    try:
        return image_size_hw(image)
    except (AttributeError, IndexError) as error:
        raise InvalidValueError(
            "an image is one of Pillow's, a tensor (..., height, width) or an array (height, width, ...); got a "
            f"{type(image).__name__}"
        ) from error


class Loading(Protocol):
    """Images as code loads them, by index."""

    def name(self, index: int) -> str:
        """What the image is called in errors."""

    def encoded(self, index: int) -> bytes | None:
        """Its file; None where it cannot be had."""

    def image(self, index: int) -> Any:
        """It, as it is loaded."""


def frame_of_dataset(maps: LabelMaps, rows: NDArray[np.int64], indices: NDArray[np.int64], images: Loading) -> Frame:
    """The frame in which a data set gives images, told by a few that EXIF turns; the store's where none is.

    Args:
        maps: the store.
        rows: (n,) of the images.
        indices: (n,) of the same, in `images`.
        images: the data set's.

    Raises:
        InvalidValueError: the data set gives some in one frame and some in the other, or what is neither; or it cannot
            be told; or the frame is not the store's, and the store does not know its images' orientations.
    """
    left = frozenset(_FRAMES)
    told: list[str] = []
    groups = list(_groups(maps, rows, indices, images))
    for group in groups:
        index, frames = _of_group(group, images)
        left &= frames
        if len(frames) != len(_FRAMES):
            told.append(f"{images.name(index)} (orientation {group[0][1].orientation}) {''.join(frames) or 'neither'}")
    if not left:
        raise InvalidValueError(
            "the dataset's loader must give all images as they are decoded, or all turned upright by their EXIF "
            f"orientation. It gives {', '.join(told)}. Mend it (crops, flips and resizes belong into the transform), "
            "and label images again that were replaced"
        )
    if groups and not told:
        raise InvalidValueError(
            f"images have an EXIF orientation, as {images.name(groups[0][0][0])}, and it cannot be told by those "
            f"looked at whether the dataset's loader turns them upright: {GIVE_FRAME}"
        )
    return next(iter(left)) if told else maps.frame


def _groups(
    maps: LabelMaps, rows: NDArray[np.int64], indices: NDArray[np.int64], images: Loading
) -> Iterator[list[tuple[int, Photograph]]]:
    """Some photographs of each orientation that there is, 2 to 8, by their index."""
    orientations = maps.orientations(rows)
    for orientation in range(2, 9):
        places = spread(np.flatnonzero(orientations == orientation), _TRIES)
        sizes_hw = maps.in_frame("decoded").sizes_hw(rows[places]).tolist()
        group = [
            (index, Photograph((height, width), orientation))
            for index, (height, width) in zip(indices[places].tolist(), sizes_hw, strict=True)
        ]
        if group:
            yield group
    for index in indices[spread(np.flatnonzero(orientations == 0), _HEADERS)].tolist():
        data = file_of(images, index)
        try:
            facts = None if data is None else header_facts(data)
        except ImageError:
            continue
        if facts is not None and facts.orientation != 1:
            yield [(index, Photograph(facts.size_hw, facts.orientation))]


def file_of(images: Loading, index: int) -> bytes | None:
    """An image's file; None where it cannot be read, of which whoever asks for the item is told."""
    try:
        return images.encoded(index)
    except OSError:
        return None


def spread(places: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most `count` of some places, from the first to the last."""
    return places[np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.intp))]


def _of_group(group: Sequence[tuple[int, Photograph]], images: Loading) -> tuple[int, frozenset[Frame]]:
    """What photographs of one orientation tell: of the first that tells the frame; else both, or neither of all."""
    outcomes = []
    for index, photograph in group:
        outcomes.append((index, _frames(index, photograph, images)))
        if len(outcomes[-1][1]) == 1:
            return outcomes[-1]
    return max(outcomes, key=lambda outcome: len(outcome[1]))


def _frames(index: int, photograph: Photograph, images: Loading) -> frozenset[Frame]:
    """The frames in which a loaded photograph can be, by its size and its pixels."""
    try:
        image = images.image(index)
    except ImageError:
        # Whoever asks for this item is told.
        return frozenset(_FRAMES)
    if isinstance(image, bytes):
        return frozenset(_FRAMES)
    left = photograph.frames_of_size(loaded_size_hw(image))
    data = file_of(images, index)
    try:
        alike = None if data is None else likeness(image, data, photograph.orientation)
    except ImageError:
        # What is no image's file has only its size to go by.
        return left
    return left if alike is None else left.intersection(itertools.compress(_FRAMES, alike))


def frame_of_sample(image: Any, photograph: Photograph, key: str, told: int | None) -> Frame:
    """The frame of an image that a stream has decoded.

    Args:
        image: of any kind.
        photograph: what was labelled, of an orientation that is not 1.
        key: of the sample.
        told: the orientation that the image still has; 1 where it has an Exif without one, which is what remains of
            it once an image was turned; None where it has nothing that could tell.

    Raises:
        LabelError: the image has another orientation.
        InvalidValueError: it cannot be told.
    """
    if not photograph.orientation:
        return _frame_of_unknown(image, key, told)
    if told is not None and told not in (1, photograph.orientation):
        raise LabelError(
            f"the sample {key!r} has the EXIF orientation {told}, and had {photograph.orientation} when it was "
            "labelled: it was replaced, or turned. Label images as they are now"
        )
    left = photograph.frames_of_size(loaded_size_hw(image))
    if len(left) > 1 and told is not None:
        left = frozenset(["upright" if told == 1 else "decoded"])
    if len(left) > 1:
        raise InvalidValueError(
            f"the image of the sample {key!r} had the EXIF orientation {photograph.orientation} when it was labelled, "
            f"and what is given ({type(image).__name__}) does not tell whether it was turned by it: put LabeledSample "
            "before decode, or " + GIVE_FRAME
        )
    # What is neither is refused by either's size.
    return next(iter(left), "decoded")


def _frame_of_unknown(image: Any, key: str, told: int | None) -> Frame:
    """That of an image of which the store knows nothing, so that one that was turned is like any other."""
    # One of Pillow's that came without Exif has lost nothing.
    if told == 1 or (told is None and not hasattr(image, "info")):
        raise InvalidValueError(
            f"the store does not know how the image of the sample {key!r} was held (it was written without images=), "
            f"and what is given ({type(image).__name__}) does not tell whether it was turned: put LabeledSample before "
            "decode, or " + GIVE_FRAME
        )
    return "decoded"
