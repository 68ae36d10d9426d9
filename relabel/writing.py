"""A store of score maps that another program made: one's own logits, with no teacher of relabel's in between."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np

from relabel.errors import ImageError, InvalidValueError, StoreError
from relabel.geometry import Footprint
from relabel.images import ImageSource, Listing, SourcePart, header_facts, open_source
from relabel.manifest import (
    PER_ROW,
    CodeType,
    Compression,
    DataRecord,
    Manifest,
    ScoreRecord,
    TeacherRecord,
    versions,
)
from relabel.manifest.reading import plain, read
from relabel.paths import expanded
from relabel.plan import ROWS_PER_SHARD
from relabel.score_map import ScoreMap
from relabel.store import Row, RowBatch, RowTable, create_or_open
from relabel.store.rows import check_text

_SHOWN = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What else is known of maps that were made elsewhere, and how they are stored.

    Attributes:
        teacher: what the manifest calls who made them.
        class_names: C names of the classes that the maps speak of; None where they are only numbers.
        labels: the ground truth class of each key, -1 where unknown; None takes what the images' source says.
        label_names: the names of those classes.
        rows_per_shard: the images of a shard.
        dtype, step, compression: the coding of scores, as for `generate`; `step` is nats per code of uint8 scores.
    """

    teacher: str = "unknown"
    class_names: tuple[str, ...] | None = None
    labels: Sequence[int] | None = None
    label_names: tuple[str, ...] | None = None
    rows_per_shard: int = ROWS_PER_SHARD
    dtype: CodeType = "uint8"
    step: float | None = None
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        kinds = get_type_hints(WriteOptions)
        for name in (field.name for field in fields(self) if field.name != "labels"):
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            try:
                read(kinds[name], plain(value), name)
            except TypeError as error:
                raise InvalidValueError(str(error)) from error
        if self.labels is not None and not hasattr(self.labels, "__len__"):
            raise InvalidValueError(f"labels are whole numbers, one per key; got {self.labels!r}")


def write(
    store: str | Path,
    keys: Sequence[str],
    maps: ScoreMap | Iterable[ScoreMap],
    *,
    images: str | ImageSource | None = None,
    options: WriteOptions | None = None,
) -> None:
    """Make a store of score maps that are in memory, or arrive batch by batch: any program's logits.

    ``ScoreMap.from_logits`` makes maps of dense logits (B, C, H, W). The store verifies, and serves labels, as one
    that `generate` made; it says that its teacher is unknown.

    Args:
        store: the store's folder, which must not be there yet, or be empty.
        keys: of the images, each once, in the order of the maps.
        maps: all of them, or batches in order; of one number of classes, planes and profile classes, and one grid. They
            are of images as decoded, without EXIF rotation.
        images: the images, as for `generate`, whose keys are among those: the store then knows each one's hash, size,
            orientation and class, so that it can be verified against them; one that cannot be read is a failed row, and
            its map is left out. Without, all that is unknown.
        options: everything else.

    Raises:
        InvalidValueError: a key twice or empty, or without an image; more or fewer maps or labels than keys, maps that
            differ in kind, or a label that is none.
        SourceError: the images cannot be listed.
        StoreError: the store is there already, or cannot be written.

    >>> import tempfile, torch, relabel
    >>> maps = ScoreMap.from_logits(torch.randn(3, 10, 4, 5), planes=2, profile=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/labels.zarr", ["a.jpg", "b.jpg", "c.jpg"], maps)
    ...     relabel.open(f"{folder}/labels.zarr").rows(["c.jpg"])
    tensor([2])
    """
    options, path = options or WriteOptions(), expanded(store)
    if "://" in str(store):
        raise StoreError(f"{store} is a URL, and write makes local folders. Copy the store there afterwards")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{store} is there already: give another folder, or delete it")
    rows, names = _rows(keys, images, options)
    batches = _checked([maps] if isinstance(maps, ScoreMap) else maps)
    first = next(batches, None)
    if first is None or (isinstance(maps, ScoreMap) and len(maps) != len(keys)):
        raise InvalidValueError(f"{len(keys)} keys need as many maps; got {0 if first is None else len(first)}")
    listing = Listing.of("written", (SourcePart("", tuple(keys)),), options.rows_per_shard, names)
    writer = create_or_open(path, _manifest(first, listing.record, options))
    arriving = _Arriving(itertools.chain([first], batches), len(keys))
    for task in listing.tasks:
        with writer.claim(task.shard) as shard:
            told, filled = rows[task.first : task.first + task.count], 0
            for some in arriving.take(task.count):
                good = np.flatnonzero([not row.error for row in told[filled : filled + len(some)]])
                shard.add(filled + good, RowBatch.of(some, writer.manifest.scores).take(good))
                filled += len(some)
            if task is listing.tasks[-1]:
                arriving.refuse_more()
            shard.publish(RowTable.of(told))


