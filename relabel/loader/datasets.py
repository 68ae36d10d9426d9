"""The kinds of data sets whose images can be labeled: how each loads one, and by what key the store knows it.

A data set is known by the class that gives its items, not by what it is a child of: a child of ImageFolder with a
``__getitem__`` of its own is asked for its items, as any other.
"""

from __future__ import annotations

import operator
import os
import tarfile
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from relabel.errors import ImageError, InvalidValueError
from relabel.images.loaded import pil_image, pixels_of
from relabel.images.moved import Shows, shows
from relabel.loader.frames import loaded_size_hw
from relabel.naming import key_and_suffix

Transform = Callable[[Any], Any]
Key = Callable[[Any], str]
Loaded = tuple[Any, int, Any]
"""An image as it is loaded, its class (-1 where unknown), and whatever else its item is made of."""

# Pillow raises the first two for damaged files, and a tar's reader the third.
_LOADS = 24
"""Of all images looked at, each three times or more: a flip of one half goes unnoticed once in 60000 times."""
_UNREADABLE = (OSError, SyntaxError, tarfile.TarError)


class Images:
    """A data set's images, before its transform, by index; a child for each kind.

    Attributes:
        dataset: the data set, which is never changed.
        transform: the one that it has, from an image as it is loaded; None where it has none.
    """

    watched: ClassVar[tuple[str, ...]] = ("transform", "transforms", "loader")
    """Attributes of a data set that, set afterwards, would go unnoticed."""
    listed: ClassVar[str] = "samples"
    """The list that says which image an index is of, where there is one."""
    is_known_to_load: bool = True
    """Whether what loads an image is known to be no code of the user's, which may crop and flip."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.transform: Transform | None = getattr(dataset, "transform", None)
        held = getattr(dataset, "__dict__", {})
        self._seen = {name: held[name] for name in self.watched if name in held}
        self._list = self._listed()
        # A list of its own: whoever sorts or shuffles the other is told.
        self._entries = tuple(self._list) if isinstance(self._list, (list, tuple)) else None
        self._samples = self._entries if hasattr(dataset, "root") else None

    def __len__(self) -> int:
        return len(self.dataset)

    def refuse_changes(self, index: int) -> None:
        """Raise where the data set was given another transform or way to load images, or the index another image."""
        held = getattr(self.dataset, "__dict__", {})
        for name, value in self._seen.items():
            now = held.get(name, value)
            if now is not value and self._is_other(name, value, now):
                raise self._changed(name)
        listed = self._listed()
        if listed is not self._list or not (self._entries is None or listed[index] is self._entries[index]):
            raise self._changed(self.listed)

    def _listed(self) -> Any:
        # A property may make another each time.
        return getattr(self.dataset, "__dict__", {}).get(self.listed)

    def _is_other(self, name: str, before: Any, now: Any) -> bool:
        """Whether an attribute is, for what loads images, not what it was."""
        # A file that is opened when it is first needed changes nothing.
        if before is None and name not in self.watched and not is_plain(now):
            return False
        return not (
            type(before) is type(now) and (is_plain(now) or isinstance(now, types.MethodType)) and before == now
        )

    def _changed(self, name: str) -> InvalidValueError:
        return InvalidValueError(
            f"{name} of {type(self.dataset).__name__} was set after Labeled was made of it, and would not be followed: "
            "set the transform of Labeled itself (labeled.transform = ...), and all else before"
        )

    def name(self, index: int) -> str:
        """What an image is called in errors."""
        return f"item {index} of {type(self.dataset).__name__}" if self._samples is None else self._path(index)

    def keys(self, indices: Sequence[int], key: Key | None, *, of_tars: bool) -> list[str] | None:
        """The keys of images, in a store that was made of tars or not; None where they are known by their bytes."""
        if self._samples is not None:
            root = getattr(self.dataset, "split_folder", self.dataset.root)
            return [key(self._path(index)) if key else _below(self._path(index), root) for index in indices]
        if key is None:
            raise InvalidValueError(
                f"what the store calls the images of {type(self.dataset).__name__} is not known: give key=, from an "
                "item's index to its key"
            )
        return [key(index) for index in indices]

    def encoded(self, index: int) -> bytes | None:
        """An image's file; None where it cannot be had."""
        return None if self._samples is None else Path(self._path(index)).read_bytes()

    def files(self, indices: Sequence[int]) -> Iterator[list[bytes]]:
        """Images' files, some at a time, for images that are known by their bytes."""
        for index in indices:
            data = self.encoded(index)
            yield [b"" if data is None else data]

    def load(self, index: int) -> Loaded:
        """An image, its class and the rest of its item.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            return self._load(index)
        except _UNREADABLE as error:
            name = self.name(index)
            raise ImageError(f"{name} cannot be read: {error}. Mend it, or leave it out of the dataset") from error

    def image(self, index: int) -> Any:
        """An image, as it is loaded."""
        return self.load(index)[0]

    def refuse_changed(self, indices: Sequence[int]) -> None:
        """Raise where something crops, flips or changes images before the transform, by chance or always.

        Args:
            indices: of the images to look at, which are loaded a few times each.

        Raises:
            InvalidValueError: one is not loaded twice the same, or is no kind of image that is known; or those that
                have a file show something else than it does, or one of them shows a part of it, or that mirrored.
        """
        times = max(3, -(-_LOADS // len(indices)))
        shown = {index: self._shows(index, self._twice_the_same(index, times)) for index in indices}
        moved = [index for index, each in shown.items() if each == "moved"]
        told = {each for each in shown.values() if each is not None}
        # Code may do something to a part of the images alone; of colours that it changes, one image proves nothing.
        if moved or told == {"other"}:
            raise InvalidValueError(
                f"{self.name([*moved, *indices][0])} is not loaded by {type(self.dataset).__name__} as its file shows "
                "it: what crops or flips images is to be its `transform`, or that of Labeled, to be followed"
            )

    def _twice_the_same(self, index: int, times: int) -> Any:
        """An image, None where it cannot be read; raises where it is not the same each time."""
        try:
            loaded = [self.image(index) for _ in range(times)]
        except ImageError:
            # Whoever asks for this item is told.
            return None
        if not isinstance(loaded[0], bytes):
            loaded_size_hw(loaded[0])
        first, *others = map(pixels_of, loaded)
        if any(other.shape != first.shape or (other != first).any() for other in others):
            raise InvalidValueError(
                f"{self.name(index)} is another image each time that {type(self.dataset).__name__} loads it: what "
                "crops, flips or changes images at random is to be its `transform`, or that of Labeled, to be followed"
            )
        return loaded[0]

    def _shows(self, index: int, image: Any) -> Shows | None:
        """What an image shows of its file; None where that cannot be told."""
        if image is None or isinstance(image, bytes):
            return None
        try:
            data = self.encoded(index)
            return None if data is None else shows(image, data)
        except (ImageError, *_UNREADABLE):
            # What is no image's file, or none, tells nothing.
            return None

    def item(self, output: Any, label: Any, rest: Any) -> Any:
        """An item of the data set's own form, the transformed image and the label in their places."""
        return output, label, *rest

    def release(self) -> None:
        """Let go of files that were opened: processes would share their place in them, and they cannot be pickled."""

    def _load(self, index: int) -> Loaded:
        raise NotImplementedError

    def _path(self, index: int) -> str:
        return str(self._samples[index][0]) if self._samples is not None else ""


