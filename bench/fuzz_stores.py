"""Stores of every kind, changed where bytes are, where values are, or in what the manifest says, and then used."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner

import relabel
from bench.mutations import mutated, mutated_json
from relabel.cli import main
from relabel.errors import RelabelError, StoreError
from relabel.geometry import WHOLE
from relabel.manifest import PER_ROW, DataRecord, Manifest, Preprocessing, ScoreRecord, TeacherRecord, fingerprint
from relabel.score_map import ScoreMap
from relabel.store import LABELED, Row, RowBatch, RowTable, StoreReader, create_or_open
from relabel.store.codecs import CRC32C, ENTRY_BYTES, encode_index, index_bytes
from relabel.store.digest import shard_digest
from relabel.store.layout import ABSENT, array_metadata, arrays_of
from relabel.verify import verify_shards

_GRID, _CLASSES = (3, 4), 12
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "none"},
    {"dtype": "float16"},
    {"footprint": PER_ROW},
    {"dtype": "float16", "compression": "none", "footprint": PER_ROW},
    {"scores": "logit", "dtype": "float16", "select": "cell", "profile": 0},
)


@dataclass(frozen=True, slots=True)
class Stores:
    """Good stores in a folder, and all of their files, by name."""

    paths: tuple[Path, ...]
    files: tuple[dict[str, bytes], ...]


def make(path: Path, footprint: Any = WHOLE, **record: Any) -> Path:
    """A store of two shards, of three images and one."""
    keys = ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg")
    counts, planes, profile = (3, 1), 3, record.pop("profile", 4)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, _CLASSES, *_GRID, generator=generator) * 3
    boxes = torch.tensor([[0.1, 0.0, 0.9, 1.0]] * 4)
    maps = ScoreMap.from_logits(logits, planes, profile, footprint=boxes if footprint == PER_ROW else WHOLE)
    manifest = Manifest(
        teacher=TeacherRecord(
            source="timm", name="test_vit", weights="random", seed=0, weights_digest="ab" * 32, head="linear"
        ),
        preprocessing=Preprocessing(
            image_size_hw=(32, 32),
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            fit="squash" if footprint == WHOLE else "center",
        ),
        scores=ScoreRecord(num_classes=_CLASSES, planes=planes, profile=profile, grid_hw=_GRID, **record),
        data=DataRecord(
            kind="folder",
            shards=("first", "second"),
            counts=counts,
            rows_per_shard=max(counts),
            fingerprint=fingerprint(keys),
            class_names=("a", "b"),
        ),
        footprint=footprint,
        class_names=tuple(f"class {number}" for number in range(_CLASSES)),
        versions={"relabel": "0", "torch": "2"},
    )
    writer = create_or_open(path, manifest)
    batch = RowBatch.of(replace(maps, holes=manifest.scores.has_holes), manifest.scores)
    first = 0
    for shard, count in enumerate(counts):
        good = np.arange(min(count, 2))
        with writer.claim(shard) as claimed:
            claimed.add(good, batch.take(first + good))
            claimed.publish(
                RowTable.of(
                    [
                        Row(
                            key=keys[first + row],
                            image_hash=first + row + 1,
                            label=row % 2,
                            size_hw=(60, 90),
                            orientation=1,
                            error="" if row in good else "not a readable image: cut",
                        )
                        for row in range(count)
                    ]
                )
            )
        first += count
    return path


def prepare_stores(folder: Path) -> Stores:
    """One of each kind."""
    paths = tuple(make(folder / f"{number}.zarr", **kind) for number, kind in enumerate(KINDS))
    files = tuple({str(f.relative_to(p)): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in paths)
    return Stores(paths, files)


def prepare_manifests(folder: Path) -> list[dict[str, Any]]:
    """Their manifests, as attributes of a group."""
    return [json.loads(files["zarr.json"])["attributes"] for files in prepare_stores(folder).files]


def sealed(body: Any) -> None:
    """Give a manifest the identity of what it says, whatever that is."""
    if isinstance(body, dict):
        told = {name: value for name, value in body.items() if name not in ("versions", "identity")}
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        body["identity"] = hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(manifests: list[dict[str, Any]], chance: random.Random) -> bool:
    """A changed manifest; half of the time with the right identity."""
    attributes = mutated_json(chance.choice(manifests), chance)
    if chance.random() < 0.5 and isinstance(attributes, dict):
        sealed(attributes.get("relabel"))
    try:
        attributes = json.loads(json.dumps(attributes))
    except ValueError as error:
        # A number of more digits than Python reads.
        raise StoreError(str(error)) from error
    found = Manifest.from_json(attributes if isinstance(attributes, dict) else {})
    again = Manifest.from_json(json.loads(json.dumps(found.to_json())))
    if again != found or again.difference(found) or not repr(found):
        raise AssertionError("it is not read again as it was")
    return True


def use_store(stores: Stores, chance: random.Random) -> bool:
    """A store with a change, opened, asked for labels, verified, summed up and printed."""
    number = chance.randrange(len(stores.paths))
    path, files = stores.paths[number], stores.files[number]
    changed = _changes(files, chance)
    _restore(path)
    (path.parent / "dirty").write_text(json.dumps([number, [*changed]]))
    for name, data in changed.items():
        (path / name).write_bytes(data)
    try:
        return _used(path, chance)
    finally:
        for name in changed:
            (path / name).write_bytes(files[name])
        (path.parent / "dirty").unlink()


def _restore(path: Path) -> None:
    """Undo what a case left that was killed; it may have been of another kind."""
    note = path.parent / "dirty"
    if note.exists():
        number, _ = json.loads(note.read_text())
        other = path.parent / f"{number}.zarr"
        shutil.rmtree(other)
        make(other, **KINDS[number])
        note.unlink()


def _used(path: Path, chance: random.Random) -> bool:
    is_good = True
    doors = [_serve, _verify, _print]
    chance.shuffle(doors)
    for door in doors:
        try:
            door(path, chance)
        except RelabelError:
            is_good = False
    return is_good


def _serve(path: Path, chance: random.Random) -> None:
    """Every label that can be had is finite and sums to 1."""
    maps = relabel.open(path, partial=chance.random() < 0.5)
    reader = StoreReader(path, partial=True)
    refused: RelabelError | None = None
    list(maps.keys())
    for shard in sorted(reader.published)[:3]:
        for row in np.flatnonzero(reader.statuses(shard) == LABELED)[:3].tolist():
            try:
                _serve_row(maps, shard * reader.rows_per_shard + row, chance)
            except RelabelError as error:
                refused = error
    if refused is not None:
        raise refused


def _serve_row(maps: Any, row: int, chance: random.Random) -> None:
    width = chance.choice((0.3, 1.0, 3.0))
    x, y = chance.random() - 0.5, chance.random() - 0.5
    batch = maps[[row]]
    box = torch.tensor([[x, y, x + width, y + width * chance.random() + 1e-3]])
    space = chance.choice(("logit", "probability"))
    labels = batch.pool(box, chance.choice((None, (2, 3))), space=space, uncovered="nearest")
    total = labels.sum(1)
    if not bool(labels.isfinite().all()) or bool((total - 1).abs().max() > 1e-3) or bool((labels < 0).any()):
        raise AssertionError(f"a label in {space} space sums to {total.flatten()[:3].tolist()}")


def _verify(path: Path, _: random.Random) -> None:
    if not verify_shards(path, workers=1, show_progress=False).is_clean:
        raise StoreError("findings")


def _print(path: Path, chance: random.Random) -> None:
    arguments = chance.choice(
        (["inspect", str(path)], ["inspect", str(path), "--json"], ["verify", "shards", str(path)])
    )
    result = CliRunner().invoke(main, arguments, prog_name="relabel")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    bad = [
        c
        for c in result.output
        if (ord(c) < 32 and c not in "\n\r\t") or c in "\x7f\u202e" or "\ud800" <= c <= "\udfff"
    ]
    if bad and "--json" not in arguments:
        raise AssertionError(f"prints {bad[:5]}")
    if result.exit_code:
        raise StoreError(f"exits with {result.exit_code}")


def _changes(files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """Names and new contents."""
    kind = chance.random()
    chunks = [name for name in files if not name.endswith("zarr.json")]
    if kind < 0.2:
        name = chance.choice([*files])
        return {name: mutated(files[name], chance, [files[chance.choice(chunks)]])}
    if kind < 0.3:
        name, other = chance.choice(chunks), chance.choice(chunks)
        return {name: files[other]}
    if kind < 0.55:
        return _forged(files, chance)
    return _rewritten(files, chance.choice(chunks), chance)


def _forged(files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """A manifest that says something else, with its identity; and the arrays' metadata and digests to it."""
    group = json.loads(files["zarr.json"])
    body = mutated_json(group["attributes"]["relabel"], chance, keep=("versions",))
    sealed(body)
    group["attributes"]["relabel"] = body
    try:
        changed = {"zarr.json": json.dumps(group).encode()}
        manifest = Manifest.from_json(json.loads(changed["zarr.json"])["attributes"])
        for spec in arrays_of(manifest).values():
            if f"{spec.name}/zarr.json" in files:
                changed[f"{spec.name}/zarr.json"] = json.dumps(array_metadata(spec, manifest)).encode()
        return changed | _digests({**files, **changed}, manifest)
    except (RelabelError, ValueError):
        return {"zarr.json": json.dumps(group).encode()} if _is_short(group) else {"zarr.json": b"{}"}


