"""The house: who may import whom, which third party lives in which room, and how large things may grow.

What ruff checks (docstrings, parameters, blanket excepts, asserts, banned calls) is not checked again.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[1] / "relabel"
_ROOF = {"__init__", "__main__"}
_TOP = "cli"  # the one room that may look at the roof: it prints the version

FLOORS = {
    **dict.fromkeys(("ambient", "cores", "errors", "lazily", "paths"), 0),
    **dict.fromkeys(("findings", "geometry", "labels", "naming", "options", "plan", "progress", "reading"), 1),
    **dict.fromkeys(("manifest", "pooling", "tickets"), 2),
    "score_map": 3,
    **dict.fromkeys(("images", "teacher", "store", "tracking", "mixing", "losses", "published"), 4),
    **dict.fromkeys(("generate", "verify", "worth", "loader", "importers", "report", "summary", "writing"), 5),
    **dict.fromkeys(("comparing", "merging"), 5),
    "cli": 6,
}
EVERYWHERE = {"numpy", "torch"}
THIRD_PARTY = {
    "PIL": {"images", "report", "tracking"},
    "click": {"cli"},
    "fsspec": {"store"},
    "google_crc32c": {"store"},
    "matplotlib": {"report"},
    "numcodecs": {"store"},
    "safetensors": {"teacher"},
    "timm": {"teacher"},
    "torchvision": {"images", "teacher", "tracking"},
    "tqdm": {"progress"},
    "transformers": {"teacher"},
    "webdataset": {"images"},
    "zarr": {"store"},
}
LIMITS = {"module lines": 300, "function lines": 60}
SLACK = 1.1  # a line or two over is for a review to see; more fails here


def violations(path: str, source: str) -> list[str]:
    """What breaks the house in one module, as ``path:line: what``; `path` is relative to the package."""
    room = path.removesuffix(".py").split("/")[0]
    tree = ast.parse(source)
    found = [(1, f"no floor for the room {room!r}")] if room not in FLOORS and room not in _ROOF else []
    if (lines := len(source.splitlines())) > LIMITS["module lines"] * SLACK:
        found.append((1, f"module of {lines} lines"))
    for line, name in _imports(path, tree):
        found += [(line, what) for what in _import_faults(room, name)]
    for node in ast.walk(tree):
        found += [(node.lineno, what) for what in _faults(node)]
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def _imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported name, absolute, wherever in the module the import stands, at run time or for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = ["relabel", *path.split("/")[:-1]]
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            yield from ((node.lineno, str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant))


def _import_faults(room: str, name: str) -> Iterator[str]:
    package, _, inside = name.partition(".")
    target = inside.split(".")[0]
    if package == "relabel":
        if target not in FLOORS:
            if room not in {_TOP, *_ROOF}:
                yield f"imports {name}, the roof: name the room instead"
        elif room not in _ROOF and target != room and FLOORS[target] >= FLOORS.get(room, 0):
            yield f"imports {name}: floor {FLOORS[target]} is not below {room}'s floor {FLOORS.get(room)}"
    elif package in THIRD_PARTY:
        if room not in THIRD_PARTY[package]:
            yield f"imports {package}, which lives in {', '.join(sorted(THIRD_PARTY[package]))} only"
    elif package not in EVERYWHERE and package not in sys.stdlib_module_names:
        yield f"imports {package}, a third party without a room"


def _faults(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > LIMITS["function lines"] * SLACK:
            yield f"{node.name}: function of {lines} lines"
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        suppressed = {ast.unparse(each) for each in node.args} if called == "contextlib.suppress" else set()
        if suppressed & {"Exception", "BaseException"}:
            yield "blanket suppress"
        if called == "torch.load" and not any(_is_weights_only(keyword) for keyword in node.keywords):
            yield "torch.load without weights_only=True"
    if isinstance(node, ast.ImportFrom) and node.module == "torch" and any(a.name == "load" for a in node.names):
        yield "from torch import load: write torch.load(..., weights_only=True)"


def _is_weights_only(keyword: ast.keyword) -> bool:
    return keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


_MODULES = sorted(path.relative_to(_PACKAGE).as_posix() for path in _PACKAGE.rglob("*.py"))


def _circle(sources: dict[str, str]) -> list[str]:
    """Files of which each imports the one before, the first imported by the last; empty if there are none."""

    def files(name: str) -> set[str]:
        place = name.removeprefix("relabel.").replace(".", "/")
        return {f"{place}.py", f"{place}/__init__.py"} & sources.keys()

    graph = {
        path: {f for _, name in _imports(path, ast.parse(text)) for f in files(name) or files(name.rpartition(".")[0])}
        for path, text in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_files_of_a_room_import_each_other_in_no_circle(room):
    sources = {name: (_PACKAGE / name).read_text(encoding="utf-8") for name in _MODULES if name.startswith(f"{room}/")}
    assert _circle(sources) == []


def test_a_circle_is_found_though_it_is_of_types_alone():
    sources = {
        "store/a.py": "from relabel.store import b",
        "store/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from relabel.store.c import C",
        "store/c.py": "import relabel.store.a",
        "store/d.py": "from relabel.store import a, b, c",
    }
    assert set(_circle(sources)) == {"store/a.py", "store/b.py", "store/c.py"}
    del sources["store/b.py"]
    assert _circle(sources) == []


@pytest.mark.parametrize("module", _MODULES)
def test_module_keeps_the_house(module):
    assert violations(module, (_PACKAGE / module).read_text(encoding="utf-8")) == []


def test_the_walk_sees_the_whole_package():
    rooms = {module.removesuffix(".py").split("/")[0] for module in _MODULES}
    assert {"errors", "geometry", "score_map", "store", "cli", *_ROOF} <= rooms
    assert set().union(*THIRD_PARTY.values()) <= set(FLOORS)


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("geometry.py", "def _f():\n    import relabel.store.reader", ":2: imports relabel.store.reader"),
        ("geometry.py", "from relabel import errors, store", "floor 4 is not below geometry's floor 1"),
        ("geometry.py", "import importlib\nimportlib.import_module('relabel.store')", "floor 4 is not below"),
        ("store/reader.py", "from ..teacher import Teacher", "floor 4 is not below store's floor 4"),
        ("plan.py", "from relabel import ScoreMap", "the roof"),
        ("attic/stairs.py", "import os", "no floor for the room 'attic'"),
        ("verify/shards.py", "import zarr.codecs", "zarr, which lives in store only"),
        ("store/reader.py", "import pandas", "pandas, a third party without a room"),
        ("__init__.py", "import zarr", "zarr, which lives in store only"),
        ("plan.py", "\n" * 331, "module of 331 lines"),
        ("plan.py", "def _f():\n" + "    pass\n" * 66, "_f: function of 67 lines"),
        ("plan.py", "import contextlib\nwith contextlib.suppress(Exception):\n    pass", "blanket suppress"),
        ("teacher/load.py", "import torch\ntorch.load('a', weights_only=False)", "torch.load without"),
        ("teacher/load.py", "from torch import load", "from torch import load"),
    ],
)
def test_breaking_a_rule_is_found(path, source, fault):
    found = violations(path, source)
    assert len(found) == 1, found
    assert fault in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store/reader.py", "from . import codecs\nfrom relabel.store.layout import FAILED\nimport math, torch, zarr"),
        ("cli/commands.py", "import relabel\nfrom relabel.store import StoreReader"),
        ("plan.py", "\n" * 330),
        ("teacher/load.py", "import torch\ntorch.load('a', map_location='cpu', weights_only=True)"),
    ],
)
def test_what_the_rules_allow_is_not_found(path, source):
    assert violations(path, source) == []


def test_contributing_shows_the_floors():
    page = (_PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([a-z_, ]+) \|$", page, re.MULTILINE)
    assert {room: int(floor) for floor, rooms in rows for room in rooms.split(", ")} == FLOORS
