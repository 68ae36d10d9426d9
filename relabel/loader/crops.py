"""Which label an item of a data set or of a stream has, and refusals that both share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.loader.maps import LabelMaps
from relabel.tickets import ticket

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class CropLabel:
    """Which label a crop has.

    Attributes:
        row: of the store.
        view: what the crop shows of the whole image.
        ground_truth: the image's class, -1 where unknown.
        maps: the store that `row` counts in, in the frame of `view`: the label is ``maps[[row]].pool(...)``.
    """

    row: int
    view: View
    ground_truth: int
    maps: LabelMaps = field(repr=False)

    @property
    def box(self) -> Box:
        """The crop box, in fractions of the whole image; of a view that turns or shears the bounding box."""
        return self.view.box

    @property
    def flip(self) -> bool:
        """Whether the crop was mirrored left to right."""
        return self.view.flip


Shown = View | tuple[View, ...]
"""What an output of a transform shows; a tuple is of several."""


def ticket_of(maps: LabelMaps, row: int, shown: Shown, truth: int) -> NDArray[np.int64]:
    """The ticket of an item, (11,), or (n, 11) of n views; `maps` are in the frame of the views."""
    upright = maps.frame == "upright"
    if isinstance(shown, tuple):
        return np.stack([ticket(maps.ticket_id, row, view, truth, upright) for view in shown])
    return ticket(maps.ticket_id, row, shown, truth, upright)


def crop_label_of(maps: LabelMaps, row: int, shown: Shown, truth: int) -> CropLabel:
    """The same for `relabel.collate`, which takes one view of an image.

    Raises:
        InvalidValueError: there are several.
    """
    if isinstance(shown, tuple):
        raise InvalidValueError(
            f"the transform makes {len(shown)} views of an image, which relabel.collate does not take: use tickets"
        )
    return CropLabel(row, shown, truth, maps)


def check_unlabeled(unlabeled: str) -> None:
    """Refuse what is neither of the two things that may be done with images without a label."""
    if unlabeled not in ("raise", "drop"):
        raise InvalidValueError(f"unlabeled must be 'raise' or 'drop'; got {unlabeled!r}")


def without_label(maps: LabelMaps, names: list[str], count: int) -> LabelError:
    """Of those of `count` images that the store knows, and failed to label."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return LabelError(
        f"{len(names)} of {count} images failed when {maps.where} was made and have no label: "
        f"{', '.join(map(repr, names[:_SHOWN]))}{more}. Drop them with unlabeled='drop'; or mend them "
        "and run the same relabel generate again with --retry-failed"
    )