def _is_short(group: Any) -> bool:
    try:
        json.dumps(group)
    except ValueError:
        return False
    return True


def _digests(files: dict[str, bytes], manifest: Manifest) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for shard in range(min(2, len(manifest.data.shards))):
        specs = [spec for name, spec in arrays_of(manifest).items() if name != "digest"]
        parts = [(s.name, files.get(f"{s.name}/{s.file_name(shard)}", b"")) for s in specs]
        digest = shard_digest(manifest.identity(), shard, parts)
        found[f"digest/{arrays_of(manifest)['digest'].file_name(shard)}"] = CRC32C.encode(digest.tobytes())
    return {name: data for name, data in found.items() if name in files}


def bind(path: Path) -> None:
    """Make the checksums and digests of a store's first shard those of what lies there."""
    files = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and not f.is_symlink()}
    manifest = Manifest.from_json(json.loads(files["zarr.json"])["attributes"])
    arrays, rows = arrays_of(manifest), manifest.data.rows_per_shard
    checksums, scores = arrays["checksum"], f"scores/{arrays['scores'].file_name(0)}"
    found = {
        f"checksum/{checksums.file_name(0)}": CRC32C.encode(_checksums(files[scores], rows).astype("<u4").tobytes())
    }
    for name, data in (found | _digests({**files, **found}, manifest)).items():
        (path / name).write_bytes(data)


