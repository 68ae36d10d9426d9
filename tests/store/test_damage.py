"""Damage is an error or changes nothing: a label that is wrong never comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.samples import KINDS, assert_maps, assert_tables, contents, sample, write

from relabel.errors import DamagedStoreError, StoreError
from relabel.manifest import PER_ROW
from relabel.store import StoreReader, codecs, create_or_open
from relabel.store.layout import ABSENT

_EVERYTHING = sample(footprint=PER_ROW)
_RAW = sample(compression="none")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of each compression, to be copied or mended after damage."""
    folder = tmp_path_factory.mktemp("damage")
    for name, data in {"zstd": _EVERYTHING, "none": _RAW}.items():
        write(folder / name, data)
    return {name: folder / name for name in ("zstd", "none")}


def _trusting(path: Path) -> StoreReader:
    """A reader that takes every file for one that belongs there, so that a fault in one is found by itself."""
    reader = StoreReader(path)
    reader._belonging.settled = lambda shard, names, get: get()  # type: ignore[method-assign]
    return reader


def _assert_error_or_identical(path: Path, data) -> None:
    """Each shard's table and each row, by themselves: one error must not hide what another row answers."""
    try:
        reader = StoreReader(path)
    except StoreError:
        return
    for shard in range(2):
        try:
            assert_tables(reader.table(shard), data.table(shard, whole=True))
        except DamagedStoreError:
            continue
    for rows in [data.labeled, *data.labeled[:, None]]:
        try:
            assert_maps(reader.read(rows), data.maps(rows))
        except DamagedStoreError:
            continue


@pytest.mark.parametrize("compression", ["zstd", "none"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_changed_or_lost_byte_never_gives_a_wrong_label(stores, compression, draw):
    path, data = stores[compression], {"zstd": _EVERYTHING, "none": _RAW}[compression]
    whole = {name: bytes_ for name, bytes_ in contents(path).items() if bytes_}
    name = draw.draw(st.sampled_from(sorted(whole)), "file")
    at = draw.draw(st.integers(0, len(whole[name]) - 1), "offset")
    flip = draw.draw(st.one_of(st.none(), st.integers(1, 255)), "bits (none cuts the file there)")
    damaged = bytearray(whole[name])
    if flip is None:
        del damaged[at:]
    else:
        damaged[at] ^= flip
    (path / name).write_bytes(damaged)
    try:
        _assert_error_or_identical(path, data)
    finally:
        (path / name).write_bytes(whole[name])


@pytest.mark.parametrize(("compression", "harmless"), [("zstd", [(4, 4), (4, 5)]), ("none", [])])
def test_a_flipped_bit_of_a_map_or_the_index_is_an_error(stores, compression, harmless):
    """But for two bits of a zstd frame's header: one means nothing, one only leaves out the length of a small frame."""
    path, data = stores[compression], {"zstd": _EVERYTHING, "none": _RAW}[compression]
    file = path / "scores" / "c.0.0.0.0.0"
    whole = file.read_bytes()
    chunk, index = int(StoreReader(path)._open.map(0).index[0, 1]), len(whole) - 100
    unseen = []
    # All bits of the header, where two are harmless, and of the checksums; of all other bytes one.
    whole_bytes = [*range(12), *range(chunk - 4, chunk), *range(len(whole) - 4, len(whole))]
    others = [(at, at % 8) for at in (*range(12, chunk - 4), *range(index, len(whole) - 4))]
    for at, bit in [*((at, bit) for at in whole_bytes for bit in range(8)), *others]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            assert_maps(_trusting(path).read(data.labeled[:2]), data.maps(data.labeled[:2]))
            unseen.append((at, bit))
        except DamagedStoreError:
            pass
    file.write_bytes(whole)
    assert unseen == harmless


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_missing_file_is_named(tmp_path, kind):
    data = sample(**kind)
    write(tmp_path / "store", data)
    for name in contents(tmp_path / "store"):
        file = tmp_path / "store" / name
        file.rename(tmp_path / "away")
        is_unpublished = name.startswith("status/c")
        with pytest.raises(StoreError, match="1 of 2 shards" if is_unpublished else name):
            StoreReader(tmp_path / "store")
        (tmp_path / "away").rename(file)
    assert_maps(StoreReader(tmp_path / "store").read(data.labeled), data.maps(data.labeled))


def test_a_partial_reader_refuses_only_what_is_missing(stores, tmp_path):
    path = shutil.copytree(stores["zstd"], tmp_path / "store")
    (path / "classes" / "c.1.0.0").unlink()
    reader = StoreReader(path, partial=True)
    assert_maps(reader.read([0]), _EVERYTHING.maps([0]))
    with pytest.raises(DamagedStoreError, match=r"cannot read classes/c.1.0.0: No such file"):
        reader.read([0, 6])


def test_the_damaged_row_of_a_batch_is_named(stores, tmp_path):
    path = shutil.copytree(stores["zstd"], tmp_path / "store")
    file = path / "scores" / "c.1.0.0.0.0"
    damaged = bytearray(file.read_bytes())
    damaged[int(StoreReader(path)._open.map(1).index[3, 0]) + 20] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DamagedStoreError, match=r"scores/c.1.0.0.0.0 is damaged \(row 3: Zstd.*\). Restore the file"):
        _trusting(path).read(_EVERYTHING.labeled)


def _with_index(path: Path, change) -> None:
    """Rewrite the index of shard 0 as another writer might, checksum included."""
    file = path / "scores" / "c.0.0.0.0.0"
    whole = file.read_bytes()
    index = np.frombuffer(whole[-100:-4], "<u8").reshape(6, 2).copy()
    chunks = change(index, whole[:-100])
    file.write_bytes(chunks + codecs.CRC32C.encode(index.tobytes()))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ((2**40, 10), "points outside the file"),
        ((0, 2**40), "points outside the file"),
        ((2**64 - 20, 30), "points outside the file"),
        ((ABSENT, 10), "points outside the file"),
        ((10, ABSENT), "points outside the file"),
        ((0, 0), "row 0: "),
        ((0, 30), "row 0: "),
        ((3, 30), "row 0: "),
        ((ABSENT, ABSENT), "row 0 is labelled and has no map"),
        (None, "row 0: "),  # its own map and the next, that of row 2: row 1 failed
    ],
)
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_an_index_that_leads_astray_is_refused(stores, tmp_path, compression, entry, said):
    path = shutil.copytree(stores[compression], tmp_path / "store")

    def change(index, chunks):
        index[0] = entry or (0, index[0, 1] + index[2, 1])
        return chunks

    _with_index(path, change)
    for rows in ([0], [0, 2, 3]):
        with pytest.raises(DamagedStoreError, match=said):
            _trusting(path).read(rows)


