"""Steps that move pixels in a way that no view tells, and what it costs labels to ignore them."""

from __future__ import annotations

import logging
from typing import Any

from torchvision.transforms import autoaugment as v1_autoaugment
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.geometry.views import View
from relabel.tracking.handling import Shown
from relabel.tracking.steps import is_intact, is_of

_TORCHVISION = {
    v1.RandomPerspective, v1.ElasticTransform, v2.RandomPerspective, v2.ElasticTransform,
    v1_autoaugment.AugMix, v2.AugMix,
}  # fmt: skip
_TIMM = {"AugMixAugment"}

_COSTS: dict[str, tuple[float, float]] = {
    "timm AugMixAugment": (0.009, 0.033),
    "torchvision AugMix": (0.004, 0.014),
    "torchvision ElasticTransform": (0.001, 0.005),
    "torchvision RandomPerspective": (0.01, 0.39),
}
"""Of a step's defaults: how far a label that ignores it is from the one at the true place, of the image and of a token.

KL divergences in nats, the mean over photographs, of the worse of two teachers; see docs/score-maps.md.
"""
_IGNORED = View.whole().ignoring()
_noted: set[str] = set()
_log = logging.getLogger(__name__)


def has_no_map(step: Any) -> bool:
    """Whether a step is known to move pixels in a way that no view tells."""
    kind = type(step)
    return (kind.__name__ in _TIMM if is_of(kind, "timm") else kind in _TORCHVISION) and is_intact(step)


def ignored(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of a step that is not followed: where it did something, the view is no longer exact."""
    output = step(image)
    return output, None if output is image else _IGNORED


def untracked(step: Any, image: Any) -> tuple[Any, Shown]:
    """As `ignored`, of any step: it may have moved pixels in place."""
    return step(image), _IGNORED


def note(step: Any) -> None:
    """Log, once a process, that a kind of step is ignored, and what that costs."""
    kind = type(step)
    name = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    if name in _noted:
        return
    _noted.add(name)
    cost = _COSTS.get(name)
    measured = (
        "not measured" if cost is None else f"measured at {cost[0]:g} nats an image label, {cost[1]:g} a token label"
    )
    _log.warning(
        "labels do not follow what %s moves (%s): image labels ignore it, token labels of such views are refused; "
        "geometry='refuse' refuses the step",
        kind.__name__,
        measured,
    )
