"""Hostile bytes against every door that takes a stranger's file; ``make fuzz``.

Each case is made from a seed: a good file is changed (bytes flipped, cut, inserted, spliced, numbers put at edges; or
what it holds is changed, with right checksums and digests around it), and handed to the code that reads such files.
A case is a finding if it ends the process, takes more than 10 s of CPU time or more than 1 GB, raises what is no
`RelabelError`, or if a store then serves a label that is not finite or does not sum to 1. Cases run in forked workers
with limits, so that a crash names its seed.

    python -m bench.fuzz                          # a million cases, for an hour of a core
    python -m bench.fuzz --cases 2000 --targets store,tar
    python -m bench.fuzz --only image:0:1234      # one case again: target, seed and number
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.fuzz_targets import TARGETS, Target
from relabel.errors import RelabelError
from relabel.progress import Progress

SECONDS = 10
"""Of CPU time, that a case may take."""
_WALL_SECONDS = 120.0
_CHUNK = 2_000
_SHARES = {
    "manifest": 200_000,
    "image": 250_000,
    "import": 150_000,
    "checkpoint": 150_000,
    "safetensors": 100_000,
    "list": 60_000,
    "classes": 50_000,
    "tar": 25_000,
    "store": 15_000,
}
"""Cases of a long run: a million. A store takes 20 times as long as an image."""


@dataclass(slots=True)
class Outcome:
    """What became of a target's cases; `findings` by what was found: how often, and the number of the first case."""

    cases: int = 0
    accepted: int = 0
    findings: dict[str, tuple[int, int]] = field(default_factory=dict)

    def found(self, what: str, case: int) -> None:
        """Count a finding."""
        count, first = self.findings.get(what, (0, case))
        self.findings[what] = count + 1, first


def run(target: Target, seed: int, cases: int, progress: Callable[[int], None] = lambda _: None) -> Outcome:
    """Run a target's cases in forked workers, one after the other."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        made = target.prepare(Path(folder))
        first = 0
        while first < cases:
            last = _worker(target, made, seed, range(first, min(first + _CHUNK, cases)), outcome)
            progress(last + 1 - first)
            first = last + 1
    return outcome


def _worker(target: Target, made: object, seed: int, cases: range, outcome: Outcome) -> int:
    """Run some cases in a child, and count what was found; answers the last one that was run."""
    shared = mmap.mmap(-1, 8)
    shared[:] = struct.pack("q", cases.start)
    receive, send = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of a fork beside threads; a progress bar's holds nothing that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(receive)
        _child(target, made, seed, cases, (shared, send))
    os.close(send)
    told, deadline, seen = b"", time.monotonic() + _WALL_SECONDS, cases.start
    with os.fdopen(receive, "rb", buffering=0) as results:
        while True:
            if select.select([results], [], [], 1.0)[0]:
                if not (part := results.read(1 << 16)):
                    break
                told += part
            (now,) = struct.unpack("q", shared[:])
            if now != seen:
                seen, deadline = now, time.monotonic() + _WALL_SECONDS
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    (last,) = struct.unpack("q", shared[:])
    for line in map(json.loads, told.decode().splitlines()):
        outcome.accepted += line.get("accepted", 0)
        if "what" in line:
            outcome.found(line["what"], line["case"])
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        what = {"SIGPROF": f"more than {SECONDS} s", "SIGKILL": f"waits for {_WALL_SECONDS:.0f} s"}
        outcome.found(what.get(name, f"the process died of {name}"), last)
    outcome.cases += last + 1 - cases.start
    return int(last)


def _child(target: Target, made: object, seed: int, cases: range, told: tuple[mmap.mmap, int]) -> None:
    """Run cases, tell of each finding at once, and of how many were accepted at the end."""
    status, accepted, (shared, send) = 0, 0, told
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        warnings.simplefilter("ignore")
        soft = target.most_bytes + _data_bytes() + (1 << 29)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        base = _most_bytes()
        for case in cases:
            shared[:] = struct.pack("q", case)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            was_accepted, what = one_case(target, made, seed, case)
            accepted += was_accepted
            if not what and _most_bytes() - base > target.most_bytes:
                what = f"more than {target.most_bytes >> 20} MB"
            if what:
                os.write(send, json.dumps({"what": what, "case": case}).encode() + b"\n")
                if what.startswith("more than"):
                    break
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happens
        os.write(send, json.dumps({"what": f"in the harness: {error!r}", "case": cases.start}).encode() + b"\n")
        status = 1
    os.write(send, json.dumps({"accepted": accepted}).encode() + b"\n")
    os._exit(status)


def one_case(target: Target, made: object, seed: int, case: int) -> tuple[bool, str]:
    """Whether a case was accepted, and what is wrong, "" if nothing is."""
    chance = random.Random(f"{seed}/{target.name}/{case}")
    try:
        return target.case(made, chance), ""
    except RelabelError:
        return False, ""
    except BaseException as error:  # noqa: BLE001 - what else is raised is what is looked for
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/relabel/" in f.filename]
        at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return False, f"{type(error).__name__}{at}: {' '.join(str(error).split())[:90]}"


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 1 << 33


def report(outcomes: dict[str, Outcome]) -> str:
    """A table, and a line for each kind of finding."""
    lines = ["| target | cases | accepted | refused | findings |", "|---|---|---|---|---|"]
    for name, found in outcomes.items():
        kinds = sum(count for count, _ in found.findings.values())
        refused = found.cases - found.accepted - kinds
        lines.append(f"| {name} | {found.cases:,} | {found.accepted:,} | {refused:,} | {kinds} |")
    total = Counter(cases=sum(o.cases for o in outcomes.values()))
    lines.append(f"| all | {total['cases']:,} | | | {sum(len(o.findings) for o in outcomes.values())} kinds |")
    for name, found in outcomes.items():
        lines += [f"{name}:{case}: {what} ({count} times)" for what, (count, case) in sorted(found.findings.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="In all; by default a million.")
    parser.add_argument("--targets", default=",".join(_SHARES), help="Names, with commas between.")
    parser.add_argument("--only", metavar="TARGET:SEED:CASE", help="One case, in this process, with its traceback.")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.only:
        name, seed, case = given.only.split(":")
        with tempfile.TemporaryDirectory() as folder:
            faulthandler.enable()
            made = TARGETS[name].prepare(Path(folder))
            print(TARGETS[name].case(made, random.Random(f"{seed}/{name}/{case}")))
        return 0
    names = given.targets.split(",")
    scale = 1.0 if given.cases is None else given.cases / sum(_SHARES[name] for name in names)
    outcomes: dict[str, Outcome] = {}
    started = time.monotonic()
    for name in names:
        cases = max(1, round(_SHARES[name] * scale))

        with Progress(name, cases, unit="cases") as progress:
            outcomes[name] = run(TARGETS[name], given.seed, cases, progress.advance)
    print(report(outcomes))
    print(f"seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(any(found.findings for found in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
