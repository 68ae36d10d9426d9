"""Stores that mean harm, one by one: what opening, serving, verifying and inspecting each of them gets.

python -m bench.hostile            # a table, and exit 1 if any takes 10 s, 1 GB, or ends but with a RelabelError
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner

import relabel
from bench.fuzz import Outcome, run
from bench.fuzz_stores import KINDS, bind, make, sealed
from bench.fuzz_targets import Target
from relabel.cli import main as cli
from relabel.errors import RelabelError
from relabel.manifest import Manifest
from relabel.store import StoreReader
from relabel.store.codecs import CRC32C, encode_index
from relabel.store.layout import array_metadata, arrays_of
from relabel.verify import verify_shards

Harm = Callable[[Path], object]

_FILES = ("zarr.json", "key/zarr.json", "status/c.0.0", "key/c.0.0", "classes/c.0.0.0", "scores/c.0.0.0.0.0")
_HUGE = 1 << 36


def zstd_frame(content_bytes: int, told_bytes: int | None) -> bytes:
    """A frame of so many zeros in 4 bytes for each 128 kB, which tells that length, another one, or none."""
    # The descriptor: no length and a window of 16 MB, or a length of 8 bytes and none.
    told = b"\x00\x70" if told_bytes is None else b"\xe0" + told_bytes.to_bytes(8, "little")
    blocks = (content_bytes + (1 << 17) - 1) >> 17
    each = ((1 << 17) << 3 | 2).to_bytes(3, "little") + b"\0"
    last = ((1 << 17) << 3 | 3).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd" + told + each * (blocks - 1) + last


def _replaced(name: str, by: Callable[[Path], object], store: Path) -> None:
    (store / name).unlink()
    by(store / name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        # The name of a socket is short.
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(here)


def _hole(path: Path) -> None:
    path.touch()
    os.truncate(path, _HUGE)


_IN_PLACE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "an empty file": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a hole of 64 GB": _hole,
}


def _bytes(name: str, data: bytes, store: Path) -> None:
    """What is in a file, and all that binds it is right."""
    (store / name).write_bytes(data)
    if name != "zarr.json":
        bind(store)


def _manifest(change: Callable[[dict[str, Any]], object], store: Path) -> None:
    """Change what the manifest says, with its identity and, where it can be read, the arrays' metadata to it."""
    group = json.loads((store / "zarr.json").read_text())
    body = group["attributes"]["relabel"]
    change(body)
    sealed(body)
    (store / "zarr.json").write_text(json.dumps(group))
    try:
        manifest = Manifest.from_json(json.loads((store / "zarr.json").read_text())["attributes"])
    except (RelabelError, ValueError):
        return
    for spec in arrays_of(manifest).values():
        (store / spec.name).mkdir(exist_ok=True)
        (store / spec.name / "zarr.json").write_text(json.dumps(array_metadata(spec, manifest)))
    bind(store)


def _set(path: str, value: object, body: dict[str, Any]) -> None:
    *holders, name = path.split(".")
    for holder in holders:
        body = body[holder]
    body[name] = value


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def _shared(chunk_bytes: int, store: Path) -> None:
    """Every row's entry leads to one frame of so much content."""
    frame = zstd_frame(chunk_bytes, chunk_bytes)
    rows = StoreReader(store).rows_per_shard
    index = torch.tensor([[0, len(frame)]] * rows).numpy().astype("<u8")
    _bytes("scores/c.0.0.0.0.0", frame + encode_index(index), store)


def _footprints(box: Sequence[float], store: Path) -> None:
    """Every row's own footprint is this, in a store that has one for each."""
    shutil.rmtree(store)
    make(store, **KINDS[3])
    spec = StoreReader(store).arrays["footprint"]
    data = torch.tensor([box] * 3, dtype=torch.float32).numpy().tobytes()
    _bytes("footprint/c.0.0.0", spec.codec.encode(data), store)


def _text(count: int, length: int) -> bytes:
    return count.to_bytes(4, "little") + (length.to_bytes(4, "little") + b"k" * min(length, 100_000)) * 3


def _key(data: bytes, store: Path) -> None:
    _bytes("key/c.0.0", StoreReader(store).arrays["key"].codec.encode(data), store)


_MANIFESTS: dict[str, tuple[str, object]] = {
    "a grid of 30,000 x 30,000": ("scores.grid_hw", [30_000, 30_000]),
    "10^18 planes": ("scores.planes", 10**18),
    "2^40 classes": ("scores.num_classes", 2**40),
    "one class more, without names": ("scores.num_classes", 13),
    "10^9 rows a shard": ("data.rows_per_shard", 10**9),
    "4,194,304 rows a shard": ("data.rows_per_shard", 1 << 22),
    "rows that are a fraction": ("data.rows_per_shard", 3.0),
    "a grid of fractions": ("scores.grid_hw", [3.0, 4]),
    "2,000,000 shards": ("data.shards", [str(number) for number in range(2_000_000)]),
    "a text of 10 MB": ("teacher.name", "x" * 10_000_000),
    "half a surrogate": ("teacher.name", "\ud800"),
    "a terminal's commands": ("teacher.name", "\x1b]0;x\x07\x1b[2J"),
    "no teacher's name": ("teacher.name", None),
    "a list for a name": ("teacher.name", ["x"]),
    "a number for a digest": ("teacher.weights_digest", 5),
    "a number of 401 digits": ("preprocessing.crop", 10**400),
    "NaN": ("preprocessing.crop", float("nan")),
    "infinite means": ("preprocessing.mean", [float("inf")] * 3),
    "a teacher's image of 10^12 pixels": ("preprocessing.image_size_hw", [10**6, 10**6]),
    "nested 900 deep": ("class_names", _deep(900)),
    "a footprint 1e-7 wide": ("footprint", [0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7]),
    "a footprint 1e-300 wide": ("footprint", [0.0, 0.0, 1e-300, 1e-300]),
    "a footprint as wide as 1e30": ("footprint", [-1e30, -1e30, 1e30, 1e30]),
    "another format": ("format", 2),
}


