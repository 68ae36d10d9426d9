"""Kinds of damage to a store: what disks, copies, syncs and hands do to files, and what only a bug or an attacker does.

Each is a function of a `Ground`: it changes the store there, and answers which shards it touched.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relabel.manifest import Manifest
from relabel.store import codecs
from relabel.store.layout import ArraySpec, arrays_of

Touched = frozenset[int]
MAPS = ("classes", "scores", "profile", "checksum")


@dataclass(frozen=True, slots=True)
class Ground:
    """A store to be damaged, others of its shape, by what they differ in, and chance."""

    store: Path
    manifest: Manifest
    others: Mapping[str, Path]
    chance: random.Random

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays of the store."""
        return arrays_of(self.manifest)

    @property
    def shards(self) -> range:
        """The numbers of its shards."""
        return range(len(self.manifest.data.shards))

    def name(self, array: str, shard: int) -> str:
        """A shard's file."""
        return f"{array}/{self.arrays[array].file_name(shard)}"

    def some(self) -> tuple[int, str, Path]:
        """(shard, array, file) of any file of any shard."""
        shard, array = self.chance.choice(self.shards), self.chance.choice(list(self.arrays))
        return shard, array, self.store / self.name(array, shard)

    def any_file(self) -> tuple[Touched, Path]:
        """A file of any shard, or once in ten a zarr.json, which is of all."""
        if self.chance.random() < 0.1:
            return frozenset(self.shards), self.chance.choice(sorted(self.store.rglob("zarr.json")))
        shard, _, file = self.some()
        return frozenset({shard}), file

    def two(self) -> tuple[int, int]:
        """Two shards."""
        first, second = self.chance.sample(self.shards, 2)
        return first, second

    def arrays_of_maps(self, least: int = 1) -> list[str]:
        """Some of the arrays, those that hold the maps first among them."""
        several = self.chance.sample(MAPS, self.chance.randint(least, len(MAPS)))
        return several if self.chance.random() < 0.7 else self.chance.sample(list(self.arrays), max(least, 2))


Kind = Callable[[Ground], Touched]


def _bytes(change: Callable[[bytearray, random.Random], object]) -> Kind:
    """A change of a file's bytes."""

    def damage(ground: Ground) -> Touched:
        while True:
            touched, file = ground.any_file()
            data = bytearray(before := file.read_bytes())
            change(data, ground.chance)
            if data != before:
                file.write_bytes(data)
                return touched

    return damage


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_several(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(2, 40)):
        _flip(data, chance)


def _run(data: bytearray, chance: random.Random) -> slice:
    start = chance.randrange(len(data))
    return slice(start, min(len(data), start + chance.choice([1, 16, 64, 512, 4096])))


def _zeros(data: bytearray, chance: random.Random) -> None:
    place = _run(data, chance)
    data[place] = bytes(place.stop - place.start)


def _garbage(data: bytearray, chance: random.Random) -> None:
    place = _run(data, chance)
    data[place] = chance.randbytes(place.stop - place.start)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def _extend(data: bytearray, chance: random.Random) -> None:
    more = chance.randint(1, 5000)
    data += chance.choice([bytes(more), chance.randbytes(more), bytes(data[:more])])


def _instead(make: Callable[[Path, Ground], object]) -> Kind:
    """Something else in a file's place."""

    def damage(ground: Ground) -> Touched:
        touched, file = ground.any_file()
        file.unlink()
        make(file, ground)
        return touched

    return damage


