"""Results on stdout."""

from __future__ import annotations

import json
from typing import Any

import click


def show(result: dict[str, Any] | str) -> None:
    """Text, or JSON of a kind that every parser reads: NaN is no number there."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))