def _many_shards(body: dict[str, Any]) -> None:
    body["data"] |= {"shards": [str(number) for number in range(100_000)], "counts": []}


def harms() -> dict[str, Harm]:
    """Every harm by name: it changes a good store."""
    found: dict[str, Harm] = {
        f"{name}: {what}": partial(_replaced, name, by) for name in _FILES for what, by in _IN_PLACE.items()
    }
    for name in ("key/c.0.0", "status/c.0.0", "image_hash/c.0.0", "error/c.0.0"):
        for what, told in (("that tells it", 1 << 32), ("that tells 12 bytes", 12), ("that tells nothing", None)):
            found[f"{name}: a frame of 4 GB {what}"] = partial(_bytes, name, zstd_frame(1 << 32, told))
    found |= {
        "key/c.0.0: two frames, the second of 4 GB": partial(
            _bytes, "key/c.0.0", zstd_frame(1 << 17, 1 << 17) + zstd_frame(1 << 32, 1 << 32)
        ),
        "key/c.0.0: 2^32 - 1 strings": partial(_key, _text(2**32 - 1, 1)),
        "key/c.0.0: a string of 2^32 - 1 bytes": partial(_key, _text(3, 2**32 - 1)),
        "key/c.0.0: strings of 100,000 characters": partial(_key, _text(3, 100_000)),
        "scores: rows that share a frame of 3 GB": partial(_shared, 3 << 30),
        "scores: rows that share a map": partial(_shared, 48),
        "classes/c.0.0.0: right checksum, wrong length": partial(_bytes, "classes/c.0.0.0", CRC32C.encode(bytes(7))),
        "zarr.json: 40 MB of brackets": partial(_bytes, "zarr.json", b'{"a":[' + b"[]," * 13_000_000 + b"0]}"),
        "zarr.json: a list": partial(_bytes, "zarr.json", b"[1]"),
        "zarr.json: no UTF-8": partial(_bytes, "zarr.json", b"\xff\xfe\x00"),
        "zarr.json: 100,000 brackets": partial(_bytes, "zarr.json", b"[" * 100_000),
    }
    found |= {f"manifest: {what}": partial(_manifest, partial(_set, *set_to)) for what, set_to in _MANIFESTS.items()}
    found["manifest: 100,000 shards, not counted"] = partial(_manifest, _many_shards)
    for box in ((0.5, 0.5, 0.5000001, 0.5000001), (0, 0, 1e-30, 1e-30), (-1e38, -1e38, 1e38, 1e38)):
        found[f"footprint of a row: {box}"] = partial(_footprints, box)
    for value in (float("nan"), float("inf")):
        found[f"footprint of a row: {value}"] = partial(_footprints, (0, 0, value, 1))
    return found


_DOORS: dict[str, Callable[[Path], str]] = {}


def _door(name: str) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    return lambda door: _DOORS.setdefault(name, door)


@_door("labels")
def _labels(store: Path) -> str:
    maps = relabel.open(store, partial=True)
    rows = maps.rows(["a/0.jpg", "a/1.jpg"])
    labels = maps[rows].pool(torch.tensor([[0.1, 0.1, 0.7, 0.9]] * 2), (7, 7), uncovered="nearest")
    is_sound = bool(labels.isfinite().all()) and bool((labels.sum(1) - 1).abs().max() < 1e-3)
    return "labels that sum to 1" if is_sound else "WRONG labels"


@_door("verify shards")
def _shards(store: Path) -> str:
    report = verify_shards(store, workers=1, show_progress=False)
    return "clean" if report.is_clean else f"{len(report.findings)} findings: {report.findings[0].what}"


@_door("inspect")
def _inspect(store: Path) -> str:
    result = CliRunner().invoke(cli, ["inspect", str(store)], prog_name="relabel")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return "is told" if not result.exit_code else result.stderr


def tried(harm: Harm, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(door, what it said, whether that is well) of a store with a harm."""
    for door, use in _DOORS.items():
        store = folder / "labels.zarr"

        def prepare(_: Path, store: Path = store) -> Path:
            if not (folder / "good.zarr").exists():
                make(folder / "good.zarr")
            shutil.copytree(folder / "good.zarr", store)
            harm(store)
            return store

        def case(store: Path, _: random.Random, use: Callable[[Path], str] = use) -> bool:
            said = folder / "said"
            try:
                said.write_text(use(store))
            except RelabelError as error:
                said.write_text(f"{type(error).__name__}: {error}")
                raise
            return True

        shutil.rmtree(store, ignore_errors=True)
        (folder / "said").write_text("")
        outcome: Outcome = run(Target("hostile", prepare, case), 0, 1)
        said = " ".join((folder / "said").read_text().replace(str(store), "STORE").split())
        yield door, "; ".join(outcome.findings) or said, not outcome.findings and "WRONG" not in said


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit with 1 if a harm was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Harms whose name holds this.")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count, bad = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, harm in harms().items():
            for door, said, is_well in tried(harm, Path(folder)) if given.only in name else ():
                count, bad = count + 1, bad + (not is_well)
                print(f"| {name} | {door} | {'' if is_well else '**'}{said[:160]} |", flush=True)
    print(f"{count} uses of hostile stores, {bad} did harm")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