class _Arriving:
    """Maps in batches of any size, taken in pieces of any other."""

    def __init__(self, batches: Iterator[ScoreMap], expected: int) -> None:
        self._batches, self._expected, self._taken = batches, expected, 0
        self._left: ScoreMap | None = None

    def take(self, count: int) -> Iterator[ScoreMap]:
        """The next so many maps."""
        while count:
            batch = self._left if self._left is not None else next(self._batches, None)
            if batch is None:
                raise InvalidValueError(f"{self._expected} keys need as many maps; only {self._taken} came")
            some, rest = batch[:count], batch[count:]
            self._left = rest if len(rest) else None
            count -= len(some)
            self._taken += len(some)
            yield some

    def refuse_more(self) -> None:
        """Raise where there are more maps than keys: they would belong to others than was thought."""
        if self._left is not None or next(self._batches, None) is not None:
            raise InvalidValueError(
                f"{self._expected} keys need as many maps; more came. The last shard is not published"
            )


def _manifest(first: ScoreMap, data: DataRecord, options: WriteOptions) -> Manifest:
    planes = first.planes.shape[1]
    return Manifest(
        # A number of its own for each run: shards of other logits under the same keys must not pass for this one's.
        teacher=replace(TeacherRecord.unseen(options.teacher), weights_digest=secrets.token_hex(32)),
        preprocessing=None,
        scores=ScoreRecord(
            num_classes=first.num_classes,
            planes=planes,
            profile=first.classes.shape[1] - planes,
            grid_hw=first.grid.size_hw,
            dtype=options.dtype,
            step=options.step,
            compression=options.compression,
        ),
        data=data,
        footprint=first.footprint if isinstance(first.footprint, Footprint) else PER_ROW,
        class_names=options.class_names,
        versions=versions(),
    )


def _rows(
    keys: Sequence[str], images: str | ImageSource | None, options: WriteOptions
) -> tuple[list[Row], tuple[str, ...] | None]:
    """What is known of each image, in the order of the keys, and the names of the ground truth's classes."""
    # A set has no order to go by, and an array of numpy no strings of Python.
    if not isinstance(keys, (list, tuple)) or not keys or not all(isinstance(key, str) and key for key in keys):
        raise InvalidValueError("keys are a list of strings, one per map in their order, none of them empty")
    check_text(keys)
    rows = {key: Row(key=key) for key in keys}
    if len(rows) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise InvalidValueError(f"labels follow keys, so each must stand once; {twice!r} stands twice")
    names = options.label_names
    if images is not None:
        names = _read(open_source(images), rows) if names is None else names
    if options.labels is not None:
        if len(options.labels) != len(keys):
            raise InvalidValueError(f"{len(keys)} keys need as many labels; got {len(options.labels)}")
        _check_labels(options.labels, names)
        rows = {key: replace(rows[key], label=int(label)) for key, label in zip(keys, options.labels, strict=True)}
    return list(rows.values()), names


def _check_labels(labels: Sequence[int], names: tuple[str, ...] | None) -> None:
    most = 2**31 if names is None else len(names)
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not -1 <= label < most:
            raise InvalidValueError(f"labels are whole numbers from -1 (unknown) to {most - 1}; got {label!r}")


def _checked(batches: Iterable[ScoreMap]) -> Iterator[ScoreMap]:
    for batch in batches:
        if not isinstance(batch, ScoreMap):
            raise InvalidValueError(
                f"maps are ScoreMaps, which ScoreMap.from_logits makes of logits; got a {type(batch).__name__}"
            )
        yield batch


def _read(source: ImageSource, rows: dict[str, Row]) -> tuple[str, ...] | None:
    """Fill in what the images say; the names of their classes."""
    listing = source.listing(None, workers=1, progress=lambda _: None)
    lacking = set(rows)
    for part in listing.parts:
        for image in source.read(part.name, 0, len(part.keys)):
            if image.key not in rows:
                continue
            lacking.discard(image.key)
            row = Row(key=image.key, image_hash=image.image_hash, label=image.label)
            try:
                facts = header_facts(image.encoded())
                rows[image.key] = replace(row, size_hw=facts.size_hw, orientation=facts.orientation)
            except ImageError as error:
                rows[image.key] = replace(row, error=str(error))
                _log.warning("%s has no label, as a failed row: %s", image.key, error)
    if lacking:
        raise InvalidValueError(
            f"the images lack {len(lacking)} of {len(rows)} keys: {', '.join(map(repr, sorted(lacking)[:_SHOWN]))}. A "
            "key is the path below the folder, with extension, or a tar's __key__"
        )
    return listing.record.class_names