class FolderImages(Images):
    """torchvision's ``DatasetFolder``, so ``ImageFolder`` and ``ImageNet``: known by the path below the folder."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.is_known_to_load = getattr(dataset.loader, "__module__", "") == "torchvision.datasets.folder"

    def _load(self, index: int) -> Loaded:
        path, label = self._samples[index]  # type: ignore[index]  # it has samples
        return self.dataset.loader(path), class_of(label, self.dataset.target_transform), ()


class TimmImages(Images):
    """timm's ``ImageDataset``, asked through its reader: the data set answers the next image for an unreadable one."""

    watched = ("transform", "reader")
    listed = "samples of the reader"

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        # A file is named by the reader, not by the entries of its list.
        self._samples = None
        self._process = os.getpid()

    def name(self, index: int) -> str:
        """See `Images.name`."""
        return str(self.dataset.reader.filename(index))

    def keys(self, indices: Sequence[int], key: Key | None, *, of_tars: bool) -> list[str] | None:
        """See `Images.keys`."""
        reader = self.dataset.reader
        # Of those of the Hugging Face hub a name says little.
        if key is None and hasattr(reader, "dataset"):
            return None
        names = [self.name(index) for index in indices]
        if key is not None:
            return [key(name) for name in names]
        if not hasattr(reader, "tar_state"):
            return [name.replace(os.sep, "/") for name in names]
        if len(set(names)) < len(set(indices)):
            raise InvalidValueError(
                "several tars hold images of the same name, and timm's reader does not say which is which: unpack them "
                "into a folder, or read them as a stream, with relabel.LabeledSample"
            )
        return [key_and_suffix(name)[0] for name in names] if of_tars else names

    def _listed(self) -> Any:
        return getattr(self.dataset.reader, "samples", None)

    def encoded(self, index: int) -> bytes:
        """See `Images.encoded`."""
        with self._opened(index)[0] as file:
            return bytes(file.read())

    def release(self) -> None:
        """See `Images.release`."""
        reader = self.dataset.reader
        states = getattr(reader, "tar_state", {})
        for state in states.values() if isinstance(states, dict) else [states]:
            for each in (*state.children.values(), state):
                if each.tf is not None:
                    each.tf.close()
                    each.tf = None

    def _opened(self, index: int) -> Any:
        if self._process != os.getpid():
            self.release()
            self._process = os.getpid()
        return self.dataset.reader[index]

    def _load(self, index: int) -> Loaded:
        dataset = self.dataset
        file, label, *features = self._opened(index)
        with file:
            image = file.read() if dataset.load_bytes else pil_image(file, dataset.input_img_mode)
        rest = () if dataset.additional_features is None else features
        return image, class_of(label, dataset.target_transform), rest


def is_plain(value: Any) -> bool:
    """Whether a value is one that two objects may have, as they are pickled."""
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def class_of(label: Any, target_transform: Callable[[Any], Any] | None = None) -> int:
    """A class as a whole number, after the transform of classes where that leaves one; -1 where there is none."""
    changed: Iterable[Any] = () if target_transform is None or label is None else (target_transform(label),)
    for each in (*changed, label):
        try:
            return operator.index(each)
        except TypeError:
            continue
    return -1


def _below(path: str, root: str | Path) -> str:
    start = os.path.join(root, "")  # noqa: PTH118 - as torchvision joins them, of a million paths
    # relpath asks for the working directory each time.
    below = os.path.normpath(path[len(start) :]) if path.startswith(start) else os.path.relpath(path, root)
    return below.replace(os.sep, "/")
