"""Streams of samples, as webdataset makes them of tars, whose crops know their label."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.images.classes import label_of, numbers_of
from relabel.images.decode import decode_rgb
from relabel.images.loaded import own_orientation, pil_upright
from relabel.loader.crops import Shown, check_unlabeled, crop_label_of, ticket_of, without_label
from relabel.loader.frames import Photograph, check_size, frame_of_sample
from relabel.loader.maps import LabelMaps
from relabel.manifest import Frame
from relabel.naming import image_suffixes as suffixes_of_image
from relabel.tracking import TrackedTransform, tracked
from relabel.tracking.proof import prove_known

_MOST_BAD = 16
"""Bad images that are left out before it matters whether most are bad: then it is not they who are wrong."""

_log = logging.getLogger(__name__)


def is_pipeline(dataset: object) -> bool:
    """Whether a data set is a pipeline of webdataset's, with ``map``."""
    is_of_webdataset = any(kind.__module__.startswith("webdataset.") for kind in type(dataset).__mro__)
    return is_of_webdataset and hasattr(dataset, "map")


def labeled_pipeline(dataset: Any, maps: LabelMaps, transform: Any = None, **options: Any) -> Any:
    """A pipeline with a `LabeledSample` at its end."""
    return dataset.map(LabeledSample(maps, transform, **options))


def proved(
    transform: Callable[[Any], Any] | None, *, geometry: Literal["ignore", "refuse"], check: bool
) -> TrackedTransform:
    """A transform, tracked; with `check` it has shown what it tells."""
    follow = tracked(transform, geometry=geometry, check=check)
    if check and transform is not None:
        prove_known(follow.for_proof(), f"the transform {type(transform).__name__}")
    return follow