def _renamed(ground: Ground) -> Touched:
    shard, array, file = ground.some()
    name = ground.chance.choice([f"{file.name}.bak", f"c.{shard + 100}", f"~{file.name}", file.name.replace(".", "/")])
    (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
    file.rename(ground.store / array / name)
    return frozenset({shard})


def _extra(ground: Ground) -> Touched:
    array = ground.chance.choice(["", *ground.arrays])
    name = ground.chance.choice(["notes.txt", "c.77.0", ".DS_Store", "scores.bak", "c.0", ".c.x.tmp"])
    (ground.store / array / name).write_bytes(ground.chance.randbytes(9))
    return frozenset()


def _socket(file: Path, _: Ground) -> None:
    # A socket's address is short, and the name of a folder need not be.
    folder = os.open(file.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{file.name}")
    os.close(folder)


def _link_to_another(file: Path, ground: Ground) -> None:
    others = [other for other in file.parent.iterdir() if other.name != file.name and other.name.startswith("c.")]
    file.symlink_to(ground.chance.choice(others).name if others else "nowhere")


def _forbidden(ground: Ground) -> Touched:
    touched, file = ground.any_file()
    file.chmod(0)
    return touched


def _swap(ground: Ground, arrays: Sequence[str]) -> Touched:
    first, second = ground.two()
    for array in arrays:
        one, other = (ground.store / ground.name(array, shard) for shard in (first, second))
        data = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(data)
    return frozenset({first, second})


def _copied_over(ground: Ground) -> Touched:
    first, second = ground.two()
    for array in ground.arrays_of_maps():
        shutil.copyfile(ground.store / ground.name(array, first), ground.store / ground.name(array, second))
    return frozenset({second})


def _foreign(other: str, several: bool) -> Kind:
    """Files of a shard, which are another store's."""

    def damage(ground: Ground) -> Touched:
        shard = ground.chance.choice(ground.shards)
        arrays = ground.arrays_of_maps(2) if several else [ground.chance.choice([*MAPS, *ground.arrays])]
        return _take(ground, other, [shard], arrays)

    return damage


def _foreign_shard(other: str) -> Kind:
    def damage(ground: Ground) -> Touched:
        return _take(ground, other, [ground.chance.choice(ground.shards)], list(ground.arrays))

    return damage


def _foreign_array(ground: Ground) -> Touched:
    other = ground.chance.choice(["teacher", "run", "rerun"])
    return _take(ground, other, list(ground.shards), [ground.chance.choice(MAPS)])


def _take(ground: Ground, other: str, shards: Sequence[int], arrays: Sequence[str]) -> Touched:
    for shard in shards:
        for array in arrays:
            name = ground.name(array, shard)
            shutil.copyfile(ground.others[other] / name, ground.store / name)
    return frozenset(shards)


def _rows(arrays: Sequence[str]) -> Kind:
    """Two rows of a shard change places in some arrays, each file's checksum being right again."""

    def damage(ground: Ground) -> Touched:
        shard = ground.chance.choice(ground.shards)
        used = (ground.manifest.data.counts or [2])[shard]
        first, second = ground.chance.sample(range(used), 2)
        names = arrays or [ground.chance.choice(sorted(ground.arrays.keys() - {"digest"}))]
        for array in names:
            if array in ground.arrays:
                _swap_rows(ground, array, shard, (first, second))
        return frozenset({shard})

    return damage


def _swap_rows(ground: Ground, array: str, shard: int, rows: tuple[int, int]) -> None:
    spec, file, count = (
        ground.arrays[array],
        ground.store / ground.name(array, shard),
        ground.manifest.data.rows_per_shard,
    )
    there, back = list(rows), list(reversed(rows))
    if spec.is_sharded:
        whole = file.read_bytes()
        size = codecs.index_bytes(count)
        index = codecs.decode_index(whole[-size:], count).copy()
        index[there] = index[back]
        file.write_bytes(whole[:-size] + codecs.encode_index(index))
        return
    content = spec.content(file.read_bytes(), count)
    if spec.dtype == "string":
        texts = codecs.decode_strings(content, count)
        texts[there] = texts[back]
        file.write_bytes(spec.codec.encode(codecs.encode_strings(texts.tolist())))
        return
    values = np.frombuffer(content, spec.little).reshape(count, *spec.tail).copy()
    values[there] = values[back]
    file.write_bytes(spec.codec.encode(values.tobytes()))


def _json(change: Callable[[Any, Any, random.Random], object]) -> Kind:
    """A change of a value of a zarr.json, which is JSON all the same."""

    def damage(ground: Ground) -> Touched:
        while True:
            file = ground.chance.choice([ground.store / "zarr.json", *sorted(ground.store.glob("*/zarr.json"))])
            value = json.loads(file.read_bytes())
            holder, name = ground.chance.choice(list(_places(value)))
            before = json.dumps(value)
            change(holder, name, ground.chance)
            if json.dumps(value) != before:
                file.write_text(json.dumps(value, indent=2))
                return frozenset(ground.shards)

    return damage


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for name, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, name
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def _edit(holder: Any, name: Any, chance: random.Random) -> None:
    value = holder[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        holder[name] = chance.choice([None, 5, 40.0, [], {}, "text", [3.0, 3], True, f"{value}x"])
    else:
        holder[name] = chance.choice([value + 1, -value, float(value), value * 1000, str(value), None, [value]])


def _add(holder: Any, name: Any, chance: random.Random) -> None:
    if isinstance(holder, dict):
        holder[chance.choice(["extra", "shape", "units", "consolidated_metadata"])] = {"value": 1}
    else:
        holder.append(holder[name])


def _remove(holder: Any, name: Any, _: random.Random) -> None:
    del holder[name]


def _shard_gone(ground: Ground) -> Touched:
    shard = ground.chance.choice(ground.shards)
    keep = ground.chance.choice([["status"], ["digest", "status"], ["scores", "status"], []])
    for array in ground.arrays:
        if array not in keep:
            (ground.store / ground.name(array, shard)).unlink()
    return frozenset({shard})


def _array_gone(ground: Ground) -> Touched:
    shutil.rmtree(ground.store / ground.chance.choice(list(ground.arrays)))
    return frozenset(ground.shards)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


KINDS: dict[str, Kind] = {
    "a bit flipped": _bytes(_flip),
    "several bits flipped": _bytes(_flip_several),
    "a zero page": _bytes(_zeros),
    "garbage": _bytes(_garbage),
    "cut": _bytes(_cut),
    "extended": _bytes(_extend),
    "emptied": _bytes(lambda data, _: data.clear()),
    "deleted": _instead(lambda *_: None),
    "renamed": _renamed,
    "a folder in its place": _instead(lambda file, _: file.mkdir()),
    "a link to nothing, or to itself": _instead(
        lambda file, ground: file.symlink_to(ground.chance.choice(["nowhere", file.name]))
    ),
    "a link to another shard's": _instead(_link_to_another),
    "a link to a device": _instead(lambda file, _: file.symlink_to("/dev/zero")),
    "a pipe in its place": _instead(lambda file, _: os.mkfifo(file)),
    "a socket in its place": _instead(_socket),
    **(
        {"a device in its place": _instead(lambda file, _: os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, 5)))}
        if _is_root()
        else {}
    ),
    "not to be read (chmod 000)": _forbidden,
    "files that belong to no store": _extra,
    "two shards' files of an array swapped": lambda ground: _swap(ground, [ground.chance.choice(list(ground.arrays))]),
    "of several arrays": lambda ground: _swap(ground, ground.arrays_of_maps(2)),
    "of all arrays": lambda ground: _swap(ground, list(ground.arrays)),
    "copied over another shard's": _copied_over,
    "a file of another teacher's store": _foreign("teacher", several=False),
    "several of another teacher's": _foreign("teacher", several=True),
    "a whole shard of another teacher's": _foreign_shard("teacher"),
    "a file of another run": _foreign("run", several=False),
    "several of another run": _foreign("run", several=True),
    "a whole shard of another run": _foreign_shard("run"),
    "a file of a rerun of the same identity": _foreign("rerun", several=False),
    "several of a rerun of the same identity": _foreign("rerun", several=True),
    "a file of other images of the same keys": _foreign("images", several=False),
    "several of other images of the same keys": _foreign("images", several=True),
    "an array of another store": _foreign_array,
    "rows swapped in an array, checksums right": _rows([]),
    "rows swapped in the maps, checksums right": _rows([*MAPS, "footprint"]),
    "rows swapped in scores and checksum": _rows(["scores", "checksum"]),
    "a JSON value edited": _json(_edit),
    "a JSON key added": _json(_add),
    "a JSON key removed": _json(_remove),
    "a shard's files gone": _shard_gone,
    "an array gone": _array_gone,
}
"""By what they are called."""


def _touched_times(ground: Ground) -> Touched:
    for file in ground.store.rglob("*"):
        os.utime(file, (1, 1))
    return frozenset()


def _linked(ground: Ground) -> Touched:
    _, _, file = ground.some()
    file.rename(ground.store.parent / "moved")
    file.symlink_to(ground.store.parent / "moved")
    return frozenset()


def _read_only(ground: Ground) -> Touched:
    for file in ground.store.rglob("c.*"):
        file.chmod(0o444)
    return frozenset()


def _copied(ground: Ground) -> Touched:
    shutil.copytree(ground.store, ground.store.parent / "moved")
    shutil.rmtree(ground.store)
    (ground.store.parent / "moved").rename(ground.store)
    return frozenset()


def _spaces(ground: Ground) -> Touched:
    file = ground.chance.choice(sorted(ground.store.rglob("zarr.json")))
    file.write_text(file.read_text() + "\n  ")
    return frozenset()


def _attribute(ground: Ground) -> Touched:
    file = ground.chance.choice(sorted(ground.store.rglob("zarr.json")))
    value = json.loads(file.read_text())
    value["attributes"]["note"] = "by a user"
    file.write_text(json.dumps(value))
    return frozenset()


GOOD: dict[str, Kind] = {
    "times changed": _touched_times,
    "a file moved and linked to": _linked,
    "files made read-only": _read_only,
    "copied as a whole": _copied,
    "spaces behind JSON": _spaces,
    "an attribute of a user's": _attribute,
    "a whole shard of a rerun of the same identity": _foreign_shard("rerun"),
}
"""What is no damage, and must not be called one."""
