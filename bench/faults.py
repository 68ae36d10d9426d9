"""Faults while a store is written, then the same command again: 15 kinds, seeded; ``make faults``.

Each case is a process of its own, forked from this one, which has imported torch: kills before the n-th file call,
errors of the system at it, signals, full disks, ranks killed, two runs at once, clocks, sources that change. What a run
leaves must be true as far as it goes; and the command, given once more, must make the store of an undisturbed run, byte
for byte, with nothing beside it. Prints a table: kind, cases, held, escaped; exits with 1 if one escaped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.file_calls import ERRNOS, Plan, counting, injected

_PARTS = (5, 3, 6, 4)
"""Images of each tar; the third has one that cannot be read."""
_BAD = (2, 1)
_HANGS_SECONDS = 60.0
_RUN_SECONDS = 0.5
"""A run takes about as long, so that a random moment lies in it."""


class Net(nn.Module):
    """A small teacher, the same in every process, and slow enough to be hit in the middle."""

    image_size_hw, mean, std = (16, 24), (0.5, 0.25, 0.75), (1.0, 1.0, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 16, 24) to (B, 10, 2, 3), whatever else is in the batch."""
        time.sleep(0.005)
        red, green, blue = nn.functional.avg_pool2d(images, 8)[:, :, None].unbind(1)
        phase = torch.arange(10)[None, :, None, None]
        return 8 * (torch.sin(phase + 3 * red) + torch.cos(2 * phase + 5 * green) - blue * (phase % 3))