@pytest.mark.parametrize("lengths", [(0, 80), (1, 80), (79, 81), (81, 79), (160, 0), (240, 80)])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_maps_of_another_size_are_refused_and_do_not_slide(stores, tmp_path, compression, lengths):
    path = shutil.copytree(stores[compression], tmp_path / "store")
    pack = codecs.ZSTD.encode if compression == "zstd" else codecs.CRC32C.encode

    def change(index, chunks):
        for row, length in zip((2, 3), lengths, strict=True):
            chunk = pack(bytes(length))
            index[row] = len(chunks), len(chunk)
            chunks += chunk
        return chunks

    _with_index(path, change)
    for rows in ([2], [2, 3], [0, 2, 3]):
        with pytest.raises(DamagedStoreError, match="row 2: "):
            _trusting(path).read(rows)


@pytest.mark.parametrize("rows", [0, 5, 7, 12])
def test_a_file_of_more_or_fewer_rows_is_refused(stores, tmp_path, rows):
    path = shutil.copytree(stores["zstd"], tmp_path / "store")
    packed = {
        "classes": codecs.CRC32C.encode(bytes(rows * 14)),
        "profile": codecs.CRC32C.encode(bytes(rows * 5)),
        "footprint": codecs.ZSTD.encode(bytes(rows * 16)),
        "image_hash": codecs.ZSTD.encode(bytes(rows * 8)),
        "key": codecs.ZSTD.encode(codecs.encode_strings(["a"] * rows)),
    }
    for name, data in packed.items():
        file = next((path / name).glob("c.0.*"))
        whole = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
        reader = StoreReader(path)
        with pytest.raises(DamagedStoreError, match=f"{name}/{file.name} is damaged"):
            reader.table(0) if name in ("image_hash", "key") else reader.read([0])
        file.unlink()
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("scores", {"shape": [2, 6, 4, 5, 4]}),
        ("scores", {"data_type": "int8"}),
        ("scores", {"fill_value": 0}),
        ("scores", {"codecs": []}),
        ("scores", {"attributes": {"scale_factor": -0.125, "add_offset": 0.0, "_FillValue": 255}}),
        ("scores", {"attributes": None}),
        ("classes", {"dimension_names": ["row", "shard", "class"]}),
        ("key", {"chunk_key_encoding": {"name": "v2"}}),
        ("label", {"storage_transformers": [{"name": "mirror"}]}),
        ("status", {"node_type": "group"}),
    ],
)
def test_an_array_that_is_not_of_the_format_is_refused_by_readers_and_mended_by_writers(
    stores, tmp_path, array, change
):
    path = shutil.copytree(stores["zstd"], tmp_path / "store")
    file = path / array / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DamagedStoreError, match=f"{array}/zarr.json does not agree .* in {next(iter(change))}"):
        StoreReader(path)
    create_or_open(path, _EVERYTHING.manifest)
    assert contents(path) == contents(stores["zstd"])


def test_what_others_add_is_left_alone(stores, tmp_path):
    path = shutil.copytree(stores["zstd"], tmp_path / "store")
    file = path / "scores" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["units"] = "nat"
    file.write_text(json.dumps(metadata))
    (path / "note.txt").write_text("not ours")
    assert_maps(StoreReader(path).read([0]), _EVERYTHING.maps([0]))
