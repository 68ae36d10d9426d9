"""Which rows of a store a data set's items are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relabel.errors import LabelError
from relabel.loader.datasets import Images, Key
from relabel.loader.kinds import Items
from relabel.loader.maps import LabelMaps
from relabel.progress import Progress


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
            f"{', '.join(unknown[:8])}. Label the very files that the data set holds, not copies that were encoded "
            "anew; or give key=, or drop them with unlabeled='drop'"
        )
    return rows
