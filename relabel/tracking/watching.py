"""Containers and wrappers of steps: their own code runs, with recorders in place of the steps inside.

Which steps ran, on what and how often, is then known whatever the rule was (by chance, in any order, twice for two
views): an output is some recorder's output, and that recorder's input is another's output or the image itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.albumentations import is_albumentations
from relabel.tracking.calling import called_with
from relabel.tracking.handling import Part, Shown, follow, name_of, then

_WHOLE = View.whole()
_AXES = 3
"""Of one image as a tensor."""


@dataclass(frozen=True, slots=True)
class Inner:
    """A transform inside another, and how to follow it."""

    step: Any
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One run of an inner transform. It keeps both images, so that no other takes the place of one in memory."""

    given: Any
    made: Any
    shown: Shown


class _Recorder:
    """What stands for an inner transform during one call: what is read off or set on it is the transform's."""

    __slots__ = ("_inner", "_records")

    def __init__(self, inner: Inner, records: list[_Record]) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_records", records)

    def __call__(self, image: Any) -> Any:
        output, shown = follow(self._inner.parts, image)
        self._records.append(_Record(image, output, shown))
        return {"image": output} if is_albumentations(self._inner.step) else output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner.step, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner.step, name, value)


@dataclass(frozen=True, slots=True)
class Watching:
    """The handler of a container or wrapper.

    Attributes:
        attributes: those of the step that hold inner transforms, with `Inner` in place of each, in lists and dicts too.
        tell: what its output shows, from (output, image, records).
    """

    attributes: Mapping[str, Any]
    tell: Callable[[Any, Any, list[_Record]], Shown]

    def __call__(self, step: Any, image: Any) -> tuple[Any, Shown]:
        """Run the step on an image.

        Raises:
            InvalidValueError: what its output shows is not seen from the steps inside.
        """
        records: list[_Record] = []

        def recorder(value: Any) -> Any:
            return _Recorder(value, records) if isinstance(value, Inner) else value

        instead = {name: _mapped(value, recorder) for name, value in self.attributes.items()}
        output = called_with(step, instead, image)
        try:
            return output, self.tell(output, image, records)
        except _BrokenChainError:
            raise InvalidValueError(
                f"{name_of(step)} does something to the image besides running the transforms in it, so what its output "
                "shows is not known. Do that in a step of its own, or let it return (image, relabel.View)"
            ) from None

    def of_inner(self, change: Callable[[tuple[Part, ...]], tuple[Part, ...]]) -> Watching:
        """The same, with the steps of each inner transform changed."""

        def changed(value: Any) -> Any:
            return Inner(value.step, change(value.parts)) if isinstance(value, Inner) else value

        return Watching({name: _mapped(value, changed) for name, value in self.attributes.items()}, self.tell)


class _BrokenChainError(Exception):
    """An output that the steps inside did not make."""


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """What an attribute holds, in lists and dicts too, each changed."""
    if isinstance(value, list | tuple):
        return [_mapped(each, change) for each in value]
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    return change(value)


def exactly(output: Any, image: Any, records: list[_Record]) -> Shown:
    """Of steps that do nothing but run the transforms in them: every image is one that was seen."""
    if isinstance(output, list | tuple) and output and not any(record.made is output for record in records):
        views = tuple(_chained(each, image, records) or _WHOLE for each in output)
        if any(isinstance(view, tuple) for view in views):
            raise _BrokenChainError
        return views  # type: ignore[return-value] # a tuple of tuples was just refused
    return _chained(output, image, records)


def _chained(output: Any, image: Any, records: list[_Record]) -> Shown:
    shown: Shown = None
    for record in reversed(records):
        if output is image:
            return shown
        if record.made is output:
            shown, output = then(record.shown, shown), record.given
    if output is not image:
        raise _BrokenChainError
    return shown


def one_after_another(_output: Any, _image: Any, records: list[_Record]) -> Shown:
    """A guess, for the proof: what else was done between the transforms, before and after, moved nothing."""
    return _guessed(records)[-1] if records else None


def side_by_side(output: Any, image: Any, records: list[_Record]) -> Shown:
    """A guess, for the proof: each transform was given the image, and the outputs are theirs, stacked or in a list."""
    is_several = isinstance(output, list | tuple) or (isinstance(output, Tensor) and output.ndim > _AXES)
    count = len(output) if is_several else 1
    shown = [part or _WHOLE for part in _guessed(records, is_chain=False)]
    last_given = {id(record.given): index for index, record in enumerate(records)}
    ends = [index for index, record in enumerate(records) if last_given.get(id(record.made), -1) <= index]
    if len(ends) != count:
        # An output of which nothing was changed may be given on as the image itself.
        ends = [index for index, record in enumerate(records) if index in ends or record.made is image]
    views = tuple(shown[index] for index in ends)
    if len(ends) != count or any(isinstance(view, tuple) for view in views):
        raise _BrokenChainError
    return views if is_several else views[0]  # type: ignore[return-value] # a tuple among them was just refused


def _guessed(records: list[_Record], *, is_chain: bool = True) -> list[Shown]:
    """What each record's output shows; one given an image that was not seen took the last one's, or the first image."""
    shown: list[Shown] = []
    for index, record in enumerate(records):
        earlier = [shown[i] for i in range(index) if records[i].made is record.given]
        before = earlier[-1] if earlier else shown[-1] if is_chain and shown else None
        shown.append(then(before, record.shown))
    return shown
