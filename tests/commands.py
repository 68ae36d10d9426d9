"""`relabel` through its real door: run, or only parsed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from relabel.cli import main


def run(*arguments: object, **environment: str | None) -> Result:
    """Run a command; a traceback is a failure of the test."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment, prog_name="relabel")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def parsed(text: str) -> Any:
    """JSON, strictly: the NaN and Infinity of Python's own dialect are refused."""

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refused)


def leaves(
    command: click.Command = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not a group, with the words that lead to it."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


def parser(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    """Parses arguments as `relabel` does and runs nothing; answers what is wrong with them, or an empty string."""
    monkeypatch.setattr("relabel.cli.options.is_file", lambda path: True)
    for _, command in leaves():
        monkeypatch.setattr(command, "callback", lambda **_: None)

    def problem(arguments: list[str]) -> str:
        result = CliRunner().invoke(main, arguments)
        return "" if result.exit_code == 0 else f"relabel {shlex.join(arguments)}: {result.output or result.exception}"

    return problem
