"""Which rows of a store a data set's items are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relabel.errors import LabelError
from relabel.loader.datasets import Images, Key
from relabel.loader.frames import file_of, spread
from relabel.loader.kinds import Items
from relabel.loader.maps import LabelMaps
from relabel.progress import Progress

COMPARED = 16
"""Files of a data set that are compared: some ms. Of another data set's each is another; a few replaced ones are not
found by any number that is quick."""
_NAMED = 8


def rows_of_items(items: Items, maps: LabelMaps, key: Key | None, unlabeled: str) -> NDArray[np.int64]:
    """(n,) of the store; -1 where it does not know an image, with `unlabeled` "drop".

    Raises:
        LabelError: images that the store does not know, with "raise"; or it knows none of all.
    """
    rows = np.empty(len(items.parts), np.int64)
    for number, images in enumerate(items.every):
        own = items.parts == number
        indices = items.indices[own].tolist()
        keys = images.keys(indices, key, of_tars=maps.manifest.data.kind == "webdataset")
        if keys is None:
            rows[own] = _rows_by_bytes(images, indices, maps, unlabeled)
        else:
            rows[own] = (maps.rows(keys) if unlabeled == "raise" else maps.find(keys)).numpy()
    # Of another data set's store nothing would be left.
    return rows if unlabeled == "raise" or (rows >= 0).any() else rows_of_items(items, maps, key, "raise")


def refuse_other_files(images: Images, indices: NDArray[np.int64], maps: LabelMaps, rows: NDArray[np.int64]) -> None:
    """Raise where images of the same keys as were labelled have other files, told by some from the first to the last.

    Args:
        images: a data set's; those whose files cannot be had are believed.
        indices: (n,) in it.
        maps: the store.
        rows: (n,) of the same, each with a label.

    Raises:
        LabelError: any has; they are named.
    """
    places = spread(np.arange(len(rows)), COMPARED)
    compared = indices[places].tolist()
    is_own = maps.are_files(rows[places], [file_of(images, index) for index in compared])
    if not is_own.all():
        others = [images.name(index) for index, own in zip(compared, is_own.tolist(), strict=True) if not own]
        raise LabelError(other_files(maps.where, others, len(compared)))


def other_files(where: str, names: Sequence[str], compared: int) -> str:
    """What to say of images whose files are not those that were labelled, some of which are named."""
    return (
        f"{len(names)} of {compared} images that were compared have other bytes than those of the same key of which "
        f"{where} was made: {', '.join(names[:_NAMED])}. Is this another split, or another data set with the same "
        "names? Then label it, or give its own store. Are they the same pictures, whole, and encoded anew? Then say "
        "same_bytes=False"
    )


def _rows_by_bytes(images: Images, indices: Sequence[int], maps: LabelMaps, unlabeled: str) -> list[int]:
    """The rows of images that have no key, by what their files hold."""
    rows: list[int] = []
    with Progress("reading images", len(indices), unit="images") as bar:
        for files in images.files(indices):
            rows += maps.find_images(files).tolist()
            bar.advance(len(files))
    unknown = [images.name(index) for index, row in zip(indices, rows, strict=True) if row < 0]
    if unknown and unlabeled == "raise":
        raise LabelError(
            f"{maps.where} has no image of the bytes of {len(unknown)} of {len(rows)} images: "
            f"{', '.join(unknown[:_NAMED])}. Label the very files that the data set holds, not copies that were "
            "encoded anew; or give key=, or drop them with unlabeled='drop'"
        )
    return rows
