"""Packages whose names are loaded when they are asked for: `relabel --help` waits for no torch.

A package says its public names once, as imports that only type checkers run, and `lazily` reads those.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package, which imports its names below ``if TYPE_CHECKING``."""
    rooms = _imports(package)

    def load(name: str) -> object:
        if name not in rooms:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # `from relabel import published` names a module.
        is_module = rooms[name] == package
        return import_module(f"{package}.{name}") if is_module else getattr(import_module(rooms[name]), name)

    names = sorted(rooms)
    return load, lambda: names, names


def _imports(package: str) -> dict[str, str]:
    """The module of each name that a package imports for type checkers."""
    loader: Any = sys.modules[package].__loader__
    source = loader.get_source(package)
    if source is None:
        raise ImportError(f"{package} lists its names in its source, which is gone: install relabel with its .py files")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}
