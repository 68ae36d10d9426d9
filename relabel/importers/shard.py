"""One shard: its maps and images read side by side, and published whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from relabel.errors import ImageError, SourceError
from relabel.geometry import WHOLE, Footprint
from relabel.images import EncodedImage, ImageSource, header_facts
from relabel.importers.archive import Rows
from relabel.importers.files import Files, added
from relabel.importers.planes import Layout, convert
from relabel.importers.workers import Workers
from relabel.manifest import PER_ROW
from relabel.plan import Failure, ShardTask
from relabel.store import Row, RowTable, StoreWriter

TOGETHER = 256
"""Files of one call: a process hands back about 3 MB."""
_NUMBERS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """What is the same for all shards; `digests` are of the files that the scan saw, a shard each."""

    rows: Rows
    source: ImageSource | None
    num_classes: int
    layout: Layout
    digests: list[int]
    writer: StoreWriter
    again: frozenset[int]
    workers: Workers


@dataclass(slots=True)
class ImportedShard:
    """What became of a shard: its scores, those that found no plane, its images without a map; or why there is none."""

    images: int = 0
    scores: int = 0
    dropped: int = 0
    failures: list[Failure] = field(default_factory=list)
    refusal: Failure | None = None


def files_of(rows: Rows, task: ShardTask, num_classes: int) -> Iterator[Files]:
    """The files of a task's maps, a few hundred rows at a time; always the same ones together."""
    first = rows.first(task)
    for start in range(first, first + task.count, TOGETHER):
        names = tuple(rows.name(row) for row in range(start, min(start + TOGETHER, first + task.count)))
        yield Files(rows.archive.folder, names, num_classes)


def import_shard(job: ShardJob, task: ShardTask, advance: Callable[[int], None]) -> ImportedShard:
    """Convert and publish a shard. One whose images or maps changed since they were listed is not published."""
    with job.writer.claim(task.shard, again=task.shard in job.again) as claimed:
        try:
            table, done = _filled(job, task, claimed.add, advance)
        except SourceError as error:
            return ImportedShard(refusal=Failure(task.shard, "", str(error)))
        except MemoryError:
            return ImportedShard(refusal=Failure(task.shard, "", "out of memory; free some and run again"))
        claimed.publish(table)
    return done


def _filled(
    job: ShardJob, task: ShardTask, add: Callable[..., None], advance: Callable[[int], None]
) -> tuple[RowTable, ImportedShard]:
    """Hand the shard's maps over to `add`; what else is known of its rows."""
    rows, first = job.rows, job.rows.first(task)
    done, digest = ImportedShard(images=task.count), 0
    images = _images(job, task)
    told: list[Row] = []
    calls = ((files, job.layout) for files in files_of(rows, task, job.num_classes))
    for found in job.workers.map(convert, calls, ahead=2):
        start = len(told)
        together = list(islice(images, len(found.reasons)))
        for number, one in enumerate(together):
            error = rows.fault(first + start + number) or found.reasons[number] or one.error
            together[number] = replace(one, error=error)
        told += together
        good = np.array([i for i, place in enumerate(found.places.tolist()) if not together[place].error], np.intp)
        for some in _few(good, job.layout):
            places = found.places[some]
            batch, dropped = found.batch(some)
            if job.writer.manifest.footprint == PER_ROW:
                boxes = [together[place].footprint.xyxy for place in places.tolist()]
                batch = replace(batch, footprint=np.array(boxes, np.float32))
            add(start + places, batch)
            done.scores += found.slots[some].size
            done.dropped += dropped
        digest = added(digest, found.digest)
        advance(len(together))
    if digest != job.digests[task.shard]:
        raise SourceError("the archive's files changed while they were imported; run again when nothing writes them")
    done.failures = [Failure(task.shard, one.key, one.error) for one in told if one.error]
    return RowTable.of(told), done


def _few(good: NDArray[np.intp], layout: Layout) -> Iterator[NDArray[np.intp]]:
    """The same, few enough at a time that their planes fit into a few megabytes, however many there are."""
    numbers = (layout.planes + 1) * layout.shape[2] * layout.shape[3]
    together = max(1, _NUMBERS // numbers)
    for start in range(0, len(good), together):
        yield good[start : start + together]


def _images(job: ShardJob, task: ShardTask) -> Iterator[Row]:
    """What each of a task's images says itself, in order; where there is no source, only their keys are known."""
    first = job.rows.first(task)
    keys = job.rows.keys[first : first + task.count]
    if job.source is None:
        yield from (Row(key=key) for key in keys)
        return
    count = 0
    for image in job.source.read(task.source, task.first, task.count):
        if count >= len(keys) or image.key != keys[count]:
            raise SourceError(
                f"{task.source} changed during the run: it holds {image.key!r}, which was not listed there"
            )
        count += 1
        yield _row(image, is_centre=job.writer.manifest.footprint == PER_ROW)
    if count != task.count:
        raise SourceError(f"{task.source} changed during the run: {count} images, and {task.count} were listed")


def _row(image: EncodedImage, *, is_centre: bool) -> Row:
    """An image that cannot be read has no centre square, but may well have a map of all of it."""
    row = Row(key=image.key, image_hash=image.image_hash, label=image.label)
    try:
        facts = header_facts(image.encoded())
    except ImageError as error:
        return replace(row, error=str(error)) if is_centre else row
    footprint = Footprint.center_square(facts.size_hw) if is_centre else WHOLE
    return replace(row, size_hw=facts.size_hw, orientation=facts.orientation, footprint=footprint)
