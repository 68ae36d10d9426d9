"""Results on stdout, and how a command ends."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import asdict
from typing import Any, NoReturn

import click

from relabel.cli.options import Shown

EXIT_FINDINGS = 1

as_json = click.option("--json", "as_json", cls=Shown, is_flag=True, help="Print JSON, for machines.")
quiet = click.option("--quiet", cls=Shown, is_flag=True, help="No progress bars.")


def plain(report: Any, **otherwise: object) -> dict[str, Any]:
    """A report for a machine: its fields and properties, null for a number that is not known, or infinite."""
    found = inspect.getmembers_static(type(report), lambda value: isinstance(value, property))
    derived = [name for name, _ in found if not name.startswith("_")]
    values = asdict(report) | {name: getattr(report, name) for name in derived} | otherwise
    return {name: _finite(value) for name, value in values.items()}


def finish(result: dict[str, Any] | str, *, is_good: bool) -> NoReturn:
    """Show a result, text or JSON, and exit as it says."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))
    click.get_current_context().exit(0 if is_good else EXIT_FINDINGS)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
