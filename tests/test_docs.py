"""Anything written down is run: doctests are counted, commands parse, Python blocks compile or run, targets exist."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import leaves, parser
from pages import FENCE, ROOT, Block, blocks, changed_lines, patched, read_page

import relabel
from relabel.cli import main

_README = ROOT / "README.md"
# Raise it when you add examples, lower it only when you remove one on purpose.
_DOCTEST_EXAMPLES = 36
_EXAMPLES_IN = (
    "relabel.geometry.boxes",
    "relabel.geometry.views",
    "relabel.losses.soft",
    "relabel.manifest.manifest",
    "relabel.mixing",
    "relabel.plan",
    "relabel.published",
    "relabel.score_map.score_map",
)
_PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "pipelines/README.md", "studies/*.md")
_SHELLS = {"bash", "console", "sh", "shell"}
# Words that may stand before `relabel` in a command; `pip install relabel` is not one of ours.
_LAUNCHERS = {"do", "exec", "nohup", "python", "python3", "srun", "then", "time", "torchrun"}


def shell_lines(block: Block) -> list[str]:
    """What a reader types: the lines behind ``$`` where a block has any, else all; continued lines are joined."""
    if block.language not in _SHELLS:
        return []
    lines = re.sub(r"\\\n\s*(> )?", " ", block.text).splitlines()
    typed = [line.strip().removeprefix("$ ") for line in lines if line.strip().startswith("$ ")]
    return typed or [line.strip() for line in lines if line.strip()]


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a shell line, each as words; redirections and what follows them are dropped."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;()"):
            if words:
                yield words
            words, redirected = [], False
        elif set(word) <= set("<>"):
            redirected = True
        elif not redirected:
            words.append(word)


def relabel_arguments(words: list[str]) -> list[str] | None:
    """What `relabel` gets, or None if this is another command."""
    while words and (re.fullmatch(r"\w+=.*", words[0])):
        words = words[1:]
    if not words or Path(words[0]).name not in {"relabel", *_LAUNCHERS}:
        return None
    places = [i for i, word in enumerate(words) if Path(word).name == "relabel"]
    return words[places[0] + 1 :] if places else None


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """What is wrong with arguments, or an empty string; nothing is run, in a folder without any file."""
    monkeypatch.chdir(tmp_path)
    return parser(monkeypatch)


def make_targets() -> set[str]:
    """The targets of the Makefile that a person may name."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """The targets that a page names, in code."""
    code = [*(block.text for block in blocks("", text)), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]
    found = [re.findall(r"^(?:\$ )?make((?: [\w=./-]+)+)", text.strip(), re.MULTILINE) for text in code]
    return {word for lines in found for line in lines for word in line.split() if "=" not in word and word[0] != "-"}


def run_python(page_blocks: list[Block]) -> dict[str, object]:
    """Compile a page's Python blocks, run those that are marked, in order, as one program; answers its names."""
    names: dict[str, object] = {"__name__": "__page__"}
    for block in page_blocks:
        if block.language == "python":
            # Line numbers of the page, so that a traceback points into it.
            code = compile("\n" * (block.line - 1) + block.text, block.page, "exec", dont_inherit=True)
            if block.runs:
                exec(code, names)
    return names


def _pages() -> list[str]:
    return sorted({path.relative_to(ROOT).as_posix() for pattern in _PAGES for path in ROOT.glob(pattern)})


def _examples_by_module() -> dict[str, int]:
    found = {}
    finder = doctest.DocTestFinder()
    for module in pkgutil.walk_packages(relabel.__path__, "relabel."):
        if module.name != "relabel.__main__":
            tests = finder.find(importlib.import_module(module.name), module.name)
            found[module.name] = sum(not e.options.get(doctest.SKIP) for test in tests for e in test.examples)
    return found


def test_no_doctest_has_vanished(pytestconfig):
    examples = _examples_by_module()
    assert sum(examples.values()) >= _DOCTEST_EXAMPLES, examples
    assert all(examples[module] for module in _EXAMPLES_IN), examples
    assert pytestconfig.getoption("doctestmodules")
    assert "relabel" in pytestconfig.getini("testpaths")


@pytest.mark.parametrize("page", _pages())
def test_every_command_of_a_page_parses(page, parse):
    lines = [line for block in blocks(page, read_page(page)) for line in shell_lines(block)]
    ours = [
        arguments for line in lines for words in commands(line) if (arguments := relabel_arguments(words)) is not None
    ]
    assert list(filter(None, map(parse, ours))) == []


@pytest.mark.parametrize("page", _pages())
def test_python_of_a_page_compiles_and_what_is_marked_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_python(blocks(page, read_page(page)))


@pytest.mark.parametrize("page", _pages())
def test_every_make_target_of_a_page_exists(page):
    assert named_targets(read_page(page)) <= make_targets()


_EVERY_COMMAND = pytest.mark.parametrize(
    ("path", "command"), [pytest.param(path, command, id=" ".join(path)) for path, command in leaves()]
)


