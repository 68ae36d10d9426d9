"""Data sets that users write: any class with ``__getitem__`` and ``__len__``."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any, NoReturn

from relabel.errors import ImageError
from relabel.loader.datasets import Images, Loaded, class_of

_HEAP_TYPE = 1 << 9
"""Python's flag of classes that are made by a class statement: others cannot be exchanged for a child."""


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
        self._plain = _without_transform(dataset)

    def item(self, output: Any, label: Any, rest: Any) -> Any:
        """See `Images.item`."""
        image, truth = self._columns
        return {**rest, image: output, truth: label} if isinstance(rest, Mapping) else super().item(output, label, rest)

    def release(self) -> None:
        """See `Images.release`: what a copy has opened goes with it."""
        self._plain = _without_transform(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plain": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.release()

    def _load(self, index: int) -> Loaded:
        # Not through its own class: what that asks itself for is another item.
        item = type(self.dataset).__getitem__(self._plain, index)
        rest: Any = ()
        if isinstance(item, Mapping):
            image, label, rest = item[self._columns[0]], item.get(self._columns[1]), item
        elif isinstance(item, (tuple, list)) and len(item) > 1:
            image, label, *rest = item
        else:
            image, label = item, None
        return image, class_of(label), rest


def _without_transform(dataset: Any) -> Any:
    """A shallow copy of a data set that does without its transform, and does not give one item for another."""
    plain = copy.copy(dataset)
    for name in ("transform", "transforms"):
        if getattr(dataset, name, None) is not None:
            setattr(plain, name, _as_it_is)
    joint: Any = getattr(dataset, "transforms", None)
    if type(joint).__name__ == "StandardTransform":
        plain.transforms = type(joint)(None, joint.target_transform)
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


def _as_it_is(*given: Any, **named: Any) -> Any:
    """What stands in a copy of a data set for its transform, however that is called."""
    return named or (given[0] if len(given) == 1 else given)
