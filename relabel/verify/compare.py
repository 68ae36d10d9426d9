"""A store against the images that it claims to label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from relabel.images import ImageSource, image_hash
from relabel.store import RowTable
from relabel.verify.findings import Finding

_SPAN = 1024


@dataclass(frozen=True, slots=True)
class _Row:
    shard: int
    row: int
    hash: int
    label: int


def compare_images(
    source: ImageSource, tables: Mapping[int, RowTable], pool: Executor, progress: Callable[[int], None]
) -> tuple[int, list[Finding]]:
    """How many images were compared, and every difference in keys, bytes or ground truth.

    Keys are looked up wherever they are, so that images may have been moved between tars.
    """
    rows = {
        key: _Row(shard, row, int(table.image_hashes[row]), int(table.labels[row]))
        for shard, table in tables.items()
        for row, key in enumerate(table.keys)
        if key
    }
    listing = source.listing(workers=1, progress=lambda _: None)
    # A tar is read from its start; a folder's images can be shared out.
    spans = [
        (part.name, first, min(span, len(part.keys) - first))
        for part in listing
        for span in (_SPAN if source.kind == "folder" else len(part.keys),)
        for first in range(0, len(part.keys), span)
    ]

    def compared(span: tuple[str, int, int]) -> tuple[int, list[Finding]]:
        findings: list[Finding] = []
        count = 0
        for image in source.read(*span):
            count += 1
            row = rows.get(image.key)
            if row is None:
                findings.append(
                    Finding(-1, -1, image.key, "an image of this key is there, and the store has no row for it")
                )
            elif row.hash != image_hash(image.data):
                findings.append(
                    Finding(row.shard, row.row, image.key, "the image's bytes are not those that were labelled")
                )
            elif row.label != image.label:
                what = f"its ground truth is {image.label} and the store says {row.label}"
                findings.append(Finding(row.shard, row.row, image.key, what))
            progress(1)
        return count, findings

    outcomes = list(pool.map(compared, spans))
    there = {key for part in listing for key in part.keys}
    lost = [Finding(row.shard, row.row, key, "no such image is there") for key, row in rows.items() if key not in there]
    return sum(count for count, _ in outcomes), [f for _, findings in outcomes for f in findings] + lost
