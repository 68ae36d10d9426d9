"""Edits of a manifest's values and types: each is refused, or changes no label. `make edits` makes 2,000 of them."""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from stores import make_store, random_logits, seal

import relabel
from relabel.errors import RelabelError
from relabel.verify import verify_shards

BOX = torch.tensor([[0.1, 0.0, 0.7, 0.9]])
KINDS = (
    "a whole number as a fraction",
    "another type",
    "null",
    "a number beside it",
    "a huge number",
    "other text",
    "a field missing",
    "a field too many",
    "a list cut",
    "nested deep",
)


def store(path: Path) -> Path:
    """Two shards, one footprint that is not the whole image, and versions."""
    footprint = torch.tensor([0, -0.25, 1, 1.25])
    make_store(path, [["a.jpg", "b.jpg"], ["c.jpg"]], random_logits(3, 12, (3, 4)), footprint=footprint)
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["relabel"]["versions"] = {"relabel": "0.1.0", "torch": "2.11.0", "timm": "1.0.31"}
    (path / "zarr.json").write_text(json.dumps(group))
    return path


def labels(path: Path) -> list[Any]:
    """What a trainer is served: of every row, with the classes' names."""
    maps = relabel.open(path)
    found = [maps[maps.rows([key])].pool(BOX).tolist() for key in ("a.jpg", "b.jpg", "c.jpg")]
    return [*found, maps.class_names, maps.num_classes]


def edited(body: dict[str, Any], chance: random.Random) -> tuple[str, str, dict[str, Any]]:
    """(kind, field, the manifest with one field changed); another one is drawn where the kind does not apply."""
    while True:
        changed = copy.deepcopy(body)
        places = [place for place in _places(changed) if place[1] != "identity"]
        holder, name, path = chance.choice(places)
        kind = chance.choice(KINDS)
        if _apply(kind, holder, name, chance) and json.dumps(changed) != json.dumps(body):
            return kind, path, changed


def _places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield value, name, f"{path}.{name}".lstrip(".")
        yield from _places(inner, f"{path}.{name}")


def _apply(kind: str, holder: Any, name: Any, chance: random.Random) -> bool:
    """Change one value; False where this kind of edit means nothing here."""
    value = holder[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    new: Any = {
        "a whole number as a fraction": float(value) if type(value) is int else ...,
        "another type": chance.choice([str(value), [value], {"value": value}, True, 7]),
        "null": None,
        "a number beside it": value + chance.choice([-1, 1]) if is_number else ...,
        "a huge number": chance.choice([10**18, -(10**18), 2**40]) if is_number else ...,
        "other text": value + chance.choice(["x", "\0", " "]) if isinstance(value, str) else ...,
        "a list cut": value[:-1] if isinstance(value, list) else ...,
        "nested deep": json.loads("[" * 900 + "]" * 900),
    }.get(kind, ...)
    if kind == "a field missing" and isinstance(holder, dict):
        del holder[name]
    elif kind == "a field too many" and isinstance(value, dict):
        value["surprise"] = 1
    elif new is ...:
        return False
    else:
        holder[name] = new
    return True


def outcome(path: Path, before: list[Any], *, is_sealed: bool) -> str:
    """What became of the store in `path`, whose manifest was edited, and whose digests, if `is_sealed`, were not."""
    try:
        after = labels(path)
    except RelabelError:
        return "refused"
    if after == before and not is_sealed:
        return "no effect"
    found = verify_shards(path, show_progress=False, workers=1)
    return "found by verify" if not found.is_clean else "no effect" if after == before else "SERVED WRONG"


def campaign(path: Path, count: int, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """How many edits of each kind ended how: as they are, and with the manifest's own digest made right again."""
    chance, before = random.Random(seed), labels(path)
    whole = json.loads((path / "zarr.json").read_text())
    ends: Counter[tuple[str, str, str]] = Counter()
    digests = {file: file.read_bytes() for file in path.glob("digest/c.*")}
    for number in range(count):
        kind, field, body = edited(whole["attributes"]["relabel"], chance)
        group = copy.deepcopy(whole)
        group["attributes"]["relabel"] = body
        (path / "zarr.json").write_text(json.dumps(group))
        is_sealed = number % 2 == 1 and isinstance(body.get("identity"), str)
        if is_sealed:
            seal(path)
            for file, data in digests.items():
                file.write_bytes(data)
        what = "versions" if field.startswith("versions") else "the manifest"
        how = f"{what}, {'its identity made anew' if is_sealed else 'as edited'}"
        ends[kind, how, outcome(path, before, is_sealed=is_sealed)] += 1
    (path / "zarr.json").write_text(json.dumps(whole))
    return ends


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = campaign(store(Path(folder) / "s.zarr"), int(sys.argv[1]))
    for (kind, what, end), times in sorted(made.items()):
        print(f"{times:5}  {kind:<30}  {what:<40}  {end}")
    wrong = sum(times for (_, _, end), times in made.items() if end == "SERVED WRONG")
    print(f"{sum(made.values())} edits, {wrong} served wrong")
