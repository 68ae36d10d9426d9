"""The promises of a store as a whole: its folders, its zarr.json files, and what the manifest says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import numpy as np

from relabel.manifest import PER_ROW
from relabel.store import StoreReader
from relabel.store.layout import array_metadata
from relabel.store.metadata import read_json
from relabel.verify.rows import contradicts

_GROUP_FIELDS = frozenset({"zarr_format", "node_type", "attributes", "consolidated_metadata"})


def metadata_findings(reader: StoreReader) -> Iterator[str]:
    """Everything that is wrong with the store as a whole. The reader has compared the arrays' zarr.json already."""
    group = read_json(reader.files, "zarr.json")
    if group.get("consolidated_metadata") is not None:
        yield "zarr.json holds consolidated metadata, a copy of the arrays' metadata that readers would believe"
    yield from _unknown_fields("zarr.json", group, _GROUP_FIELDS)
    for name, spec in reader.arrays.items():
        fields = array_metadata(spec, reader.manifest).keys() | {"storage_transformers"}
        yield from _unknown_fields(f"{name}/zarr.json", read_json(reader.files, f"{name}/zarr.json"), fields)
    yield from _manifest_findings(reader)
    yield from _stray_files(reader)


def _unknown_fields(file: str, found: dict[str, Any], fields: Set[str]) -> Iterator[str]:
    """zarr readers must refuse a field that they do not know."""
    for name in sorted(found.keys() - fields):
        yield f"{file} holds {name!r}, which is no field of zarr v3"


def _manifest_findings(reader: StoreReader) -> Iterator[str]:
    manifest, data = reader.manifest, reader.manifest.data
    if len(set(data.shards)) < len(data.shards):
        yield "the manifest names two shards alike"
    if data.counts and max(data.counts) != data.rows_per_shard:
        yield (
            f"the manifest's largest count is {max(data.counts)}, and its rows_per_shard {data.rows_per_shard}: "
            "they must be equal"
        )
    fit, one = manifest.fit, manifest.footprint
    if one == PER_ROW and fit == "squash":
        yield "the manifest says that whole images were squashed, and that each row has a footprint of its own"
    if fit is not None and one != PER_ROW and contradicts(np.array([one.xyxy]), fit)[0]:
        yield f"the manifest says that images were fitted by {fit!r}, and that the maps cover {one.xyxy} of them"


def _stray_files(reader: StoreReader) -> Iterator[str]:
    for name in sorted(reader.files.names("") - reader.arrays.keys() - {"zarr.json"}):
        yield f"{name} does not belong to the store"
    for spec in reader.arrays.values():
        expected = {spec.file_name(shard) for shard in range(reader.num_shards)} | {"zarr.json"}
        for name in sorted(reader.files.names(spec.name) - expected):
            yield f"{spec.name}/{name} does not belong to the store (left by a run that was stopped?)"
