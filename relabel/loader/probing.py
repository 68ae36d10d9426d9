"""A data set or loader that loads position images in place of its own: a copy, of what leads to them alone."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from relabel.errors import InvalidValueError
from relabel.loader.labeled import Labeled
from relabel.loader.maps import LabelMaps
from relabel.loader.streams import LabeledSample
from relabel.tracking.generators import Generator, kept
from relabel.tracking.places import position_image
from relabel.tracking.proof import as_loaded, undisturbed

_LONGEST = 640
"""Pixels: larger photographs are stood for by smaller ones, from which a crop of 448 can still be taken."""
_UNKNOWN_HW = ((320, 480), (480, 320), (400, 400))
"""Of rows whose size the store does not know."""
_BATCH = 16
_WORKERS = 2
_MANY = 1000
"""No list of so many things holds a data set."""

_LEAVES = (str, bytes, int, float, type, types.ModuleType, torch.Tensor, np.ndarray, LabelMaps, *get_args(Generator))


@dataclass(frozen=True, slots=True)
class StandIn:
    """What is taken for the image of a row; picklable."""

    maps: LabelMaps

    def __call__(self, row: int, loaded: Any) -> Any:
        """The position image of a row, of the kind of what was loaded for it."""
        return as_loaded(position_image(row, self.size_hw(row)), loaded)

    def size_hw(self, row: int) -> tuple[int, int]:
        """How large it is."""
        height, width = self.maps.sizes_hw([row])[0].tolist()
        if not height:
            return _UNKNOWN_HW[row % len(_UNKNOWN_HW)]
        scale = min(1.0, _LONGEST / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


def _row_for_class(label: Any, maps: LabelMaps, row: int, shown: Any, _truth: int) -> Any:
    # A batch of CropLabels holds no rows, but the classes.
    return label(maps, row, shown, row)


@dataclass(slots=True)
class Probe:
    """A copy that loads position images.

    Attributes:
        source: the copy.
        stand_in: what it loads.
        layers: what lies around what loads, the outermost first.
    """

    source: Any
    stand_in: StandIn
    layers: list[str]

    @classmethod
    def of(cls, source: Any) -> Probe:
        """The probe of a data set, loader or pipeline.

        Raises:
            InvalidValueError: there is nothing labeled in it, or things of several stores, or it cannot be reached.
        """
        # accelerate's loaders move batches to the device and keep account of epochs; the one inside makes them.
        source = getattr(source, "base_dataloader", source)
        copying = _Copying()
        copied = copying.of(source)
        if copied is source:
            raise InvalidValueError(
                f"no Labeled, LabeledCrops or LabeledSample was found in this {type(source).__name__}: give a data "
                "set, pipeline or loader that was made of one. A function's globals are not looked into: give what it "
                "uses"
            )
        stores = {stand_in.maps.ticket_id: stand_in for stand_in in copying.stand_ins}
        if len(stores) > 1:
            raise InvalidValueError(f"its labels are of {len(stores)} stores: check what is of one store by itself")
        return cls(copied, next(iter(stores.values())), copying.layers)

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The copy, to be asked for items; all random states are as before afterwards."""
        with kept(self.source), undisturbed():
            yield self.source


@dataclass(slots=True)
class _Copying:
    """One walk through a data set or loader: whatever leads to what is labeled is copied, all else shared.

    So a loader's running workers never hear of the probe, and a data set of a million paths is not copied.
    """

    stand_ins: list[StandIn] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    _seen: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def of(self, thing: Any) -> Any:
        """The copy of a thing, or itself where nothing labeled is in it."""
        if thing is None or isinstance(thing, _LEAVES):
            return thing
        if id(thing) in self._seen:
            return self._seen[id(thing)][1]
        # The thing is kept, so that its number is not given to another; a circle ends here.
        self._seen[id(thing)] = thing, thing
        copied = self._of(thing)
        self._seen[id(thing)] = thing, copied
        return copied

    def _of(self, thing: Any) -> Any:
        if isinstance(thing, Labeled | LabeledSample):
            return self._probing(thing)
        if isinstance(thing, _BaseDataLoaderIter):
            return thing
        if type(thing) in (list, tuple, dict):
            return self._of_members(thing)
        if isinstance(thing, functools.partial):
            parts = thing.func, thing.args, thing.keywords
            func, given, named = copies = self._of_members(parts)
            return thing if copies is parts else functools.partial(func, *given, **named)
        if isinstance(thing, types.MethodType):
            owner = self.of(thing.__self__)
            return thing if owner is thing.__self__ else types.MethodType(thing.__func__, owner)
        if isinstance(thing, types.FunctionType):
            return self._of_function(thing)
        return self._of_object(thing)

    def _of_members(self, thing: Any) -> Any:
        if len(thing) > _MANY:
            return thing
        members = list(thing.values()) if isinstance(thing, dict) else thing
        copies = [self.of(each) for each in members]
        if all(copy is each for copy, each in zip(copies, members, strict=True)):
            return thing
        return dict(zip(thing, copies, strict=True)) if isinstance(thing, dict) else type(thing)(copies)

    def _of_function(self, function: types.FunctionType) -> Any:
        try:
            held = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:
            # A name that has no value yet.
            return function
        copies = self._of_members(held)
        if copies is held:
            return function
        closure = tuple(types.CellType(each) for each in copies)
        code, names = function.__code__, function.__globals__
        copied = types.FunctionType(code, names, function.__name__, function.__defaults__, closure)
        copied.__kwdefaults__ = function.__kwdefaults__
        return copied

    def _of_object(self, thing: Any) -> Any:
        state = getattr(thing, "__dict__", None)
        if not isinstance(state, dict):
            return thing
        depth = len(self.layers)
        if not type(thing).__name__.endswith("Sampler"):
            self.layers.append(type(thing).__name__)
        copies = self._of_members(state)
        if copies is state:
            del self.layers[depth:]
            return thing
        # Workers that were started are another's, and end with it.
        running = {name: None for name, each in copies.items() if isinstance(each, _BaseDataLoaderIter)}
        copied = object.__new__(type(thing))
        copied.__dict__.update(copies | running)
        if isinstance(thing, DataLoader):
            self._restart(copied)
        return copied

    def _restart(self, loader: Any) -> None:
        """Make a copy of a loader start workers of its own, a few, that end with it, and make small batches."""
        state = loader.__dict__
        state["persistent_workers"] = False
        state["num_workers"] = min(loader.num_workers, _WORKERS)
        if type(loader.batch_sampler) is BatchSampler and loader.batch_size is not None:
            size = min(loader.batch_size, _BATCH)
            state["batch_sampler"] = BatchSampler(loader.batch_sampler.sampler, size, drop_last=False)

    def _probing(self, thing: Labeled | LabeledSample) -> Any:
        self.layers.append(type(thing).__name__)
        stand_in = StandIn(thing.maps)
        self.stand_ins.append(stand_in)
        copied = object.__new__(type(thing))
        state = copied.__dict__
        state.update(thing.__dict__, stand_in=stand_in, _label=functools.partial(_row_for_class, thing._label))
        if isinstance(thing, Labeled):
            parts = [replace(part, transform=part.transform.for_proof()) for part in thing._parts]
            state["_parts"] = tuple(parts)
        else:
            state["_transform"] = thing._transform.for_proof()
        return copied
