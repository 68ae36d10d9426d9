"""Any classifier made dense by a hook on the submodule that puts out their feature map.

The model runs on images; at that submodule, the place, its output is cut into features of one location each, all folded
into the batch, and the rest of the model's own forward answers for them.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.teacher.heads.dense import WAY_OUT, DenseClassifier, FeatureLayout, refusal
from relabel.teacher.heads.places import places_of, with_first
from relabel.teacher.proof import MOST_REPEATED, NotAlone, NotHalves, Proof, prove

_log = logging.getLogger(__name__)

_MOST_TRIED = 12
"""So many places, the last first, are tried: before them are blocks of the backbone, whose residuals pass them by."""

_SHOWN = 4


class HookedClassifier(nn.Module):
    """A classifier (B, 3, h, w) to (B, C) in two halves: what its submodule `place` puts out, and what follows."""

    def __init__(self, model: nn.Module, place: str, layout: FeatureLayout, images: Tensor) -> None:
        super().__init__()
        self.model = model
        self.place = place
        self.output_fmt = layout.layout
        self.num_prefix_tokens = layout.prefix
        # What the second half runs on: features that are put in at the place hide what it holds.
        self.register_buffer("_blank", torch.zeros_like(images[:1]), persistent=False)
        self._change: Callable[[Tensor], Tensor] | None = None
        self.hook = model.get_submodule(place).register_forward_hook(self._changed)
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """The model's own answer."""
        answer: Tensor = self.model(images)
        return answer

    def forward_features(self, images: Tensor) -> Tensor:
        """What the place puts out."""
        seen: list[Tensor] = []

        def look(features: Tensor) -> Tensor:
            # What follows may write into it.
            seen.append(features.clone())
            return features

        self.through(look, images)
        return seen[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """The model's answer (B, C) to features of any batch size, in the place's layout."""
        return self.through(lambda _: features.clone(), self.get_buffer("_blank"))

    def through(self, change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The model's answer to images, what the place puts out being changed."""
        self._change = change
        try:
            return self(images)  # type: ignore[no-any-return]
        finally:
            self._change = None

    def _changed(self, _module: nn.Module, _inputs: object, output: Any) -> Any:
        return output if self._change is None else with_first(output, self._change)


class FoldedClassifier(DenseClassifier):
    """A hooked classifier that answers at every location, in one run of its model."""

    model: HookedClassifier

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) to dense logits (B, C, H, W)."""
        return self._unfolded(self.model.through(self._folded, images))

    def head(self, features: Tensor) -> Tensor:
        """Dense logits of what the place puts out."""
        return self._unfolded(self.model.forward_head(self._folded(features)))

    @property
    def body(self) -> nn.Module:
        """The model that the hook is in."""
        return self.model.model

    def _folded(self, features: Tensor) -> Tensor:
        cells = self.layout.cells(features)
        folded = self.layout.everywhere(cells.flatten(0, 2)) if self.repeated else self.layout.alone(cells)
        # What follows may write into it, and an expanded tensor is one value in many places.
        return folded.contiguous()

    def _unfolded(self, logits: Tensor) -> Tensor:
        height, width = self.layout.grid.size_hw
        return logits.reshape(-1, height, width, logits.shape[-1]).permute(0, 3, 1, 2)


def dense_by_hook(model: nn.Module, name: str, images: Tensor, place: str = "") -> tuple[FoldedClassifier, Proof]:
    """Make a classifier dense and prove it, at a named submodule, or at the last one where that can be proved.

    Where nothing that follows takes one location alone, because it knows places or how many there are, what follows the
    last submodule that the whole answer passes is run over a whole grid of each location, where the grid is of at most
    `MOST_REPEATED` cells. The arguments are those of `door.dense_of`.

    Raises:
        TeacherError: the place cannot be used, or none can.
    """
    places = list(places_of(model, images).items())
    if place:
        _check_place(model, name, place, [found for found, _ in places])
        places = [(found, layout) for found, layout in places if found == place]
    # The last first; then, once more, the last of those that the whole answer passes and that know places.
    tries = [(False, *found) for found in places[: -_MOST_TRIED - 1 : -1]]
    reasons: dict[str, TeacherError] = {}
    for is_repeated, found, layout in tries:
        cells = layout.grid.height * layout.grid.width
        hooked = HookedClassifier(model, found, layout, images)
        dense = FoldedClassifier(hooked, layout, is_repeated)
        try:
            proof = prove(dense, name, images)
        except (NotHalves, NotAlone) as error:
            hooked.hook.remove()
            reasons.setdefault(found, error)
            is_whole = isinstance(error, NotAlone) and cells <= MOST_REPEATED
            if is_whole and not any(each_repeated for each_repeated, *_ in tries):
                tries.append((True, found, layout))
            continue
        _log.debug("%s is dense at its submodule %s", name, found)
        if is_repeated and not place and not proof.localises:
            # Run over whole grids any head is right by definition: that this is a map of places is all to be seen.
            hooked.hook.remove()
            why = f"{found} may be no map of places, and its cells cannot be proved one by one"
            reasons.setdefault(found, NotAlone(refusal(name, why)))
            continue
        if is_repeated:
            _log.warning("what follows %s in %s knows places: it is run %d times for an image", found, name, cells)
        return dense, proof
    raise _none_proved(name, reasons)


def _none_proved(name: str, reasons: dict[str, TeacherError]) -> TeacherError:
    if not reasons:
        return TeacherError(
            refusal(name, "none of its submodules puts out a feature map, or tokens whose square cells tile the image")
        )
    tried = list(reasons)
    # What a proof found says more than what does not run.
    telling = next((place for place, why in reasons.items() if why.__cause__ is None), tried[0])
    return TeacherError(
        f"{name} cannot be used as a teacher: what follows its feature map cannot be proved on single locations, tried "
        f"at {', '.join(tried[:_SHOWN])}{', ...' if len(tried) > _SHOWN else ''}. At {telling}: {reasons[telling]}. "
        f"If its feature map is put out elsewhere, name that submodule, as {name.partition('@')[0]}@SUBMODULE"
    )


def _check_place(model: nn.Module, name: str, place: str, found: list[str]) -> None:
    if place in found:
        return
    all_names = [n for n, _ in model.named_modules() if n]
    close = found[-1:] + difflib.get_close_matches(place, found or all_names, n=4, cutoff=0.3)
    what = "puts out no feature map, or is run more than once" if place in all_names else "is none of its submodules"
    raise TeacherError(
        f"{name}: {place!r} {what}. {'Maps are put out by ' + ', '.join(dict.fromkeys(close)) if close else WAY_OUT}"
    )
