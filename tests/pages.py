"""What is written on a page: its fenced blocks, and the changes that it shows of a script."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"(?P<run><!-- run -->\s*)?^(?P<indent>[ \t]*)```(?P<language>\w*)(?P<title>[^\n]*)\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `title` is what stands behind its language."""

    page: str
    line: int
    language: str
    title: str
    text: str
    runs: bool


def read_page(page: str) -> str:
    """The text of a page, named from the root of the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, without their indentation."""
    return [
        Block(
            page,
            text[: found.start("text")].count("\n") + 1,
            found["language"],
            found["title"].strip(),
            textwrap.dedent(found["text"]),
            found["run"] is not None,
        )
        for found in FENCE.finditer(text)
    ]


def patches(page: str) -> dict[str, str]:
    """The changes that a page shows, its blocks of ``diff``, by title."""
    return {block.title: block.text for block in blocks(page, read_page(page)) if block.language == "diff"}


def _hunks(patch: str) -> list[tuple[list[str], list[str]]]:
    """Of each part of a patch, parted by lines with @@, the lines before and behind the change."""
    parts = [part.splitlines() for part in re.split(r"^@@.*\n", patch, flags=re.MULTILINE) if part.strip()]
    return [([x[1:] for x in part if x[:1] != "+"], [x[1:] for x in part if x[:1] != "-"]) for part in parts]


def changed_lines(patch: str) -> int:
    """How many lines a patch adds, changes or takes out."""
    parts = re.split(r"^@@.*\n", patch, flags=re.MULTILINE)
    return sum(max(len(re.findall(rf"^{re.escape(sign)}", part, re.MULTILINE)) for sign in "+-") for part in parts)


def patched(script: str, patch: str) -> str:
    """A script with a page's changes in it.

    Raises:
        ValueError: what a part of the patch shows as it was does not stand once in the script.
    """
    lines = script.splitlines()
    for before, behind in _hunks(patch):
        places = [i for i in range(len(lines)) if lines[i : i + len(before)] == before]
        if len(places) != 1:
            raise ValueError(f"this stands {len(places)} times in the script, not once:\n" + "\n".join(before))
        lines[places[0] : places[0] + len(before)] = behind
    return "\n".join(lines) + "\n"
