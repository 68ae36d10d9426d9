"""What most of an archive's files are decides what the store is."""

from __future__ import annotations

from collections import Counter

import pytest

from relabel.errors import InvalidValueError
from relabel.importers import ImportOptions
from relabel.importers.files import MapKind, Scan
from relabel.importers.result import layout_of

MANY, FEW, HALF = MapKind("float32", 3, 5, 6), MapKind("float32", 5, 9, 9), MapKind("float16", 3, 5, 6)


@pytest.mark.parametrize(
    ("kinds", "shape", "planes"),
    [
        ({MANY: 3, FEW: 1}, MANY.shape, 7),
        ({FEW: 2, MANY: 1, HALF: 2}, MANY.shape, 8),
        ({FEW: 2, MANY: 2}, FEW.shape, 30),
    ],
)
def test_most_files_decide_the_shape_and_their_richest_map_the_planes(kinds, shape, planes):
    most = {MANY: 7, FEW: 30, HALF: 8}
    found = Scan(kinds=Counter(kinds), most={kind: most[kind] for kind in kinds})
    layout = layout_of(found, ImportOptions(archive="relabel"))
    assert (layout.shape, layout.planes, layout.grid_hw) == (shape, planes, shape[2:])
    turned = layout_of(found, ImportOptions(archive="relabel", planes=2, orientation="xy"))
    assert (turned.planes, turned.grid_hw) == (2, (shape[3], shape[2]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"archive": "other"}, "archive must be one of"),
        ({"orientation": "zx"}, "orientation must be one of"),
        ({"footprint": "left"}, "footprint must be one of"),
        ({"planes": 0}, "planes must be a whole number, 1 or more"),
        ({"max_failures": 2.0}, "max_failures must be a number, from 0 to 1"),
        ({"extension": "JPEG"}, "extension is what ends an image's name"),
        ({"extension": "./a"}, "extension is what ends an image's name"),
        ({"extension": ".\x1b"}, "extension is what ends an image's name"),
    ],
)
def test_options_without_meaning_are_refused(given, said):
    with pytest.raises(InvalidValueError, match=said):
        ImportOptions(**{"archive": "relabel"} | given)