class LabeledSample:
    """As `Labeled` for streams: from a sample's mapping, as webdataset makes it, to ``(output, ticket)``.

    ``WebDataset(urls).map(LabeledSample(maps, transform))``; such items may be batched, unbatched, shuffled and batched
    again. Picklable if the transform is. A sample's image is the member that `relabel.generate` takes: x.jpg, and not
    x.seg.png beside it. Bytes are decoded here, to Pillow's RGB as ``decode("pil")`` does, and only where there is a
    label; images that were decoded before are taken too.

    Args:
        maps: the store.
        transform: from an image to what the trainer takes; None keeps the image.
        key: from a sample's ``__key__`` to its key in the store, where that is another.
        image_suffixes: the names under which a sample may hold its image, the first that it has; None is
            `relabel.generate`'s rule.
        unlabeled: what to do with a sample that the store has no label for, or whose image cannot be read or is not
            the one that was labelled: "raise", or "drop", that is, answer None, which webdataset's ``map`` leaves out.
        frame: "decoded" or "upright", the frame of images, where it cannot be told: tensors and arrays have lost their
            Exif. With "upright" what is decoded here is turned.
        geometry, check: as for `Labeled`.
        tickets: False for `CropLabel` in place of tickets, which `relabel.collate` takes.

    Attributes:
        dropped: how many bad images this process has left out; the first is logged.
    """

    def __init__(  # noqa: PLR0913 - its keywords are the public way to say what cannot be found out
        self,
        maps: LabelMaps,
        transform: Callable[[Any], Any] | None,
        *,
        key: Callable[[str], str] | None = None,
        image_suffixes: Sequence[str] | None = None,
        unlabeled: Literal["raise", "drop"] = "raise",
        frame: Frame | None = None,
        geometry: Literal["ignore", "refuse"] = "ignore",
        check: bool = True,
        tickets: bool = True,
    ) -> None:
        check_unlabeled(unlabeled)
        #: For `relabel.check_views`: from a row and its image to what is taken for that.
        self.stand_in: Callable[[int, Any], Any] | None = None
        self._key = key
        self._label: Callable[[LabelMaps, int, Shown, int], Any] = ticket_of if tickets else crop_label_of
        self.maps = maps
        self._suffixes = None if image_suffixes is None else tuple(image_suffixes)
        self._drop = unlabeled == "drop"
        self._transform = proved(transform, geometry=geometry, check=check)
        self._numbers = numbers_of(maps.manifest.data.class_names)
        self._frame = frame
        self._taken = self.dropped = 0
        # What all rows are is read here, so that forked workers share it and spawned ones receive it.
        maps.in_frame(frame or maps.frame).prepare()

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """The transformed image of a sample, and which label it has; its ground truth is what ``cls`` says.

        None for a sample that holds no image and that the store does not know: `relabel.generate` passes it over.

        Raises:
            LabelError: the store has no label for it, with `unlabeled` "raise".
            ImageError: its image cannot be decoded, likewise.
            InvalidValueError: the sample is no mapping, has no key, no image or several, or a ``cls`` that is no class;
                or the frame of its image cannot be told.
        """
        if not isinstance(sample, Mapping) or "__key__" not in sample:
            what = sorted(map(str, sample)) if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
            raise InvalidValueError(
                f"a sample is a mapping of names to values, with __key__; got {what}. Map LabeledSample before "
                "to_tuple and batched, or in their place"
            )
        key = sample["__key__"] if self._key is None else self._key(sample["__key__"])
        names = self._names(sample)
        rows = self.maps.find([key]) if self._drop or not names else self.maps.rows([key])
        row = int(rows[0])
        if not self.maps.has_label(rows):
            if self._drop or (row < 0 and not names):
                return None
            raise without_label(self.maps, [key], 1)
        if len(names) != 1:
            raise InvalidValueError(
                f"the sample {key!r} must hold one image; {' and '.join(names) or 'none'} is one of {sorted(sample)}. "
                "Give image_suffixes to say which"
            )
        try:
            image, maps = self._loaded(sample[names[0]], row, key)
        except (ImageError, LabelError) as error:
            if not self._drop or self._is_hopeless():
                raise
            if self.dropped == 1:
                _log.warning("left out, as any further bad image is: %s", error)
            return None
        self._taken += 1
        if self.stand_in is not None:
            image = self.stand_in(row, image)
        output, shown = self._transform(image)
        if isinstance(shown, tuple):
            output = list(output)
        return output, self._label(maps, row, shown, self._class_of(sample))

    def _names(self, sample: Mapping[str, Any]) -> list[str]:
        """Under which names a sample holds its image; there should be one."""
        if self._suffixes is not None:
            return [name for name in self._suffixes if name in sample][:1]
        return suffixes_of_image(name for name in sample if isinstance(name, str) and not name.startswith("__"))

    def _loaded(self, value: Any, row: int, key: str) -> tuple[Any, LabelMaps]:
        """A sample's image, decoded, and the maps in its frame."""
        orientation = int(self.maps.orientations([row])[0])
        height, width = self.maps.in_frame("decoded").sizes_hw([row])[0].tolist()
        photograph = Photograph((height, width), orientation)
        image, frame, told = value, self._frame, own_orientation(value)
        if isinstance(value, bytes | bytearray | memoryview):
            try:
                image, found = decode_rgb(bytes(value))
            except ImageError as error:
                raise ImageError(f"the image of the sample {key!r} cannot be decoded: {error}") from error
            if frame == "upright" and found != 1:
                image = pil_upright(image, found)
            if not orientation:
                frame = frame or "decoded"
            # A copy without Exif may have been turned before it lost it, or not.
            told = None if found == 1 else found
        if frame is None and orientation != 1:
            frame = frame_of_sample(image, photograph, key, told)
        check_size(lambda: f"the sample {key!r}", image, photograph.sizes_hw[frame or "decoded"])
        return image, self.maps if frame is None else self.maps.in_frame(frame)

    def _is_hopeless(self) -> bool:
        """Count a bad image; whether so many were that the stream is wrong, and not they."""
        self.dropped += 1
        return self.dropped > max(_MOST_BAD, self._taken)

    def _class_of(self, sample: Mapping[str, Any]) -> int:
        """What ``cls`` says, -1 where there is none; a name as `relabel.generate` numbers it."""
        said = sample.get("cls", -1)
        try:
            if isinstance(said, bytes | str):
                text = said.decode() if isinstance(said, bytes) else said
                return label_of(text.strip(), self._numbers)
            return int(said)
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidValueError(
                f"the cls of sample {sample['__key__']!r} is no class number: {said!r}. Map it to one, or rename it"
            ) from error
