"""The zarr.json files of a store: its manifest, and whether its arrays are those of format 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relabel.errors import DamagedStoreError, StoreError
from relabel.manifest import Manifest
from relabel.store.files import StoreFiles, store_files
from relabel.store.layout import array_metadata, arrays_of


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a store, from its group's attributes.

    Raises:
        StoreError: no store of a known format is there.
    """
    return load_manifest(store_files(path))


def load_manifest(files: StoreFiles) -> Manifest:
    """See `read_manifest`."""
    group = _json(files, "zarr.json")
    if group.get("node_type") != "group" or group.get("zarr_format") != 3:
        raise StoreError(f"{files.where} is not a relabel store: its zarr.json is not that of a zarr v3 group")
    attributes = group.get("attributes")
    try:
        return Manifest.from_json(attributes if isinstance(attributes, dict) else {})
    except StoreError as error:
        raise type(error)(f"{files.where}: {error}") from error


def check_arrays(files: StoreFiles, manifest: Manifest) -> None:
    """Whether every array is as format 1 lays it out for this manifest; attributes of others' may be added.

    Raises:
        DamagedStoreError: an array's zarr.json is missing or says otherwise.
    """
    for spec in arrays_of(manifest).values():
        found, expected = _json(files, f"{spec.name}/zarr.json"), array_metadata(spec, manifest)
        attributes = found.get("attributes")
        if isinstance(attributes, dict):
            found["attributes"] = {name: attributes.get(name) for name in spec.attributes}
        # Not in the format, and a reader that did not know them would read nonsense.
        found["storage_transformers"] = found.get("storage_transformers") or []
        expected["storage_transformers"] = []
        wrong = [name for name, value in expected.items() if found.get(name) != value]
        if wrong:
            raise DamagedStoreError(
                f"{files.where}: {spec.name}/zarr.json does not agree with the manifest in {', '.join(wrong)}: "
                f"{wrong[0]} is {found.get(wrong[0])!r}, expected {expected[wrong[0]]!r}. It was edited, or is damaged"
            )


def _json(files: StoreFiles, name: str) -> dict[str, Any]:
    try:
        value = json.loads(files.local(name).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if name == "zarr.json":
            raise StoreError(
                f"{files.where} is not a relabel store: it has no zarr.json. "
                "Give the folder that `relabel generate` wrote"
            ) from error
        raise DamagedStoreError(f"{files.where} lacks the file {name}") from error
    except OSError as error:
        raise StoreError(f"cannot read {files.where}/{name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{files.where}: {name} is not JSON ({error})") from error
    return value if isinstance(value, dict) else {}