@dataclass(slots=True)
class Case:
    """One fault: where it happens, how the runs ended, and what is `wrong`.

    An undisturbed run makes so many `calls` on files, and `expected`.
    """

    kind: str
    folder: Path
    dice: random.Random
    calls: int = 0
    expected: dict[str, bytes] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        """Where the store is made, alone in its folder."""
        return self.folder / "out" / "store"

    @property
    def images(self) -> str:
        """The tars of this case alone, which it may change."""
        return str(self.folder / "tars" / "part-*.tar")

    def command(self, *more: str) -> list[str]:
        """`relabel generate` of these."""
        given = ["--teacher", "bench.faults:Net", "--device", "cpu", "--planes", "3", "--profile", "4", "--quiet"]
        return ["generate", self.images, str(self.store), *given, "--batch-size", "2", "--workers", "2", *more]

    def run(self, command: Sequence[str], *allowed: int, faults: Callable[[], object] = lambda: None) -> None:
        """Run a command to its end, which must be one of some exit codes."""
        self.wait(self.start(command, faults), *allowed)

    def start(self, command: Sequence[str], faults: Callable[[], object] = lambda: None) -> int:
        """Start a command in a process of its own."""
        sys.stdout.flush()
        said = self.folder / "said"
        if child := os.fork():
            return child
        code = 70
        try:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            os.dup2(2, 1)
            # A campaign in the background, or under nohup, has some ignored, and its runs would never hear of them.
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from relabel.cli import main

            faults()
            main(list(command))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 71
        except BaseException:  # noqa: BLE001 - whatever it is, it is no way for a command to end
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, child: int, *allowed: int) -> None:
        """The end of a process that was started."""
        deadline = time.monotonic() + _HANGS_SECONDS
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.005)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self.wrong.append("hangs")
                return
        code = os.waitstatus_to_exitcode(ended[1])
        self.codes.append(code)
        if code not in allowed:
            said = (self.folder / "said").read_text(errors="replace").strip().splitlines() or [""]
            self.wrong.append(f"exit {code}, expected {allowed}: {said[-1][:200]}")

    def call(self, part: int = 1) -> int:
        """The number of a file call: of all that a run makes, or of so small a part of them."""
        return self.dice.randrange(max(1, self.calls // part))

    def moment(self) -> None:
        """Wait until a random moment of a run."""
        time.sleep(self.dice.uniform(0, _RUN_SECONDS))


def killed(case: Case) -> None:
    """SIGKILL before a file call."""
    case.run(case.command(), -signal.SIGKILL, 0, faults=injected(case.store, Plan(case.call())))


def torn(case: Case) -> None:
    """SIGKILL in the middle of a write."""
    case.run(case.command(), -signal.SIGKILL, 0, faults=injected(case.store, Plan(case.call(), torn=True)))


def failing(case: Case) -> None:
    """An error of the system at one file call."""
    plan = Plan(case.call(), error=case.dice.choice(ERRNOS))
    case.run(case.command(), 0, 1, 2, faults=injected(case.store, plan))


def full(case: Case) -> None:
    """The disk is full from one file call on."""
    plan = Plan(case.call(), error=ERRNOS[0], lasts=True)
    case.run(case.command(), 0, 1, 2, faults=injected(case.store, plan))


def killed_retry(case: Case) -> None:
    """SIGKILL before a file call of --retry-failed."""
    case.run(case.command(), 0, 1)
    case.run(case.command("--retry-failed"), -9, 0, 1, faults=injected(case.store, Plan(case.call(3))))


def failing_retry(case: Case) -> None:
    """An error of the system at a file call of --retry-failed."""
    case.run(case.command(), 0, 1)
    plan = Plan(case.call(3), error=case.dice.choice(ERRNOS))
    case.run(case.command("--retry-failed"), 0, 1, 2, faults=injected(case.store, plan))


def killed_repair(case: Case) -> None:
    """A file is damaged, and `verify shards --repair` killed before a file call."""
    case.run(case.command(), 0, 1)
    files = sorted(path for path in case.store.rglob("c.*") if path.is_file())
    _damage(case.dice.choice(files), case.dice)
    repair = ["verify", "shards", str(case.store), "--repair", "--quiet"]
    case.run(repair, -9, 0, 1, faults=injected(case.store, Plan(case.call(2))))
    case.run(repair, 0, 1)


def signalled(number: int) -> Callable[[Case], None]:
    """A signal at a random moment, and perhaps a second one."""

    def send(case: Case) -> None:
        child = case.start(case.command())
        case.moment()
        for _ in range(case.dice.choice((1, 1, 2))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            time.sleep(case.dice.choice((0, 0.01)))
        # Before its handlers are there it dies at once.
        case.wait(child, 0, 1, 128 + number, -number)

    return send


def rank_killed(case: Case) -> None:
    """Two processes share the work, and one is killed."""
    ranks = [case.start(case.command("--rank", str(rank), "--world-size", "2")) for rank in range(2)]
    case.moment()
    os.kill(ranks[case.dice.randrange(2)], signal.SIGKILL)
    for rank in ranks:
        case.wait(rank, 0, 1, -signal.SIGKILL)


def two_runs(case: Case) -> None:
    """Two runs of everything at once: one may say that the other is at work."""
    first = case.start(case.command())
    time.sleep(case.dice.uniform(0, 0.2))
    for run in (first, case.start(case.command())):
        case.wait(run, 0, 1, 2)


def clock(case: Case) -> None:
    """The clock jumps back by years, again and again, and the run is killed."""

    def set_back() -> None:
        real, jumps = time.time, iter(range(10**9))
        time.time = lambda: real() - 1e8 * next(jumps)
        injected(case.store, Plan(case.call()))()

    case.run(case.command(), -signal.SIGKILL, 0, faults=set_back)


def source_changed(case: Case) -> None:
    """A tar changes while the run reads; it is restored before the next."""
    tar = case.dice.choice(sorted((case.folder / "tars").iterdir()))
    child = case.start(case.command())
    while not case.store.exists():
        # What changes before it is listed is another source.
        time.sleep(0.001)
    time.sleep(case.dice.uniform(0, _RUN_SECONDS / 3))
    case.dice.choice(CHANGES)(tar, case.dice)
    case.wait(child, 0, 1, 2)
    _make_tars(case.folder / "tars")
    # A shard of other images has their hashes, and is found by them; the images that were damaged are failed rows.
    is_same = _contents(case.store) == case.expected
    case.run(["verify", "shards", str(case.store), "--images", case.images, "--quiet"], 0 if is_same else 1)
    case.run(case.command("--retry-failed"), 0, 1)


def _cut(tar: Path, dice: random.Random) -> None:
    os.truncate(tar, dice.randrange(tar.stat().st_size))


def _damage(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def _garbage(tar: Path, dice: random.Random) -> None:
    tar.write_bytes(dice.randbytes(3000))


def _grow(tar: Path, dice: random.Random) -> None:
    with tar.open("ab") as file:
        file.write(dice.randbytes(700))


def _reorder(tar: Path, dice: random.Random) -> None:
    members = _members(tar)
    dice.shuffle(members)
    _write_tar(tar, members)


def _other(tar: Path, dice: random.Random) -> None:
    # Renamed over it, as a download is: the run may hold the old one open.
    _write_tar(tar.with_suffix(".new"), [("other/1.png", _picture(dice.randrange(1000))) for _ in range(1)])
    tar.with_suffix(".new").replace(tar)


def _one_other(tar: Path, dice: random.Random) -> None:
    members = _members(tar)
    members[dice.randrange(len(members))] = ("renamed/x.png", _picture(1000))
    _write_tar(tar, members)


CHANGES: tuple[Callable[[Path, random.Random], Any], ...] = (
    *(_cut, _damage, _garbage, _grow, _reorder, _other, _one_other),
    lambda tar, _: tar.unlink(),
    lambda tar, _: tar.write_bytes(b""),
    lambda tar, _: (tar.unlink(), tar.mkdir()),
    lambda tar, _: _write_tar(tar, _members(tar)[:-1]),
    lambda tar, _: _write_tar(tar, [*_members(tar), ("more/9.png", _picture(9))]),
    lambda tar, _: tar.rename(tar.with_suffix(".old")),
)

KINDS: dict[str, Callable[[Case], None]] = {
    "SIGKILL before a file call": killed,
    "SIGKILL in a write (torn)": torn,
    "SIGKILL in --retry-failed": killed_retry,
    "SIGKILL in verify --repair": killed_repair,
    "errno at a file call": failing,
    "errno in --retry-failed": failing_retry,
    "disk full from a call on": full,
    "SIGINT": signalled(signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGHUP": signalled(signal.SIGHUP),
    "SIGQUIT": signalled(signal.SIGQUIT),
    "a rank killed": rank_killed,
    "two runs at once": two_runs,
    "clock set back, SIGKILL": clock,
    "source changes mid-run": source_changed,
}


def campaign(count: int, seed: int, folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Case]:
    """`count` cases, their kinds in turn; each is judged, and then its files are gone."""
    _import_all()
    whole = Case("none", folder / "whole", random.Random(seed))
    _make_tars(whole.folder / "tars")
    calls = folder / "calls"
    whole.run(whole.command(), 0, 1, faults=counting(whole.store, calls))
    if whole.wrong:
        raise SystemExit(f"an undisturbed run fails: {whole.wrong}")
    expected = _contents(whole.store)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        dice = random.Random(f"{seed} {number}")
        case = Case(kind, folder / f"case{number}", dice, int(calls.read_text()), expected)
        _make_tars(case.folder / "tars")
        KINDS[kind](case)
        _judge(case)
        yield case
        shutil.rmtree(case.folder, ignore_errors=True)


def _import_all() -> None:
    """What commands import when they need it, once for all cases."""
    for name in ("relabel.cli", "relabel.generate.run", "relabel.verify.shards", "zarr"):
        importlib.import_module(name)
    Image.init()


def _judge(case: Case) -> None:
    """What the fault left must be true, and the same command must finish it."""
    expected = case.expected
    for name in _published(case.store):
        if _read(case.store / name) != expected[name]:
            case.wrong.append(f"{name} is published and wrong")
    case.run(case.command(), 0, 1)
    found = _contents(case.store)
    case.wrong += [f"{name} is lost" for name in expected.keys() - found.keys()]
    case.wrong += [f"{name} is too much" for name in found.keys() - expected.keys()]
    case.wrong += [f"{name} differs" for name in found.keys() & expected.keys() if found[name] != expected[name]]
    beside = {path.name for path in case.store.parent.iterdir()} - {"store"} if case.store.parent.is_dir() else set()
    case.wrong += [f"{name} lies beside the store" for name in beside]
    if "Traceback" in (case.folder / "said").read_text(errors="replace"):
        case.wrong.append("a traceback: " + (case.folder / "said").read_text(errors="replace")[-1500:])


def _published(store: Path) -> Iterator[str]:
    """The files of all shards whose status is there."""
    for status in store.glob("status/c.*"):
        shard = status.name.split(".")[1]
        for path in store.glob(f"*/c.{shard}.*"):
            yield str(path.relative_to(store))


def _contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _picture(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 250, (20, 30, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as file:
        return [(m.name, content.read()) for m in file if (content := file.extractfile(m)) is not None]


def _write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _make_tars(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part, count in enumerate(_PARTS):
        members = [
            (f"a/{part}{n}.png", b"no image" if (part, n) == _BAD else _picture(10 * part + n)) for n in range(count)
        ]
        _write_tar(folder / f"part-{part}.tar", members)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KINDS, help="of this kind alone; may be given again")
    given = parser.parse_args()
    told: dict[str, list[Case]] = {kind: [] for kind in given.kind or KINDS}
    started = time.monotonic()
    # What was done by then is told after Ctrl-C, too.
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(campaign(given.count, given.seed, Path(folder), list(told)), 1):
            told[case.kind].append(case)
            if case.wrong:
                print(f"case {number - 1} ({case.kind}): {'; '.join(case.wrong[:3])}", file=sys.stderr, flush=True)
            elif number % 50 == 0:
                rate = number / (time.monotonic() - started)
                left = (given.count - number) / rate
                print(f"{number} of {given.count}, {rate:.2f} cases/s, {left:.0f} s left", file=sys.stderr, flush=True)
    print(report(told))
    sys.exit(any(case.wrong for cases in told.values() for case in cases))


def report(told: dict[str, list[Case]]) -> str:
    """A line a kind: cases, held, escaped, and how the disturbed runs ended."""
    lines = [f"{'kind':28}{'n':>6}{'held':>6}{'escaped':>9}  exit codes"]
    for kind, cases in told.items():
        escaped = sum(bool(case.wrong) for case in cases)
        codes = sorted({code for case in cases for code in case.codes[:-1]})
        lines.append(f"{kind:28}{len(cases):6}{len(cases) - escaped:6}{escaped:9}  {', '.join(map(str, codes))}")
    every = [case for cases in told.values() for case in cases]
    escaped = sum(bool(case.wrong) for case in every)
    lost = sum(bool(re.search("is lost|is published and wrong", what)) for case in every for what in case.wrong)
    doubled = sum("too much" in what for case in every for what in case.wrong)
    lines.append(f"{'all':28}{len(every):6}{len(every) - escaped:6}{escaped:9}  {lost} files lost, {doubled} doubled")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
