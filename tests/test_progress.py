"""Progress: a bar on a terminal, lines in a log, and every count from every thread."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from relabel import progress
from relabel.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class SlowNumber(int):
    """Adding it takes so long that another thread comes in between, unless it is kept out."""

    def __radd__(self, other: int) -> int:
        time.sleep(0.001)
        return int(self) + other


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Callable[[io.StringIO], io.StringIO]:
    def replaced(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replaced


def test_a_log_gets_whole_lines_and_no_carriage_returns(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.0)
    log = stderr(io.StringIO())
    with Progress("labelling", 4, unit="images") as bar:
        bar.advance(1)
        bar.advance(3, "waiting for data 3%")
    first, *_, last = log.getvalue().splitlines()
    assert first.startswith("labelling:  25% 1/4 [")
    assert last.startswith("labelling: 100% 4/4 [")
    assert last.endswith("images/s, waiting for data 3%]")
    assert "\r" not in log.getvalue()


def test_a_log_of_a_short_run_is_one_line(stderr):
    log = stderr(io.StringIO())
    with Progress("listing", None, unit="images") as bar:
        for _ in range(100):
            bar.advance(1)
    assert log.getvalue().count("\n") == 1
    assert log.getvalue().startswith("listing: 100 images [")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_waited_for_is_named_though_nothing_comes(stream, stderr, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.01)
    shown = stderr(stream())
    with Progress("listing", None, unit="images", reading=lambda: "part\x1b[2J-07.tar"):
        while "reading part" not in shown.getvalue():
            time.sleep(0.01)
    assert "listing: 0 images [" in shown.getvalue()
    assert "reading part\N{REPLACEMENT CHARACTER}[2J-07.tar" in shown.getvalue()


def test_a_terminal_gets_a_bar_with_the_note(stderr):
    terminal = stderr(Terminal())
    with Progress("labelling", 4, unit="images") as bar:
        bar.advance(4, "waiting for data 3%")
    assert "\rlabelling: 100%|" in terminal.getvalue()
    assert "waiting for data 3%" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_count_that_others_have_a_part_in_is_shown_with_its_total(stream, stderr):
    shown = stderr(stream())
    with Progress("labelling", None, unit="images") as bar:
        bar.reach(3, 10, "waiting for data 3%")
        bar.reach(7, 20)
        # Overtaken by another thread on the way.
        bar.reach(5, 20)
    assert "labelling:  35%" in shown.getvalue().splitlines()[-1]
    assert "7/20 [" in shown.getvalue()
    assert "waiting for data 3%" in shown.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_count_without_a_total_is_shown_alone(stream, stderr):
    shown = stderr(stream())
    with Progress("labelling", 9, unit="images") as bar:
        bar.reach(3, None)
    assert "labelling: 3 images [" in shown.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_not_shown_prints_nothing(stderr, stream):
    silent = stderr(stream())
    with Progress("labelling", 4, unit="images", shown=False) as bar:
        bar.advance(4, "note")
        bar.reach(4, 9, "note")
    assert silent.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_count_of_any_thread_is_lost(stderr, stream):
    shown = stderr(stream())
    with ThreadPoolExecutor(8) as pool, Progress("listing", None, unit="images") as bar:
        list(pool.map(lambda _: bar.advance(SlowNumber(1)), range(64)))
    assert "listing: 64 images [" in shown.getvalue()
