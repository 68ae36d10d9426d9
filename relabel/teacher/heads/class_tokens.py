"""Whether the tokens that a head reads are of one kind with the locations that the one-cell method puts in their place.

In a plain transformer class token and locations pass the same layers: a location's vector in the class token's slot is
what the class token would be in an image that looked like that. Class attention (CaiT, XCiT, VOLO) takes the class
token alone through layers of its own: a location's vector in its slot means nothing to the head, and yet features that
are made equal everywhere pass every proof. What the model answers tells the two apart only where its weights are
trained: see `proof.DOUBTFUL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relabel.teacher.heads.dense import TOLERANCE, DenseClassifier, FeatureLayout
from relabel.teacher.heads.families import Adapted
from relabel.teacher.heads.places import places_of, with_first

STRANGE = "its answer is read off class tokens that passed other layers than the locations, as in class attention"

_MOST_TRIED = 24
"""So many earlier places are looked at, outer ones first: whole blocks before what is inside them."""


def reads_strange_tokens(dense: DenseClassifier, images: Tensor) -> bool:
    """Whether the head reads class tokens that went another way than the locations.

    They went the same way if there is an earlier place where, all slots being equal, they stay equal to the end, and
    from where the locations reach the class tokens at all. Of families with an adapter that is known.

    Args:
        dense: not proved yet.
        images: normalised (B, 3, h, w).
    """
    model, layout = dense.model, dense.layout
    if not layout.prefix or isinstance(model, Adapted):
        return False
    features = model.forward_features(images)
    changed = features.clone()
    changed[:, : layout.prefix] = features[:, -1:]
    if not _differ(model.forward_head(features), model.forward_head(changed)):
        return False
    found = (name for name, its in places_of(dense.body, images).items() if its == layout)
    places = sorted(found, key=lambda name: name.count("."))[:_MOST_TRIED]
    return not any(_is_one_kind(model, dense.body.get_submodule(place), layout, images) for place in places)


def _is_one_kind(model: Any, place: nn.Module, layout: FeatureLayout, images: Tensor) -> bool:
    def after(change: Callable[[Tensor], Tensor]) -> Tensor:
        with place.register_forward_hook(lambda _module, _inputs, output: with_first(output, change)):
            features: Tensor = model.forward_features(images)
        return features

    def equal(features: Tensor) -> Tensor:
        return layout.everywhere(layout.cells(features).mean((1, 2))).contiguous()

    def other_locations(features: Tensor) -> Tensor:
        return torch.cat([equal(features)[:, : layout.prefix], features[:, layout.prefix :]], dim=1)

    found = after(equal)
    return not _differ(found, found[:, :1]) and _differ(
        found[:, : layout.prefix], after(other_locations)[:, : layout.prefix]
    )


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > TOLERANCE * one.abs().max())
