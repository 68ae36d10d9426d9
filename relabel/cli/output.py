"""Results on stdout, and how a command ends."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from relabel.cli.options import Shown

EXIT_FINDINGS = 1

as_json = click.option("--json", "as_json", cls=Shown, is_flag=True, help="Print JSON, for machines.")
quiet = click.option("--quiet", cls=Shown, is_flag=True, help="No progress bars.")


def show(result: dict[str, Any] | str) -> None:
    """Text, or JSON of a kind that every parser reads: NaN is no number there."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=2, allow_nan=False))


def finish(result: dict[str, Any] | str, *, is_good: bool) -> NoReturn:
    """Show a result, and exit as it says."""
    show(result)
    sys.exit(0 if is_good else EXIT_FINDINGS)
