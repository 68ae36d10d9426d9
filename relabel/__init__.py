"""Offline teacher labels for image training: score maps, their store, and the soft label of any crop."""

from importlib import import_module
from typing import TYPE_CHECKING

from relabel.errors import RelabelError

if TYPE_CHECKING:
    from relabel import published
    from relabel.geometry import Box, Footprint, Grid
    from relabel.labels import MixedLabels, SparseLabels
    from relabel.loader import CropLabel, CropLabels, LabeledCrops, LabeledSample, LabelMaps, collate, open
    from relabel.losses import SoftCrossEntropy, TokenLabelingLoss, soft_cross_entropy
    from relabel.mixing import CutMix, MixToken, Mixup
    from relabel.score_map import ScoreMap
    from relabel.tracking import TrackedTransform

__version__ = "0.1.0"

__all__ = [
    "Box",
    "CropLabel",
    "CropLabels",
    "CutMix",
    "Footprint",
    "Grid",
    "LabelMaps",
    "LabeledCrops",
    "LabeledSample",
    "MixToken",
    "MixedLabels",
    "Mixup",
    "RelabelError",
    "ScoreMap",
    "SoftCrossEntropy",
    "SparseLabels",
    "TokenLabelingLoss",
    "TrackedTransform",
    "__version__",
    "collate",
    "open",
    "published",
    "soft_cross_entropy",
]

_ROOMS = {
    **dict.fromkeys(("Box", "Footprint", "Grid"), "geometry"),
    **dict.fromkeys(
        ("CropLabel", "CropLabels", "LabelMaps", "LabeledCrops", "LabeledSample", "collate", "open"), "loader"
    ),
    **dict.fromkeys(("SoftCrossEntropy", "TokenLabelingLoss", "soft_cross_entropy"), "losses"),
    **dict.fromkeys(("CutMix", "MixToken", "Mixup"), "mixing"),
    "ScoreMap": "score_map",
    **dict.fromkeys(("MixedLabels", "SparseLabels"), "labels"),
    "TrackedTransform": "tracking",
    "published": "published",
}


def __getattr__(name: str) -> object:
    """Load a name's room when it is first asked for: `relabel --help` and an unpickled manifest need no torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOMS[name]}")
    value = room if _ROOMS[name] == name else getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
