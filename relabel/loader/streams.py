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
from relabel.loader.frames import Photograph, check_size, frame_of_sample, loaded_size_hw
from relabel.loader.maps import LabelMaps
from relabel.loader.rows import COMPARED, other_files
from relabel.manifest import Frame
from relabel.naming import image_suffixes as suffixes_of_image
from relabel.tracking import TrackedTransform, tracked
from relabel.tracking.proof import prove_known

_MOST_BAD = 16
"""Bad images that are left out before it matters whether most are bad: then it is not they who are wrong."""

_MOST_UNKNOWN = 256
"""Keys in a row that the store does not know, before any that it does: then it is another store, or they need `key`.
Where one image in fifty has a label, that happens by chance once in 170 streams."""

_log = logging.getLogger(__name__)


def is_pipeline(dataset: object) -> bool:
    """Whether a data set is a pipeline of webdataset's, with ``map``."""
    is_of_webdataset = any(kind.__module__.startswith("webdataset.") for kind in type(dataset).__mro__)
    return is_of_webdataset and hasattr(dataset, "map")


def labeled_pipeline(dataset: Any, maps: LabelMaps, transform: Any = None, **options: Any) -> Any:
    """A pipeline with a `LabeledSample` at its end."""
    sample = LabeledSample(maps, transform, **options)
    sample.changed_by = _changes(dataset, sample.names_of) if options.get("check", True) else []
    return dataset.map(sample)


def _changes(pipeline: Any, names_of: Callable[[Mapping[str, Any]], list[str]]) -> list[str]:
    """Functions of a pipeline that may change images, by name: what ``map`` and ``map_dict`` run, but for decoders."""
    found: list[str] = []
    for stage in getattr(pipeline, "pipeline", ()):
        kind = getattr(getattr(stage, "f", None), "__name__", "").strip("_")
        if kind == "map":
            found += map(_name_of_foreign, stage.args[:1])
        elif kind == "map_dict":
            found += [_name_of_foreign(each) for name, each in stage.kw.items() if names_of({name: each})]
        else:
            found += _changes(stage, names_of)
    return [name for name in found if name]


def _name_of_foreign(function: Any) -> str:
    """What a function is called; "" of webdataset's own, which decode."""
    if type(function).__module__.startswith("webdataset."):
        return ""
    return str(getattr(function, "__qualname__", type(function).__name__))


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
    label; images that were decoded before are taken too, if nothing has cropped or resized them since.

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
        same_bytes: as for `Labeled`: until 16 images of a process had the bytes that were labelled, any other is not
            the one that was. Of images that come decoded this cannot be told: keys are believed.

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
        same_bytes: bool = True,
    ) -> None:
        check_unlabeled(unlabeled)
        #: For `relabel.check_views`: from a row and its image to what is taken for that.
        self.stand_in: Callable[[int, Any], Any] | None = None
        #: What may have changed images that come decoded, where the pipeline before is known.
        self.changed_by: list[str] = []
        self._key = key
        self._label: Callable[[LabelMaps, int, Shown, int], Any] = ticket_of if tickets else crop_label_of
        self.maps = maps
        self._suffixes = None if image_suffixes is None else tuple(image_suffixes)
        self._drop = unlabeled == "drop"
        self._transform = proved(transform, geometry=geometry, check=check)
        self._numbers = numbers_of(maps.manifest.data.class_names)
        self._frame = frame
        self._taken = self.dropped = self._unknown = 0
        self._to_compare = COMPARED if same_bytes else 0
        self._known = False
        # What all rows are is read here, so that forked workers share it and spawned ones receive it.
        maps.in_frame(frame or maps.frame).prepare()

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """The transformed image of a sample, and which label it has; its ground truth is what ``cls`` says.

        None for a sample that holds no image and that the store does not know: `relabel.generate` passes it over.

        Raises:
            LabelError: the store has no label for it, with `unlabeled` "raise", or for any of the first 256; or its
                image came decoded, and cropped or resized.
            ImageError: its image cannot be decoded, likewise.
            InvalidValueError: the sample is no mapping, has no key, no image or several, or a ``cls`` that is no class;
                or the frame of its image cannot be told, or what changed it before.
        """
        if not isinstance(sample, Mapping) or "__key__" not in sample:
            what = sorted(map(str, sample)) if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
            raise InvalidValueError(
                f"a sample is a mapping of names to values, with __key__; got {what}. Map LabeledSample before "
                "to_tuple and batched, or in their place"
            )
        key = sample["__key__"] if self._key is None else self._key(sample["__key__"])
        names = self.names_of(sample)
        rows = self.maps.find([key]) if self._drop or not names else self.maps.rows([key])
        row = int(rows[0])
        self._known = self._known or row >= 0
        if not self.maps.has_label(rows):
            if self._drop and row < 0 and names:
                self._check_known(key)
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

    def names_of(self, sample: Mapping[str, Any]) -> list[str]:
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
        labeled_hw = photograph.sizes_hw[frame or "decoded"]
        if image is value:
            self._check_untouched(image, labeled_hw, key)
        else:
            check_size(lambda: f"the sample {key!r}", image, labeled_hw)
            self._compare(bytes(value), row, key)
        return image, self.maps if frame is None else self.maps.in_frame(frame)

    def _compare(self, data: bytes, row: int, key: str) -> None:
        """Raise where one of a process's first images has other bytes than were labelled; those left out do not count,
        so that of another data set's no more are left out than `_is_hopeless` allows."""
        if self._to_compare and not self.maps.are_files([row], [data])[0]:
            raise LabelError(other_files(self.maps.where, [f"the sample {key!r}"], COMPARED - self._to_compare + 1))
        self._to_compare = max(0, self._to_compare - 1)

    def _check_untouched(self, image: Any, labeled_hw: tuple[int, int], key: str) -> None:
        """Refuse an image that came decoded, and that a transform before may have changed."""
        if labeled_hw != (0, 0) and (found_hw := loaded_size_hw(image)) != labeled_hw:
            raise LabelError(
                f"the image of the sample {key!r} comes decoded, {found_hw} pixels (height, width), and was labelled "
                f"with {labeled_hw}: it was cropped or resized before LabeledSample; put LabeledSample first, and give "
                "the transform to it"
            )
        if self.changed_by:
            raise InvalidValueError(
                f"images come decoded, and {', '.join(self.changed_by)} before LabeledSample may have moved their "
                "pixels: put LabeledSample first, and give the transform to it; or say check=False if none does"
            )

    def _check_known(self, key: str) -> None:
        """Count a key that the store does not know; raise where it has known none of many."""
        self._unknown += 1
        if not self._known and self._unknown > _MOST_UNKNOWN:
            self.maps.rows([key])

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