@_EVERY_COMMAND
def test_every_command_has_an_example_that_parses(path, command, parse):
    text = command.help or ""
    assert "Example" in text
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("relabel ")]
    ours = [arguments for line in lines for words in commands(line) if (arguments := relabel_arguments(words))]
    assert any(tuple(arguments[: len(path)]) == path for arguments in ours)
    assert list(filter(None, map(parse, ours))) == []


@_EVERY_COMMAND
def test_every_command_is_named_in_the_readme(path, command):
    assert " ".join(("relabel", *path)) in _README.read_text(encoding="utf-8")


def test_the_option_tables_of_the_readme_say_what_the_options_are():
    options = {flag: option for option in main.commands["generate"].params for flag in option.opts}
    rows = re.findall(r"^\| (`--.*?) \| (.*?) ?\| .* \|$", read_page("README.md").replace(r"\|", "/"), re.MULTILINE)
    named = [(name, default) for names, default in rows for name in re.findall(r"`(.+?)`", names)]
    assert len(named) > 20
    for name, default in named:
        flag, _, metavar = name.partition(" ")
        option = options[flag]
        assert metavar.replace("/", "|") == ("" if option.is_flag else option.metavar), flag
        assert default == option.aside.removeprefix("default: "), flag


def test_help_stands_in_groups_and_each_option_in_one():
    for _, command in leaves():
        shown = CliRunner().invoke(command, ["--help"], terminal_width=100).output
        headings = re.findall(r"^(\w+):$", shown.partition("Example:")[2], re.MULTILINE)
        assert headings == [name for name in ("Teacher", "Map", "Run", "Output") if name in headings]
        for option in command.params:
            if isinstance(option, click.Option):
                assert len(re.findall(rf"^  (?:-\w, )?{option.opts[-1]}\b(?!-)", shown, re.MULTILINE)) == 1, option.opts


_PAGE = """
Run `make test`, and `make` alone says more; `makeup` is no target. `make fly VERBOSE=1` is wrong.

```console
$ cd x && .venv/bin/relabel generate a b --teacher t \\
>     --planes 8 | tee log
relabel nonsense
$ RANK=1 srun -n 2 relabel inspect b > out
$ pip install relabel
```

  ```bash
  relabel verify shards 'a-{0..9}.tar' # comment
  make bench demo
  ```

<!-- run -->
```python
result.append(x := 1)
```

```python
result.append(2)
```

<!-- run -->
```python
result.append(x + 2)
```
"""


def test_the_commands_of_a_page_are_found():
    lines = [line for block in blocks("page", _PAGE) for line in shell_lines(block)]
    found = [relabel_arguments(words) for line in lines for words in commands(line)]
    assert [arguments for arguments in found if arguments is not None] == [
        ["generate", "a", "b", "--teacher", "t", "--planes", "8"],
        ["inspect", "b"],
        ["verify", "shards", "a-{0..9}.tar"],
    ]
    assert named_targets(_PAGE) == {"test", "fly", "bench", "demo"}
    assert {"test", "demo", "bench"} <= make_targets()
    assert "fly" not in make_targets()


_SCRIPT = """
def train(loader):
    for images, labels in loader:
        step(images, labels)
"""
_PATCH = """
@@ at its head
+import relabel

 def train(loader):
@@ the loop
-        step(images, labels)
+        step(images, relabel.open(store).pool(labels))
"""


def test_a_script_is_changed_as_a_page_shows_it():
    assert changed_lines(_PATCH) == 2
    with pytest.raises(ValueError, match="0 times in the script"):
        patched(_SCRIPT, _PATCH.replace(" def train(loader):", " def fit(loader):"))
    changed = patched(_SCRIPT, _PATCH.replace("\n\n", "\n"))
    assert changed.startswith("\nimport relabel\ndef train(loader):\n")
    assert changed.endswith("        step(images, relabel.open(store).pool(labels))\n")


def test_only_marked_python_runs_and_shares_its_names():
    page_blocks = blocks("page", f"<!-- run -->\n```python\nresult = []\n```\n{_PAGE}")
    assert run_python(page_blocks)["result"] == [1, 3]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("relabel generate a --teacher t", "STORE"),
        ("relabel generate a b --teacher t --plane 8x", "--plane"),
        ("relabel generate a b --teacher t --fit stretch", "stretch"),
        ("relabel verify labels.zarr", "labels.zarr"),
        ("relabel forget", "forget"),
        ("relabel inspect", "STORE"),
    ],
)
def test_a_wrong_command_is_found(line, problem, parse):
    (words,) = commands(line)
    arguments = relabel_arguments(words)
    assert arguments is not None
    assert problem in parse(arguments)


def test_a_right_command_is_not_found_and_nothing_is_run(parse, tmp_path):
    assert parse(["generate", "absent/", "labels.zarr", "--teacher", "resnet10t", "--checkpoint", "absent.pt"]) == ""
    assert list(tmp_path.iterdir()) == []
