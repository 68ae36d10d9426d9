"""What a run is about to make: its shard tasks, and the manifest of its store."""

from __future__ import annotations

import logging

from relabel.generate.options import GenerateOptions
from relabel.geometry import WHOLE
from relabel.images import ImageSource, Listing
from relabel.manifest import PER_ROW, ClassSpaces, DataRecord, Manifest, MemberRecord, ScoreRecord, versions
from relabel.progress import Progress
from relabel.teacher import Ensemble
from relabel.teacher.devices import device_text

_log = logging.getLogger(__name__)


def listed(source: ImageSource, options: GenerateOptions, *, title: str, shown: bool) -> Listing:
    """One pass over the source's keys, with a bar."""
    with Progress(title, None, unit="images", shown=shown, reading=lambda: source.reading) as progress:
        return source.listing(options.samples_per_shard, workers=options.threads, progress=progress.advance)


def tell_of_classes(spaces: ClassSpaces) -> None:
    """Warn where the images' classes are not the teacher's: nobody should find that out after days on a GPU."""
    if spaces.are_same is False:
        _log.warning(
            "%s. The labels will be over the teacher's classes, whatever the images' are. For labels over theirs, "
            "fine-tune a teacher on them, or keep those of the teacher's classes that are theirs, with --classes FILE",
            spaces.why,
        )


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
            step=options.step if options.dtype == "uint8" else None,
        ),
        data=data,
        others=tuple(MemberRecord(teacher=m.record, preprocessing=m.preprocessing) for m in others),
        flip_average=ensemble.flip_average,
        mean=ensemble.mean if ensemble.passes > 1 else "probability",
        footprint=WHOLE if first.preprocessing.fit == "squash" else PER_ROW,
        class_names=ensemble.class_names,
        versions=versions() | {"device": device_text(ensemble.device)},
    )
