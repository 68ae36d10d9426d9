"""What a run is about to make: its shard tasks, and the manifest of its store."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from relabel.generate.options import GenerateOptions
from relabel.images import ImageSource
from relabel.manifest import DataRecord, Manifest, MemberRecord, ScoreRecord, fingerprint
from relabel.plan import ROWS_PER_SHARD, ShardTask, plan
from relabel.progress import Progress
from relabel.score_map import STEP
from relabel.teacher import Ensemble


@dataclass(frozen=True, slots=True)
class Listing:
    """The tasks of all processes, the record of the data, and the fingerprint of each task's keys.

    Where the user skipped the pass over the keys there are no counts and no fingerprints.
    """

    tasks: tuple[ShardTask, ...]
    record: DataRecord
    fingerprints: tuple[str, ...]


def listed(source: ImageSource, options: GenerateOptions, *, title: str, shown: bool) -> Listing:
    """One pass over the source's keys, with a bar."""
    if source.kind == "webdataset" and options.samples_per_shard is not None:
        tasks = plan([(name, options.samples_per_shard) for name in source.parts()])
        keys: Iterable[str] = source.parts()
        fingerprints: tuple[str, ...] = ()
    else:
        with Progress(title, None, unit="images", shown=shown) as progress:
            listing = source.listing(workers=options.threads, progress=progress.advance)
        parts = {part.name: part.keys for part in listing}
        rows = (options.samples_per_shard or ROWS_PER_SHARD) if source.kind == "folder" else None
        tasks = plan([(name, len(keys)) for name, keys in parts.items()], rows_per_shard=rows)
        keys = itertools.chain.from_iterable(parts.values())
        fingerprints = tuple(fingerprint(parts[t.source][t.first : t.first + t.count]) for t in tasks)
    names = tuple(
        task.source if source.kind == "webdataset" else f"images {task.first} to {task.first + task.count}"
        for task in tasks
    )
    record = DataRecord(
        kind=source.kind,
        shards=names,
        counts=tuple(task.count for task in tasks) if fingerprints else (),
        rows_per_shard=max(task.count for task in tasks),
        fingerprint=fingerprint(keys),
    )
    return Listing(tasks, record, fingerprints)


def manifest_of(ensemble: Ensemble, data: DataRecord, options: GenerateOptions) -> Manifest:
    """What makes the store."""
    first, *others = ensemble.members
    planes = min(options.planes, ensemble.num_classes)
    return Manifest(
        teacher=first.record,
        preprocessing=first.preprocessing,
        scores=ScoreRecord(
            num_classes=ensemble.num_classes,
            planes=planes,
            profile=min(options.profile, ensemble.num_classes - planes),
            grid_hw=ensemble.grid.size_hw,
            dtype=options.dtype,
            compression=options.compression,
            # It means nothing for halves, whose stores must not differ by it.
            step=options.step if options.dtype == "uint8" else STEP,
        ),
        data=data,
        others=tuple(MemberRecord(teacher=m.record, preprocessing=m.preprocessing) for m in others),
        flip_average=ensemble.flip_average,
        footprint=(0.0, 0.0, 1.0, 1.0) if first.preprocessing.fit == "squash" else None,
        class_names=ensemble.class_names,
        versions={name: _version(name) for name in ("relabel", "torch", "torchvision", "timm")},
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return "unknown"
