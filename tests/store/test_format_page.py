"""`docs/format.md` is enough to read a store: its own reader is run, and says what ours says."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.samples import KINDS, sample, write

from relabel.geometry import Footprint
from relabel.manifest import PER_ROW
from relabel.store import FAILED, LABELED, StoreReader
from relabel.store.layout import arrays_of
from relabel.store.readings import ReadingRecord

_TESTS = Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "docs" / "format.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the Python blocks of the page define."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/format.md", "exec"), names)
    return names


def _assert_reads_alike(page: dict[str, Any], path: Path) -> None:
    ours = StoreReader(path)
    record = ours.manifest.scores
    for number in range(ours.num_shards):
        theirs, table = page["Shard"](path, number), ours.table(number)
        assert (theirs.table["key"], theirs.table["error"]) == (table.keys, table.errors)
        for name, values in table.columns.items():
            np.testing.assert_array_equal(theirs.table[name], values)
        for row in np.flatnonzero(table.statuses == LABELED):
            batch = ours.read([number * ours.rows_per_shard + row])
            one = batch.footprint.xyxy if isinstance(batch.footprint, Footprint) else batch.footprint[0]
            np.testing.assert_array_equal(theirs.footprint[row], np.float32(one))
            maps = batch.maps(record)
            for class_id, expected in enumerate(maps.to_dense()[0].numpy()):
                np.testing.assert_allclose(theirs.scores(row, class_id), expected, rtol=0, atol=1e-5)
        for row in np.flatnonzero(table.statuses == FAILED):
            with pytest.raises(KeyError, match=re.escape(table.errors[row])):
                theirs.map(row)
        chunks = (theirs.chunks[o : o + n] if o != 2**64 - 1 else bytes(4) for o, n in theirs.index.tolist())
        checksums = theirs.numbers("checksum", "<u4", 1)[:, 0].tolist()
        assert checksums == [int.from_bytes(chunk[-4:], "little") for chunk in chunks]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_reader_of_the_page_reads_what_ours_reads(tmp_path, page, kind):
    data = sample(**kind)
    write(tmp_path / "store", data)
    _assert_reads_alike(page, tmp_path / "store")


@pytest.mark.parametrize("name", ["uint8-zstd", "uint8-raw-footprints", "float16-zstd-holes"])
def test_the_reader_of_the_page_reads_the_frozen_stores(page, name):
    _assert_reads_alike(page, _TESTS / "fixture" / "v1" / name)


def test_the_reader_of_the_page_refuses_damage(tmp_path, page):
    write(tmp_path / "store", sample(compression="none"))
    for name in ("classes/c.0.0.0", "profile/c.0.0.0", "scores/c.0.0.0.0.0", "key/c.0.0"):
        file = tmp_path / "store" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
        with pytest.raises((ValueError, RuntimeError)):
            page["Shard"](tmp_path / "store", 0).map(0)
        file.write_bytes(whole)


def test_the_digests_of_the_page_are_those_of_every_shard(tmp_path, page):
    for number, given in enumerate(KINDS.values()):
        data = sample(**given)
        write(tmp_path / str(number), data)
        for shard in range(len(data.manifest.data.shards)):
            stored = (tmp_path / str(number) / "digest" / f"c.{shard}.0.0").read_bytes()
            assert b"".join(page["digests"](tmp_path / str(number), shard)) == page["checked"](stored)


@pytest.mark.parametrize("reader", ["with_xarray", "with_zarr_python", "with_tensorstore"])
def test_the_snippets_of_the_page_work(tmp_path, page, reader):
    data = sample()
    write(tmp_path / "store", data)
    found = page[reader](str(tmp_path / "store"))
    scores = np.asarray(found[0] if isinstance(found, tuple) else found)
    np.testing.assert_array_equal(scores, data.arrays["scores"][0, 0] / (-4 if reader == "with_xarray" else 1))


def _named(text):
    named: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        names = re.findall(r"`([\w.]+)`", cell)
        group = names[0].split(".")[0]
        named |= {group + name if name.startswith(".") else name for name in names}
    return named


def test_the_page_names_every_array_and_every_field_of_the_manifest_and_of_a_reading():
    before, _, rest = _PAGE.partition("## reading.json")
    beside, _, after = rest.partition("\n## ")
    assert _named(beside) == {"format", "identity", "digest", *(each.name for each in fields(ReadingRecord))}
    manifest = sample(footprint=PER_ROW).manifest
    told = [
        f"{name}.{field}" if isinstance(value, dict) and value else name
        for name, value in manifest.to_json()["relabel"].items()
        for field in (value if isinstance(value, dict) and value else [name])
    ]
    # The last is told only where it is not the usual one.
    assert _named(before + after) == {*arrays_of(manifest), *told, "mean"}
