"""One field is a whole option: its check, its place on the command line, its line of help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner

from relabel.cli.options import Command, made, made_each, options
from relabel.errors import InvalidValueError
from relabel.options import Option, check_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Kite:
    """An option of each kind."""

    name: Annotated[str, Option("Who.", "teacher", each="", metavar="NAME")]
    tail: Annotated[Path | None, Option("Of what.", "teacher", each="none", is_shared=False, unset="paper")] = None
    size_hw: Annotated[tuple[int, int] | None, Option("How large.", "map", least=1, metavar="H [W]", each="")] = None
    colour: Annotated[Literal["red", "blue"], Option("Which.", "map")] = "red"
    line: Annotated[float, Option("Metres.", "run", least=0, most=99.5, is_open=True, flag="-l/--string")] = 20.0
    angles: Annotated[tuple[float, ...], Option("Of flight.", "run", metavar="A ...")] = (30.0, 45.5)
    wind: Annotated[int | Literal["auto"], Option("Beaufort.", "run", least=0, most=12)] = "auto"
    quiet: Annotated[bool, Option("Loud.", "output", flag="--loud")] = True
    unasked: int = 7

    def __post_init__(self) -> None:
        check_options(self)


@click.command(cls=Command)
@click.argument("place")
@options(Kite)
@click.pass_obj
def fly(found: dict[str, Any], **given: Any) -> None:
    """Fly kites at PLACE."""
    found |= given


def flown(*arguments: str, code: int = 0) -> Any:
    """What a command understands, or what it says."""
    found: dict[str, Any] = {}
    result = CliRunner().invoke(fly, ["beach", *arguments], obj=found, terminal_width=100)
    assert result.exit_code == code, result.output
    return found if code == 0 else result.output


def test_what_is_not_given_is_the_fields_default() -> None:
    assert made_each(Kite, flown("--name", "a"), 1) == (Kite(name="a"),)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    tail = tmp_path / "tail"
    tail.touch()
    given = flown(
        *("--name", "a", "--name", "b", "--tail", "none", "--tail", str(tail), "--size", "3", "--colour", "blue"),
        *("-l", "2.5", "--angles", "1", "2.5", "3", "--wind", "5", "--loud"),
    )
    same = {"size_hw": (3, 3), "colour": "blue", "line": 2.5, "angles": (1.0, 2.5, 3.0), "wind": 5, "quiet": False}
    assert made_each(Kite, given, 2) == (Kite(name="a", **same), Kite(name="b", tail=tail, **same))
    assert made(Kite, {"colour": "blue", "line": None}, name="c") == Kite(name="c", colour="blue")


def test_help_is_made_of_the_fields_in_their_groups() -> None:
    shown = CliRunner().invoke(fly, ["--help"], terminal_width=100).output.partition("Teacher:")[2]
    assert [line.strip() for line in shown.splitlines() if line] == [
        "--name NAME  Who. [required]",
        "--tail FILE  Of what. [paper]",
        "Map:",
        "--size H [W]       How large.",
        "--colour red|blue  Which. [default: red]",
        "Run:",
        "-l, --string X  Metres. [default: 20]",
        "--angles A ...  Of flight. [default: 30 45.5]",
        "--wind N|auto   Beaufort. [default: auto]",
        "Output:",
        "--loud  Loud.",
        "--help  Show this message and exit.",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing option '--name'"),
        (["--size", "3x4x5"], "'3x4x5' is not what is expected: 2 whole numbers, each 1 or more, given as H [W]"),
        (["--size", "0"], "'0' is not what is expected"),
        (["--colour", "green"], "'green' is not what is expected: one of 'red', 'blue'"),
        (["--string", "0"], "a number, above 0 and at most 99.5"),
        (["--string", "nan"], "a number, above 0 and at most 99.5"),
        (["--wind", "13"], "a whole number, from 0 to 12, or 'auto'"),
        (["--wind", "1.5"], "a whole number, from 0 to 12, or 'auto'"),
        (["--tail", "absent"], "there is no file 'absent'"),
    ],
)
def test_what_has_no_meaning_is_said_beside_the_options_name(arguments: list[str], said: str) -> None:
    shown = flown(*(["--name", "a"] if arguments else []), *arguments, code=2)
    assert said in shown
    assert arguments == [] or f"'{arguments[0]}'" in shown or "'-l' / '--string'" in shown


@pytest.mark.parametrize(
    "given",
    [
        {"name": 3},
        {"colour": None},
        {"line": 0},
        {"line": 99.6},
        {"line": True},
        {"angles": ()},
        {"angles": (float("inf"),)},
        {"angles": "12"},
        {"size_hw": (1, 2, 3)},
        {"size_hw": (1.0, 2.0)},
        {"wind": "none"},
        {"quiet": 0},
        {"tail": 5},
    ],
)
def test_a_type_refuses_what_its_options_do(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=f"{next(iter(given))} must be .*; got"):
        Kite(**{"name": "a", **given})


def test_one_value_serves_all_teachers_unless_it_cannot(tmp_path: Path) -> None:
    given = flown("--name", "a", "--name", "b", "--size", "3", "4")
    assert [kite.size_hw for kite in made_each(Kite, given, 2)] == [(3, 4), (3, 4)]
    with pytest.raises(
        InvalidValueError, match=r"2 teachers and 1 times --tail: .*\(--tail none where there is none\)"
    ):
        made_each(Kite, given | {"tail": (tmp_path,)}, 2)
    with pytest.raises(
        InvalidValueError, match=r"2 teachers and 3 times --size: give it once for each, in their order$"
    ):
        made_each(Kite, given | {"size_hw": ((1, 1),) * 3}, 2)
