"""How good bytes become bad ones, by a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

_EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 254, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 65_535, 2**31, 2**53, 2**63, 10**30, 10**400),
    *(0.0, -0.5, 0.5, 1.0, 1e-7, 1e-300, 1e300, 1e999, float("nan")),
    *("", "x", "x" * 5_000, "\x1b[31m", "\ud800", "nul\0", "‮", "os:abort", "/dev/zero", "hf-hub:a/b"),
    *([], [[]], {}, {"a": 1}, ["x"], [1], [1, 1], [1e-7, 0.0, 2e-7, 1.0], [0, 0, 1e30, 1e30], [3, 4], [10**6, 10**6]),
)


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """The same with one to four changes; `others` are spliced in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = chance.choice(_KINDS)(data, chance, others)
    return data


def _flip(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    found = bytearray(data)
    for _times in range(chance.choice((1, 1, 2, 8))):
        if found:
            found[_place(found, chance)] ^= 1 << chance.randrange(8)
    return bytes(found)


def _byte(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    found = bytearray(data)
    if found:
        found[_place(found, chance)] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(found)


def _number(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    size = chance.choice((1, 2, 2, 4, 4, 8))
    if len(data) < size:
        return data
    place = _place(data[: len(data) - size + 1], chance)
    value = (chance.choice(_EDGES) + chance.choice((0, 0, -1, 1))) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, chance.choice(("big", "little"))) + data[place + size :]


def _cut(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _drop(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice((1, 2, 4, 16, 512)) :]


def _insert(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + chance.randbytes(chance.choice((1, 2, 4, 16, 512))) + data[start:]


def _repeat(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(data) + 1)
    part = data[start : start + chance.choice((1, 4, 64, 1024))]
    return data[:start] + part * chance.choice((2, 3, 50)) + data[start:]


def _splice(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice([*others, data])
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _blank(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start, count = chance.randrange(len(data) + 1), chance.choice((1, 4, 64, 4096))
    return (
        data[:start] + chance.choice((b"\0", b"\xff", b" ")) * len(data[start : start + count]) + data[start + count :]
    )


_KINDS = (_flip, _flip, _byte, _number, _number, _number, _cut, _drop, _insert, _repeat, _splice, _blank)


def _place(data: Sequence[int], chance: random.Random) -> int:
    """A place in bytes, half of the time in their first hundred, where headers are."""
    return chance.randrange(min(len(data), 100) if chance.random() < 0.5 else len(data))


def mutated_json(value: Any, chance: random.Random, keep: Sequence[str] = ()) -> Any:
    """JSON with one to three values changed, moved or left out; those under the names in `keep` stay."""
    found = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = _places(found, keep)
        if not places:
            break
        holder, name = chance.choice(places)
        kind = chance.randrange(8)
        old = holder[name]
        if kind == 0:
            del holder[name]
        elif kind == 1 and isinstance(old, (int, float)) and not isinstance(old, bool):
            holder[name] = old + chance.choice((-1, 1, -old, old))
        elif kind == 2 and isinstance(old, list):
            holder[name] = old * chance.choice((0, 2, 3)) or chance.choice((old[:-1], old[::-1]))
        elif kind == 3 and isinstance(holder, dict):
            holder[chance.choice(("x", "", name + " ", "format"))] = old
        elif kind == 4:
            holder[name] = [old]
            for _ in range(chance.choice((1, 70, 200))):
                holder[name] = [holder[name]]
        elif kind == 5:
            other_holder, other = chance.choice(places)
            holder[name] = copy.deepcopy(other_holder.get(other) if isinstance(other_holder, dict) else old)
        else:
            holder[name] = copy.deepcopy(chance.choice(_VALUES))
    return found


def _places(value: Any, keep: Sequence[str]) -> list[tuple[Any, Any]]:
    found, left = [], [value]
    while left:
        each = left.pop()
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for name, inner in items:
            if name not in keep:
                found.append((each, name))
                left.append(inner)
    return found
