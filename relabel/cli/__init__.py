"""The command line."""

from relabel.cli.commands import main

__all__ = ["main"]
