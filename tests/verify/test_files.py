"""Every byte of every file of a store: changed, cut, appended, removed, or never right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs.zstd import compress
from stores import seal

from relabel.errors import StoreError
from relabel.store import codecs
from relabel.verify import verify_shards

R = 3


def whats(store: Path) -> list[str]:
    """What is found, or the error."""
    try:
        return [finding.what for finding in verify_shards(store, workers=1, show_progress=False).findings]
    except StoreError as error:
        return [str(error)]


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested JSON objects by their path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def with_index(chunks: bytes, entries: list[tuple[int, int]]) -> bytes:
    """A file of score maps with a right checksum of its index; rows that are not given are absent."""
    index = np.full((R, 2), 2**64 - 1, "<u8")
    index[: len(entries)] = entries
    return chunks + codecs.CRC32C.encode(index.tobytes())


@pytest.mark.parametrize(
    ("options", "files"), [({}, "*/c.*"), ({"compression": "none", "footprints": (0.0, -0.25, 1.0, 1.25)}, "[fs]*/c.*")]
)
def test_a_changed_byte_is_found_or_changes_no_value(
    make: Callable[..., Path], options: dict[str, Any], files: str
) -> None:
    store = make(**options)
    assert whats(store) == []
    unseen = set()
    for file in sorted(store.glob(files)):
        whole = file.read_bytes()
        before = zarr.open_group(store, mode="r")[file.parent.name][:]
        # Every seventh byte: prime to the lengths of numbers and rows, so that each of their bytes is met somewhere.
        for offset in range(len(file.parent.name) % 7, len(whole), 7):
            change = 1 << offset % 8
            file.write_bytes(whole[:offset] + bytes([whole[offset] ^ change]) + whole[offset + 1 :])
            if not whats(store):
                np.testing.assert_array_equal(zarr.open_group(store, mode="r")[file.parent.name][:], before)
                unseen.add((file.name, offset))
        file.write_bytes(whole)
    assert unseen == set()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_of_the_metadata_is_found_or_is_a_version(store: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(store.rglob("zarr.json"))))
    whole = file.read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[offset] ^= data.draw(st.integers(1, 255))
    try:
        file.write_bytes(changed)
        if not whats(store):
            before, after = dict(leaves(json.loads(whole))), dict(leaves(json.loads(bytes(changed))))
            different = {name for name in before | after if before.get(name) != after.get(name)}
            assert all(name.startswith("attributes.relabel.versions.") for name in different), different
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "change", [lambda whole: whole[:-1], lambda whole: whole[1:], lambda whole: whole + b"\0", lambda whole: b""]
)
def test_a_file_that_is_cut_or_grown_is_named_and_hides_no_other(store: Path, change: Callable[[bytes], bytes]) -> None:
    files = sorted(store.glob("*/c.*"))
    for file in files:
        file.write_bytes(change(file.read_bytes()))
    found = " ".join(whats(store))
    assert [file for file in files if f"{file.parent.name}/{file.name}" not in found] == []


def test_a_missing_file_is_named_and_hides_no_other(store: Path) -> None:
    files = [file for file in sorted(store.glob("*/c.*")) if file.parent.name != "status"]
    for file in files:
        file.unlink()
    found = " ".join(whats(store))
    assert [file for file in files if f"{file.parent.name}/{file.name} cannot be read" not in found] == []


def test_frames_that_decoders_let_pass_are_found(store: Path) -> None:
    frame = bytearray((store / "status/c.0.0").read_bytes())
    frame[4] ^= 0x10  # the bit of the header that means nothing
    (store / "status/c.0.0").write_bytes(frame)
    label = store / "label/c.0.0"
    label.write_bytes(compress(np.arange(R, dtype="<i4").tobytes(), level=3, checksum=False))
    scores = store / "scores/c.0.0.0.0.0"
    frame = compress(bytes(4 * 2 * 3), level=3, checksum=False)
    scores.write_bytes(with_index(frame, [(0, len(frame))]))
    found = whats(store)
    assert "status/c.0.0 is damaged: it is not a zstd frame with a checksum" in found
    assert "label/c.0.0 is damaged: it is not a zstd frame with a checksum" in found
    assert "its map in scores/c.0.0.0.0.0 is damaged: it is not a zstd frame with a checksum" in found


def test_sound_frames_of_the_wrong_length_are_found(store: Path) -> None:
    pack = codecs.ZSTD.encode
    (store / "label/c.0.0").write_bytes(pack(bytes(4 * (R - 1))))
    (store / "image_hash/c.0.0").write_bytes(pack(bytes(8 * R + 1)))
    (store / "key/c.0.0").write_bytes(pack(codecs.encode_strings(["a", "b"])))
    (store / "error/c.0.0").write_bytes(pack(codecs.encode_strings([""] * R) + b"\0"))
    frame = pack(bytes(4 * 2 * 3 - 1))
    (store / "scores/c.0.0.0.0.0").write_bytes(with_index(frame, [(0, len(frame))]))
    found = " ".join(whats(store))
    for name in ("label", "image_hash", "key", "error"):
        assert f"{name}/c.0.0 is damaged" in found
    assert "its map in scores/c.0.0.0.0.0 is damaged: 23 bytes instead of 24" in found


@pytest.mark.parametrize(
    ("entries", "row", "what"),
    [
        ([(0, 30), (30, 30), (60, 41)], 2, "points outside the file"),
        ([(0, 30), (30, 30), (2**63, 2**63)], 2, "points outside the file"),
        ([(0, 30), (30, 30), (2**64 - 1, 40)], 2, "half empty"),
        ([(0, 30), (30, 30), (60, 2**64 - 1)], 2, "half empty"),
        ([(0, 30), (30, 30), (61, 39)], -1, "1 bytes of the file belong to no row"),
        ([(0, 30), (30, 30), (60, 39)], -1, "1 bytes of the file belong to no row"),
        ([(1, 29), (30, 30), (60, 40)], -1, "1 bytes of the file belong to no row"),
        ([(0, 30), (29, 31), (60, 40)], -1, "two rows share bytes of the file"),
        ([(0, 30), (0, 30), (30, 70)], -1, "two rows share bytes of the file"),
    ],
)
def test_an_index_that_does_not_tile_the_file_is_found(
    store: Path, entries: list[tuple[int, int]], row: int, what: str
) -> None:
    (store / "scores/c.0.0.0.0.0").write_bytes(with_index(bytes(100), entries))
    found = verify_shards(store, show_progress=False).findings
    assert any(finding.row == row and what in finding.what for finding in found), found


def test_chunks_may_stand_in_any_order(store: Path) -> None:
    file = store / "scores/c.0.0.0.0.0"
    whole = file.read_bytes()
    index = np.frombuffer(whole[-16 * R - 4 : -4], "<u8").reshape(R, 2).tolist()
    chunks = [whole[offset : offset + length] for offset, length in index]
    first = len(chunks[2]) + len(chunks[1])
    entries = [(first, len(chunks[0])), (len(chunks[2]), len(chunks[1])), (0, len(chunks[2]))]
    file.write_bytes(with_index(b"".join(reversed(chunks)), entries))
    seal(store)
    assert whats(store) == []
