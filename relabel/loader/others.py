"""Data sets that users write: any class with ``__getitem__`` and ``__len__``."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import Tensor

from relabel.errors import ImageError, InvalidValueError
from relabel.images.loaded import copied_pixels, pixels_of
from relabel.loader.datasets import Images, Key, Loaded, class_of, is_plain
from relabel.tracking.proof import undisturbed

_HEAP_TYPE = 1 << 9
"""Python's flag of classes that are made by a class statement: others cannot be exchanged for a child."""
_COPIED = 48
"""Images that are compared with a copy in each process, so those asked for when a data set is wrapped; not for long."""


class OtherImages(Images):
    """Any map-style data set: asked for its items, the transform taken out of a copy of it.

    Its items are (image, class, ...), an image alone, or mappings that hold both under the names of `columns`.
    """

    def __init__(self, dataset: Any, columns: tuple[str, str]) -> None:
        super().__init__(dataset)
        self.is_known_to_load = False
        self._columns = columns
        joint = getattr(dataset, "transforms", None)
        if joint is not None and type(joint).__name__ != "StandardTransform":
            # torchvision's v2 leaves a class alone, and so may be given the image alone.
            self.transform = joint
        if not _lists_files(dataset, self._samples):
            self._samples = None
        kinds = reversed(type(dataset).__mro__)
        of_class = {name: value for kind in kinds for name, value in vars(kind).items() if is_plain(value)}
        self._seen = of_class | getattr(dataset, "__dict__", {})
        self.release()

    def keys(self, indices: Sequence[int], key: Key | None, *, of_tars: bool) -> list[str] | None:
        """See `Images.keys`; the list of files is believed where items are seen to be read by it."""
        if self._samples is not None and len(indices):
            # Whoever asks for an item that cannot be read is told.
            with undisturbed(), contextlib.suppress(ImageError):
                self.load(indices[0])
            if not self._record.paths:
                self._samples = None
        return super().keys(indices, key, of_tars=of_tars)

    def item(self, output: Any, label: Any, rest: Any) -> Any:
        """See `Images.item`."""
        image, truth = self._columns
        return {**rest, image: output, truth: label} if isinstance(rest, Mapping) else super().item(output, label, rest)

    def release(self) -> None:
        """See `Images.release`: what a copy has opened goes with it."""
        self._record = _Record()
        self._plain = _without_transform(self.dataset, self._record)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plain": None, "_record": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.release()

    def _load(self, index: int) -> Loaded:
        record = self._record
        record.clear()
        # Not through its own class: what that asks itself for is another item.
        item = type(self.dataset).__getitem__(self._plain, index)
        if self._samples is not None and any(path != self._path(index) for path in record.paths):
            raise ImageError(
                f"{type(self.dataset).__name__} reads {', '.join(dict.fromkeys(record.paths))} for its item {index}, "
                f"which is {self._path(index)} by its samples. Let samples list the files of its items in their order, "
                "and let one that cannot be read raise"
            )
        rest: Any = ()
        if isinstance(item, Mapping):
            image, label, rest = item[self._columns[0]], item.get(self._columns[1]), item
        elif isinstance(item, (tuple, list)) and len(item) > 1:
            image, label, *rest = item
        else:
            image, label = item, None
        if record.given and ([id(each) for each in record.given] != [id(image)] or record.is_changed(image)):
            raise InvalidValueError(
                f"{type(self.dataset).__name__} does something to an image after its transform, or transforms it more "
                "than once: put that into the transform, which may give a list of several views"
            )
        return image, class_of(label), rest


class _Record(threading.local):
    """What a copy of a data set did for the item that a thread asked for last.

    Attributes:
        opened: the paths that its loader was given.
        listed: those that were looked up in its list.
        given: the images that its transform was given.
    """

    def __init__(self) -> None:
        self._copied = 0
        self.clear()

    def clear(self) -> None:
        """Before another item."""
        self.opened: list[str] = []
        self.listed: list[str] = []
        self.given: list[Any] = []
        self._copy: Tensor | None = None

    @property
    def paths(self) -> list[str]:
        """The files that were read."""
        return self.opened or self.listed

    def is_changed(self, image: Any) -> bool:
        """Whether something was done in place to the image that the transform was given, since then."""
        return self._copy is not None and not torch.equal(pixels_of(image), self._copy)

    def loading(self, loader: Callable[..., Any]) -> Callable[..., Any]:
        """The loader, its paths noted."""

        def load(path: Any, *given: Any, **named: Any) -> Any:
            self.opened.append(str(path))
            return loader(path, *given, **named)

        return load

    def as_it_is(self, *given: Any, **named: Any) -> Any:
        """What stands in a copy of a data set for its transform, however that is called."""
        what = named or given[0]
        if isinstance(what, Mapping):
            what = what.get("image", next(iter(what.values())))
        self.given.append(what)
        if self._copied < _COPIED:
            self._copied += 1
            self._copy = copied_pixels(what)
        return named or (given[0] if len(given) == 1 else given)


class _Listed(list[Any]):
    """A list of files, what is looked up in it noted."""

    def __init__(self, entries: Iterable[Any], record: _Record) -> None:
        super().__init__(entries)
        self._record = record

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        entry = super().__getitem__(index)
        self._record.listed += [str(each[0]) for each in (entry if isinstance(index, slice) else [entry])]
        return entry


def _lists_files(dataset: Any, samples: Sequence[Any] | None) -> bool:
    """Whether a list is of (path, ...) of each item."""
    if not samples or len(samples) != len(dataset):
        return False
    if not all(isinstance(each, (tuple, list)) and each and isinstance(each[0], (str, Path)) for each in samples):
        return False
    first = str(samples[0][0])
    return first.startswith(str(dataset.root)) or Path(first).is_file()


def _without_transform(dataset: Any, record: _Record) -> Any:
    """A shallow copy of a data set that does without its transform, and does not give one item for another."""
    plain = copy.copy(dataset)
    for name in ("transform", "transforms"):
        if getattr(dataset, name, None) is not None:
            setattr(plain, name, record.as_it_is)
    joint: Any = getattr(dataset, "transforms", None)
    if type(joint).__name__ == "StandardTransform":
        own = None if joint.transform is None else record.as_it_is
        plain.transforms = type(joint)(own, joint.target_transform)
    held = getattr(plain, "__dict__", {})
    if callable(getattr(plain, "loader", None)):
        held["loader"] = record.loading(plain.loader)
    if type(held.get("samples")) is list and "root" in held and _lists_files(dataset, held["samples"]):
        listed, noted = held["samples"], _Listed(held["samples"], record)
        held.update({name: noted for name, value in held.items() if value is listed})
    kind: Any = type(dataset)
    if kind.__flags__ & _HEAP_TYPE and hasattr(dataset, "__dict__"):
        plain.__class__ = _asking_no_other(kind)
    return plain


@functools.cache
def _asking_no_other(kind: Any) -> type:
    """A class whose objects, asked for an item by the class that they had, may not ask themselves for another."""

    def refuse(_: Any, index: Any) -> NoReturn:
        raise ImageError(
            f"{kind.__name__} gives its item {index} in place of another, whose label it is not. Let that raise, "
            "mend the file or leave it out of the data set"
        )

    return type(kind.__name__, (kind,), {"__getitem__": refuse, "__module__": kind.__module__})
