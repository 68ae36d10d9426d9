"""What a store of an archive is: decided by what most of its files are, and by the options."""

from __future__ import annotations

from collections import Counter

from relabel.errors import InvalidValueError, SourceError
from relabel.geometry import WHOLE
from relabel.importers.archive import Rows
from relabel.importers.files import Scan
from relabel.importers.options import PUBLISHED, ImportOptions
from relabel.importers.planes import Layout
from relabel.manifest import PER_ROW, ImportRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord, versions
from relabel.store.layout import class_dtype


def layout_of(found: Scan, options: ImportOptions) -> Layout:
    """The shape and the number of planes of a store of the files that were found.

    Raises:
        SourceError: none of the files is a map.
        InvalidValueError: the files hold the numbers of the other format.
    """
    if not found.kinds:
        raise SourceError(
            f"none of the files is a map of {PUBLISHED[options.archive].title}'s kind. For example "
            + "; ".join(found.reasons)
        )
    shapes: Counter[tuple[int, int, int, int]] = Counter()
    dtypes: Counter[str] = Counter()
    for kind, count in found.kinds.items():
        shapes[kind.shape] += count
        dtypes[kind.dtype] += count
    _refuse_other_format(max(dtypes, key=lambda dtype: (dtypes[dtype], dtype)), options)
    # Of equally many the larger, so that the order in which files were read decides nothing.
    shape = max(shapes, key=lambda shape: (shapes[shape], shape))
    most = max(most for kind, most in found.most.items() if kind.shape == shape)
    planes = min(options.planes or most, most)
    return Layout(shape, planes, options.orientation, class_dtype(options.num_classes))


def manifest_of(rows: Rows, found: Scan, layout: Layout, options: ImportOptions) -> Manifest:
    """What makes the store. Of the teacher nothing is known but what the archive's authors say."""
    published = PUBLISHED[options.archive]
    whole = options.whose_footprint == "whole"
    return Manifest(
        teacher=TeacherRecord.unseen(options.teacher_name or published.teacher),
        preprocessing=Preprocessing(
            image_size_hw=published.image_size_hw,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            interpolation="bicubic",
            fit="squash" if whole else "center",
        ),
        scores=ScoreRecord(
            num_classes=options.num_classes,
            planes=layout.planes,
            profile=0,
            grid_hw=layout.grid_hw,
            scores="logit",
            dtype="float16",
            select="cell",
        ),
        data=rows.record,
        footprint=WHOLE if whole else PER_ROW,
        imported=ImportRecord(archive=options.archive, orientation=layout.orientation, digest=f"{found.digest:032x}"),
        versions=versions(),
    )


def _refuse_other_format(dtype: str, options: ImportOptions) -> None:
    published = PUBLISHED[options.archive]
    if dtype == published.dtype or options.footprint is not None:
        return
    other = next((name for name, p in PUBLISHED.items() if p.dtype == dtype), None)
    hint = f"as {PUBLISHED[other].title}'s do: relabel import {other}" if other else "as neither published archive does"
    raise InvalidValueError(
        f"most files hold {dtype}, {hint}; {published.title}'s hold {published.dtype}. The two archives cover other "
        "parts of an image, so a mistake would shift every label. If this one is made otherwise, say which part its "
        "maps cover: --footprint whole or center"
    )
