"""The promises of a store as a whole: its folders, its zarr.json files, and what the manifest says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import numpy as np

from relabel.errors import DamagedStoreError
from relabel.manifest import PER_ROW, Manifest
from relabel.store import StoreReader
from relabel.store.files import StoreFiles
from relabel.store.layout import array_metadata, arrays_of
from relabel.store.metadata import array_faults, read_json
from relabel.store.readings import READING, read_reading
from relabel.verify.rows import contradicts

_GROUP_FIELDS = frozenset({"zarr_format", "node_type", "attributes", "consolidated_metadata"})


def metadata_findings(reader: StoreReader) -> Iterator[str]:
    """Everything that is wrong with the store as a whole."""
    yield from (what for _, what in json_findings(reader.files, reader.manifest))
    yield from _manifest_findings(reader)
    yield from _stray_files(reader)


def json_findings(files: StoreFiles, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) of the zarr.json files, but for what the manifest says."""
    group = read_json(files, "zarr.json")
    if group.get("consolidated_metadata") is not None:
        what = "zarr.json holds consolidated metadata, a copy of the arrays' metadata that readers would believe"
        yield "zarr.json", what
    yield from _unknown_fields("zarr.json", group, _GROUP_FIELDS)
    faults = dict(array_faults(files, manifest))
    for name, spec in arrays_of(manifest).items():
        file, fields = f"{name}/zarr.json", array_metadata(spec, manifest).keys() | {"storage_transformers"}
        if name in faults:
            yield file, faults[name]
        else:
            yield from _unknown_fields(file, read_json(files, file), fields)


def _unknown_fields(file: str, found: dict[str, Any], fields: Set[str]) -> Iterator[tuple[str, str]]:
    """zarr readers must refuse a field that they do not know."""
    for name in sorted(found.keys() - fields):
        yield file, f"{file} holds {name!r}, which is no field of zarr v3"


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
    try:
        read_reading(reader)
    except DamagedStoreError as error:
        yield str(error)
    for name in sorted(reader.files.names("") - reader.arrays.keys() - {"zarr.json", READING}):
        yield f"{name} does not belong to the store"
    for spec in reader.arrays.values():
        expected = {spec.file_name(shard) for shard in range(reader.num_shards)} | {"zarr.json"}
        for name in sorted(reader.files.names(spec.name) - expected):
            yield f"{spec.name}/{name} does not belong to the store (left by a run that was stopped?)"
