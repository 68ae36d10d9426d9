"""The zarr.json files of a store: its manifest, and whether its arrays are those of format 1."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relabel.errors import DamagedStoreError, StoreError
from relabel.manifest import Manifest
from relabel.store.files import MOST_METADATA_BYTES, StoreFiles, read_bytes, store_files, unreadable
from relabel.store.layout import array_metadata, arrays_of

_MOST_DEPTH = 64
"""Format 1 needs 6, and others' attributes hardly more."""
_SHOWN = 400
_NO_FILE = {errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.ENXIO, errno.ENODEV}
"""Of what is there, and is a folder, a pipe, a socket, a device, a link to itself, or far too long."""


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a store, from its group's attributes.

    Raises:
        StoreError: no store of a known format is there.
    """
    return load_manifest(store_files(path))


def load_manifest(files: StoreFiles) -> Manifest:
    """See `read_manifest`."""
    group = read_json(files, "zarr.json")
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
    for _, fault in array_faults(files, manifest):
        raise DamagedStoreError(
            f"{files.where}: {fault}. `relabel verify shards --repair` makes it anew, as the manifest says"
        )


def array_faults(files: StoreFiles, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(array, what is wrong) for every array whose zarr.json is missing or says otherwise.

    Raises:
        StoreError: one is there and cannot be read.
    """
    for spec in arrays_of(manifest).values():
        try:
            found = read_json(files, f"{spec.name}/zarr.json")
        except DamagedStoreError as error:
            yield spec.name, str(error).removeprefix(f"{files.where}: ")
            continue
        expected, attributes = array_metadata(spec, manifest), found.get("attributes")
        if isinstance(attributes, dict):
            found["attributes"] = {name: attributes.get(name) for name in spec.attributes}
        # Not in the format, and a reader that did not know them would read nonsense.
        found["storage_transformers"] = found.get("storage_transformers") or []
        expected["storage_transformers"] = []
        wrong = [name for name, value in expected.items() if found.get(name) != value]
        if wrong:
            yield (
                spec.name,
                f"{spec.name}/zarr.json does not agree with the manifest in {', '.join(wrong)}: {wrong[0]} is "
                f"{_shown(found.get(wrong[0]))}, expected {expected[wrong[0]]!r}. It was edited, or is damaged",
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_json(files: StoreFiles, name: str) -> dict[str, Any]:
    """A zarr.json; {} where it is no object.

    Raises:
        StoreError: it is not there, or cannot be read.
        DamagedStoreError: it is no JSON, too long or too deep.
    """
    try:
        value = json.loads(read_bytes(files, name, MOST_METADATA_BYTES))
    except (FileNotFoundError, NotADirectoryError) as error:
        if name == "zarr.json":
            is_there = "://" in files.where or Path(files.where).exists()
            what = "is not a relabel store: it has no zarr.json" if is_there else "is not there"
            raise StoreError(f"{files.where} {what}. Give the folder that `relabel generate` wrote") from error
        raise DamagedStoreError(f"{files.where}: {name} is missing") from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise DamagedStoreError(f"{files.where}: {name} is damaged: {error.strerror}") from error
        raise unreadable(f"cannot read {files.where}/{name}", error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{files.where}: {name} is not JSON ({error})") from error
    if _is_deep(value):
        raise DamagedStoreError(f"{files.where}: {name} holds values nested more than {_MOST_DEPTH} deep")
    return value if isinstance(value, dict) else {}


def _is_deep(value: Any) -> bool:
    """Whether JSON is nested so deeply that what walks or prints it may exhaust Python's stack."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