def _rewritten(files: dict[str, bytes], name: str, chance: random.Random) -> dict[str, bytes]:
    """A file with other values in it, under a right checksum; half of the time all that binds it is right as well."""
    manifest = Manifest.from_json(json.loads(files["zarr.json"])["attributes"])
    array, _, file = name.partition("/")
    spec = arrays_of(manifest)[array]
    rows, shard = manifest.data.rows_per_shard, int(file.split(".")[1])
    changed = {name: _other_scores(files[name], spec, rows, chance)} if spec.is_sharded else {}
    if not changed:
        plain = bytes(spec.codec.content(files[name]))
        bad = mutated(plain, chance)
        if spec.dtype != "string" and chance.random() < 0.8:
            bad = bad[: len(plain)].ljust(len(plain), b"\1")
        changed = {name: spec.codec.encode(bad)}
    if chance.random() < 0.8:
        every = {**files, **changed}
        if spec.is_sharded:
            checksums = arrays_of(manifest)["checksum"]
            found = _checksums(every[name], rows)
            changed[f"checksum/{checksums.file_name(shard)}"] = checksums.codec.encode(found.astype("<u4").tobytes())
        changed |= _digests({**files, **changed}, manifest)
    return changed


def _index(data: bytes, rows: int) -> Any:
    return np.frombuffer(data[-index_bytes(rows) : -4], "<u8").reshape(rows, ENTRY_BYTES // 8).copy()


def _checksums(data: bytes, rows: int) -> Any:
    entries = _index(data, rows).tolist() if len(data) >= index_bytes(rows) else []
    ends = [b"" if at == ABSENT else data[at : at + size][-4:] for at, size in entries]
    return np.array([int.from_bytes(end, "little") for end in ends] + [0] * 9)[:rows]


def _other_scores(data: bytes, spec: Any, rows: int, chance: random.Random) -> bytes:
    """Another map, or another index: entries shared, swapped, or that point anywhere."""
    index = _index(data, rows)
    chunks = [b"" if at == ABSENT else data[at : at + size] for at, size in index.tolist()]
    if chance.random() < 0.3:
        index = np.frombuffer(mutated(index.tobytes(), chance)[: index.nbytes].ljust(index.nbytes, b"\1"), "<u8")
        return data[: -index_bytes(rows)] + encode_index(index.reshape(rows, 2))
    row = chance.choice([row for row, chunk in enumerate(chunks) if chunk])
    if chance.random() < 0.3:
        chunks[row] = mutated(chunks[row], chance)
    else:
        plain = bytes(spec.codec.content(chunks[row]))
        other = mutated(plain, chance)
        chunks[row] = spec.codec.encode(
            other if chance.random() < 0.2 else other[: len(plain)].ljust(len(plain), b"\xff")
        )
    parts, place = [], 0
    for number, chunk in enumerate(chunks):
        if chunk:
            index[number] = place, len(chunk)
            parts.append(chunk)
            place += len(chunk)
    return b"".join(parts) + encode_index(index)
