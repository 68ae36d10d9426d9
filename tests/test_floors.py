"""The house: who may import whom, which third party lives in which room, and how large things may grow.

What ruff checks (docstrings, parameters, blanket excepts) is not checked again.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[1] / "relabel"
_ROOF = {"__init__", "__main__"}
_TOP = "cli"  # the one room that may look at the roof: it prints the version

FLOORS = {
    **dict.fromkeys(("cores", "errors", "lazily"), 0),
    **dict.fromkeys(("findings", "geometry", "labels", "options", "plan", "progress"), 1),
    **dict.fromkeys(("manifest", "pooling"), 2),
    "score_map": 3,
    **dict.fromkeys(("images", "teacher", "store", "tracking", "mixing", "losses", "published"), 4),
    **dict.fromkeys(("generate", "verify", "worth", "loader", "importers", "report", "summary", "writing"), 5),
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
        found += [(node.lineno, what) for what in _faults(room, node)]
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def _imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported name, absolute, wherever in the module the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = ["relabel", *path.split("/")[:-1]]
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            # `from relabel import plan` names a room; `from relabel.plan import plan` does not go deeper than one.
            names = [f"relabel.{alias.name}" for alias in node.names] if module == "relabel" else [module]
            yield from ((node.lineno, name) for name in names)
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


def _faults(room: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Assert):
        yield "assert: raise a RelabelError, asserts vanish under -O"
    if isinstance(node, ast.FunctionDef):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > LIMITS["function lines"] * SLACK:
            yield f"{node.name}: function of {lines} lines"
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        suppressed = {ast.unparse(each) for each in node.args} if called == "contextlib.suppress" else set()
        if suppressed & {"Exception", "BaseException"}:
            yield "blanket suppress"
        if called == "os.sched_getaffinity" and room != "cores":
            yield "os.sched_getaffinity: macOS has none, ask cores.usable_cores"
        if called == "torch.load" and not any(_is_weights_only(keyword) for keyword in node.keywords):
            yield "torch.load without weights_only=True"
    if isinstance(node, ast.ImportFrom) and node.module == "torch" and any(a.name == "load" for a in node.names):
        yield "from torch import load: write torch.load(..., weights_only=True)"


def _is_weights_only(keyword: ast.keyword) -> bool:
    return keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


_MODULES = sorted(path.relative_to(_PACKAGE).as_posix() for path in _PACKAGE.rglob("*.py"))


def _names_imported(source: str) -> set[str]:
    """What a module imports, as paths below the package, whether at run time or for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("relabel.").replace(".", "/") for name in names if name.startswith("relabel.")}


def _circle(sources: dict[str, str]) -> list[str]:
    """Files of which each imports the one before, the first imported by the last; empty if there are none."""

    def files(name: str) -> set[str]:
        return {f"{name}.py", f"{name}/__init__.py"} & sources.keys()

    graph = {
        path: {file for name in _names_imported(text) for file in files(name) or files(name.rpartition("/")[0])}
        for path, text in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("room", sorted(set(FLOORS) - {"score_map"}))  # TODO score_map
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
        ("geometry.py", "from relabel.store import StoreReader", "floor 4 is not below geometry's floor 1"),
        ("geometry.py", "def _f():\n    import relabel.store.reader", ":2: imports relabel.store.reader"),
        ("geometry.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import relabel.cli", ":3: imports"),
        ("geometry.py", "from . import store", "floor 4 is not below"),
        ("geometry.py", "from relabel import errors, store", "imports relabel.store"),
        ("geometry.py", "import importlib\nimportlib.import_module('relabel.store')", "floor 4 is not below"),
        ("store/reader.py", "from ..teacher import Teacher", "floor 4 is not below store's floor 4"),
        ("store/reader.py", "from relabel.images import image_hash", "floor 4 is not below store's floor 4"),
        ("generate/run.py", "from relabel.verify import verify_shards", "floor 5 is not below generate's floor 5"),
        ("plan.py", "import relabel", "the roof"),
        ("plan.py", "from relabel import ScoreMap", "the roof"),
        ("attic.py", "import os", "no floor for the room 'attic'"),
        ("attic/stairs.py", "import os", "no floor for the room 'attic'"),
        ("generate/run.py", "import click", "click, which lives in cli only"),
        ("loader.py", "from tqdm import tqdm", "tqdm, which lives in progress only"),
        ("loader.py", "def _f():\n    from timm.data import create_transform", "timm, which lives in teacher only"),
        ("teacher/load.py", "import webdataset", "webdataset, which lives in images only"),
        ("verify/shards.py", "import zarr.codecs", "zarr, which lives in store only"),
        (
            "pooling.py",
            "from torchvision.ops import roi_align",
            "torchvision, which lives in images",
        ),
        ("store/reader.py", "import pandas", "pandas, a third party without a room"),
        ("__init__.py", "import zarr", "zarr, which lives in store only"),
        ("plan.py", "\n" * 331, "module of 331 lines"),
        ("plan.py", "def _f():\n" + "    pass\n" * 66, "_f: function of 67 lines"),
        ("plan.py", "def _f(a):\n    assert a", ":2: assert"),
        ("plan.py", "import os\nos.sched_getaffinity(0)", "ask cores"),
        ("plan.py", "import contextlib\nwith contextlib.suppress(Exception):\n    pass", "blanket suppress"),
        ("teacher/load.py", "import torch\ntorch.load('a')", "torch.load without weights_only=True"),
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
        ("geometry.py", "import math\nimport torch\nfrom relabel.errors import LabelError"),
        ("store/reader.py", "from . import codecs\nfrom relabel.store.layout import FAILED\nimport zarr"),
        ("__init__.py", "from relabel.loader import open"),
        ("__main__.py", "from relabel.cli import main"),
        ("cli/commands.py", "import relabel"),
        ("plan.py", "\n" * 330),
        ("plan.py", "def _f():\n" + "    pass\n" * 65),
        ("teacher/load.py", "import torch\ntorch.load('a', map_location='cpu', weights_only=True)"),
    ],
)
def test_what_the_rules_allow_is_not_found(path, source):
    assert violations(path, source) == []


def test_one_forbidden_import_in_a_real_module_is_found():
    source = (_PACKAGE / "geometry/boxes.py").read_text(encoding="utf-8")
    assert violations("geometry/boxes.py", source) == []
    broken = violations("geometry/boxes.py", source + "\nfrom relabel.store import StoreReader\n")
    assert len(broken) == 1
    assert "imports relabel.store" in broken[0]


def test_contributing_shows_the_floors():
    page = (_PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([a-z_, ]+) \|$", page, re.MULTILINE)
    assert {room: int(floor) for floor, rooms in rows for room in rooms.split(", ")} == FLOORS


def test_import_relabel_loads_no_writing_third_party():
    heavy = {"click", "matplotlib", "numcodecs", "timm", "webdataset", "zarr"}
    code = f"import sys, relabel; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=_PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
