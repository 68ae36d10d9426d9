"""How signals end a command, whatever it is at; what whole runs do with them is tested where they are generated."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from relabel.cli.group import Commands
from relabel.cli.signals import Ending

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are known by /proc")


def wait_for(file: Path) -> str:
    while not file.exists() or not file.read_text():
        time.sleep(0.005)
    return file.read_text()


def stubborn(told: Path) -> None:
    """Never hears of a signal, as a thread that waits inside a library, and has started a program that has another."""
    sleeping = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
    with Ending(lambda: "").handling():
        told.write_text(str(sleeping.pid))
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                continue


def forking(told: Path) -> None:
    """Outlives a child that a signal ends."""
    with Ending(lambda: "").handling():
        child = os.fork()
        if not child:
            told.write_text(str(os.getpid()))
            time.sleep(60)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(1.5)
        os._exit(100 + -code)


def started(target: Callable[[Path], None], told: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("forkserver").Process(target=target, args=(told,))
    process.start()
    wait_for(told)
    return process


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@linux
def test_a_command_that_never_hears_of_ctrl_c_ends_all_the_same_and_its_children_with_it(tmp_path):
    process = started(stubborn, tmp_path / "told")
    child = int(wait_for(tmp_path / "told"))
    assert is_alive(child)
    for _ in range(3):
        os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    # Killed, and gone a moment later: nobody that is left waits for it.
    until = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(child)


def test_a_forked_childs_signals_are_its_own(tmp_path):
    process = started(forking, tmp_path / "told")
    os.kill(int(wait_for(tmp_path / "told")), signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 100 + signal.SIGTERM


def test_handlers_are_a_commands_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Ending(lambda: "").handling():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert "signals" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(0), 2, "error: the command did not end by itself: SystemExit (0) out of foreign code\n"),
        (SystemExit(), 2, "error: the command did not end by itself: SystemExit out of foreign code\n"),
        (MemoryError(), 2, "error: out of memory. Free some, or give fewer --workers or a smaller --batch-size\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_foreign_code_ends_with_is_no_success(error, code, said):
    @click.group(cls=Commands)
    def commands() -> None:
        pass

    @commands.command()
    def fails() -> None:
        raise error

    result = CliRunner().invoke(commands, ["fails"])
    assert (result.exit_code, result.stderr) == (code, said)
