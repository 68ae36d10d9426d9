"""Every page shows changes of its script, of five lines at most, and the table of trainers counts them."""

from __future__ import annotations

import re

import pytest
from pages import ROOT, changed_lines, patched, patches, read_page

PAGES = sorted(path.stem for path in (ROOT / "docs/trainers").glob("*.md") if path.stem != "on_paper")
ROWS = dict(
    re.findall(r"^\| \[.*?\]\(trainers/(\w+)\.md\) \| ([0-9, ]+) \|", read_page("docs/trainers.md"), re.MULTILINE)
)


def script(page: str) -> str:
    return (ROOT / f"tests/trainers/scripts/{page}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_changes_five_lines_of_its_script_at_most(page: str) -> None:
    shown = patches(f"docs/trainers/{page}.md")
    text = script(page)
    for title, patch in shown.items():
        # What goes on top of the plain labels is counted with them.
        base = "" if "import relabel" in patch else shown["labels"]
        compile(patched(patched(text, base), patch), f"{page}: {title}", "exec", dont_inherit=True)
        assert changed_lines(base) + changed_lines(patch) <= 5
    assert ROWS[page] == str(changed_lines(shown["labels"]))
