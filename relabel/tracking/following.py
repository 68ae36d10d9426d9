"""How a transform is followed: each of its steps by a handler, or refused by name."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.tracking import albumentations, auto_augment
from relabel.tracking.calling import is_carrier
from relabel.tracking.finding import find
from relabel.tracking.handling import Handler, Part, name_of, still
from relabel.tracking.ignoring import has_no_map, ignored, note, untracked
from relabel.tracking.keypoints import by_keypoints
from relabel.tracking.noticing import Noticed, State
from relabel.tracking.steps import CARRIERS, CONTAINERS, SEQUENCES, handler_of_kind, is_intact
from relabel.tracking.trying import told, told_upright, trial
from relabel.tracking.watching import Inner, Watching, exactly, one_after_another, side_by_side
from relabel.tracking.wrappers import attributes_of

_CHAINS = (v1.RandomApply, v2.RandomApply)


@dataclass(frozen=True, slots=True)
class Rules:
    """What to do with steps that are not followed; see `TrackedTransform`."""

    untracked: tuple[object, ...] = ()
    geometry: Literal["ignore", "refuse"] = "ignore"
    check: bool = True

    def __post_init__(self) -> None:
        if self.geometry not in ("ignore", "refuse"):
            raise InvalidValueError(f"geometry must be 'ignore' or 'refuse'; got {self.geometry!r}")
        carriers = [kind.__name__ for kind in CARRIERS if any(kind is each for each in self.untracked)]
        if carriers:
            raise InvalidValueError(
                f"untracked lists the class {', '.join(carriers)}, whose steps may do anything, and all of them would "
                "be ignored; list the step itself"
            )


@dataclass(slots=True)
class Following:
    """One look at a transform.

    Attributes:
        rules: what to do with steps that are not followed.
        refused: the names of the steps that cannot be followed, each with the reason, if there is one.
        noticed: what must stay as it is.
    """

    rules: Rules
    refused: dict[str, str] = field(default_factory=dict)
    noticed: list[Noticed | State] = field(default_factory=list)

    def parts(self, step: Any, before: tuple[Part, ...] = ()) -> tuple[Part, ...]:
        """The steps of a transform with their handlers, without the refused ones.

        Args:
            step: the transform.
            before: what an image went through before it, since a step is tried on what it is given.
        """
        step = _itself(step)
        if type(step) in SEQUENCES and is_intact(step) and not self._is_listed(step):
            parts: tuple[Part, ...] = ()
            for member in self._members(step):
                parts += self.parts(member, before + parts)
            return parts
        handler = self._handler(step, before)
        return () if handler is None else ((step, handler),)

    def _is_listed(self, step: Any) -> bool:
        return any(step is known for known in self.rules.untracked)

    def _is_of_listed_class(self, step: Any, is_followed: bool) -> bool:
        is_listed = any(type(step) is known for known in self.rules.untracked)
        if is_listed and is_followed:
            raise InvalidValueError(
                f"untracked lists the class {type(step).__name__}, whose steps are followed, so that the labels of all "
                "that they move would be wrong; leave it out, or list the one step whose effect is to be ignored"
            )
        return is_listed

    def _members(self, step: Any) -> list[Any]:
        """The steps of a sequence or container, noticed."""
        modules = step if isinstance(step, nn.Sequential) else step.transforms
        self.noticed.append(
            Noticed.of(modules, "_modules") if isinstance(modules, nn.Module) else Noticed.of(step, "transforms")
        )
        return list(modules)

    def _handler(self, step: Any, before: tuple[Part, ...]) -> Handler | None:
        if albumentations.is_albumentations(step):
            return self._of_albumentations(step, before)
        if self._is_listed(step):
            return still if find(step) is still else untracked
        handler = find(step)
        if self._is_of_listed_class(step, handler is not None):
            return untracked
        if handler is not None:
            if type(step).__module__.startswith(("torchvision.", "timm.")):
                self.noticed.append(State.of(step, is_known=True))
            return handler
        if type(step) in CONTAINERS and is_intact(step):
            return self._of_container(step, before)
        if not has_no_map(step):
            return self._tried(step, before)
        return ignored if self._may_ignore(step) else None

    def _may_ignore(self, step: Any) -> bool:
        """Say that a step that no view tells of is ignored, or refuse it."""
        if self.rules.geometry == "refuse":
            self.refused[name_of(step)] = "it moves pixels in a way that no view tells"
            return False
        note(step)
        return True

    def _of_albumentations(self, step: Any, before: tuple[Part, ...]) -> Handler | None:
        """Of a pipeline; what is not known in it may only be proved to move no pixel."""
        still: list[Any] = []
        ignored: list[Any] = []
        pending = [step]
        while pending:
            each = pending.pop(0)
            is_known, is_lost = albumentations.is_known(each), albumentations.is_lost(each)
            if self._is_listed(each) or self._is_of_listed_class(each, is_known and not is_lost):
                ignored.append(each)
            elif not is_known:
                still.append(each)
                error = self._moved_by(each, before)
                if error is not None:
                    self.refused[name_of(each)] = error
            elif is_lost:
                if not self._may_ignore(each):
                    return None
            elif albumentations.is_container(each):
                self.noticed.append(Noticed.of(each, "transforms"))
                pending[:0] = each.transforms
        return albumentations.Pipeline(tuple(still), tuple(ignored))

    def _moved_by(self, step: Any, before: tuple[Part, ...]) -> str | None:
        """Why a step that is not known is not to be taken for still; None if it was proved to move no pixel."""
        if not self.rules.check:
            return "it is not known, and may not be tried with check=False"
        error, changed = trial((*before, (step, albumentations.plain)), name_of(step))
        self.noticed.append(State.of(step, skipped=changed))
        return error

    def _of_container(self, step: Any, before: tuple[Part, ...]) -> Handler | None:
        refused, inner = len(self.refused), []
        for member in self._members(step):
            inner.append(Inner(member, self.parts(member, before)))
            if type(step) in _CHAINS:
                before += inner[-1].parts
        if len(self.refused) > refused:
            return None
        if all(handler is still for each in inner for _, handler in each.parts):
            return still
        return Watching({"transforms": inner}, exactly)

    def _tried(self, step: Any, before: tuple[Part, ...]) -> Handler | None:
        """The first guess at what a step shows that the proof bears out."""
        name, refused, why = name_of(step), len(self.refused), ""
        if not callable(step):
            why = "it cannot be called; several steps are a Compose"
        elif not self.rules.check:
            why = "it is not known, and may not be tried with check=False"
        for handler in self._guesses(step, before) if not why else ():
            error, changed = trial((*before, (step, handler)), name)
            if error is None:
                self.noticed.append(State.of(step, skipped=changed))
                return handler
            why = why or error
        if len(self.refused) == refused:
            self.refused[name] = why
        return None

    def _guesses(self, step: Any, before: tuple[Part, ...]) -> Iterator[Handler]:
        # A child of a known class, or a step of one that was changed, may still show what its class shows.
        known = (handler_of_kind(kind) or auto_augment.handler_of_kind(kind) for kind in type(step).__mro__)
        yield from [handler for handler in known if handler is not None][:1]
        refused = len(self.refused)
        attributes = attributes_of(step, lambda inner: Inner(inner, self.parts(inner, before)), self._is_listed)
        if len(self.refused) > refused:
            return
        if attributes:
            if not is_carrier(step):
                self.noticed += [Noticed.of(step, name) for name in attributes]
            yield from (Watching(attributes, tell) for tell in (exactly, one_after_another, side_by_side))
        if isinstance(step, v2.Transform) and type(step) is not v2.Lambda:
            yield by_keypoints
        yield told
        yield told_upright


def _itself(step: Any) -> Any:
    """The object whose ``__call__`` was given, or known steps' ``forward``, which do what it does."""
    if not isinstance(step, types.MethodType):
        return step
    owner, name = step.__self__, step.__name__
    is_whole = name == "__call__" or (name == "forward" and (find(owner) or type(owner) in (*SEQUENCES, *CONTAINERS)))
    return owner if is_whole and step.__func__ is getattr(type(owner), name, None) else step
