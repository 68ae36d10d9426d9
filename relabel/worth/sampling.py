"""Some rows of a store, and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from relabel.findings import Finding, no_common_key
from relabel.images import EncodedImage, ImageSource
from relabel.store import LABELED, StoreReader


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRow:
    """A labelled row: its number in the store, its shard and its place there, and what the store says of its image."""

    number: int
    shard: int
    row: int
    key: str
    image_hash: int
    label: int

    def finding(self, what: str) -> Finding:
        """A finding about this row."""
        return Finding(self.shard, self.row, self.key, what)


def sample_rows(reader: StoreReader, count: int, seed: int) -> list[SampledRow]:
    """At most `count` labelled rows, ascending: one at random out of each of `count` equal parts of the store."""
    labeled = {shard: np.flatnonzero(reader.statuses(shard) == LABELED) for shard in sorted(reader.published)}
    numbers = np.concatenate(
        [np.empty(0, np.int64), *(shard * reader.rows_per_shard + rows for shard, rows in labeled.items())]
    )
    sampled: list[SampledRow] = []
    for shard, group in groupby(
        numbers[_places(len(numbers), count, seed)].tolist(), lambda number: number // reader.rows_per_shard
    ):
        table = reader.table(shard)
        for number in group:
            row = number % reader.rows_per_shard
            sampled.append(
                SampledRow(
                    number=number,
                    shard=shard,
                    row=row,
                    key=table.keys[row],
                    image_hash=int(table.image_hashes[row]),
                    label=int(table.labels[row]),
                )
            )
    return sampled


def _places(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """(n,) ascending numbers in [0, total)."""
    if count >= total:
        return np.arange(total)
    # Whole numbers, or two parts could share a row.
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def sampled_images(
    source: ImageSource,
    reader: StoreReader,
    rows: Sequence[SampledRow],
    findings: list[Finding],
    progress: Callable[[int], None],
) -> Iterator[tuple[SampledRow, EncodedImage]]:
    """(row, image) of some rows, found by key and held against their hash; `findings` get what is wrong with others."""
    wanted = {row.key: row for row in rows}
    places = {row.key: reader.manifest.data.shards[row.shard] for row in rows}
    for image in source.find(places, lambda error: findings.append(Finding(-1, -1, "", str(error)))):
        row = wanted.pop(image.key)
        # A store that was imported may not know its images' bytes.
        # One that cannot be read fails as one that cannot be decoded does, later.
        if row.image_hash and not image.error and row.image_hash != image.image_hash:
            findings.append(row.finding("the image's bytes are not those that were labelled"))
            progress(1)
        else:
            yield row, image
    for row in wanted.values():
        findings.append(row.finding("no image of this key is there"))
        progress(1)
    if rows and len(wanted) == len(rows):
        findings.append(Finding(-1, -1, "", no_common_key(rows[0].key)))
