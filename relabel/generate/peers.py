"""The processes of a run, as far as they know of each other: one bar, one batch size and one summary for all of them.

They share the store of keys and values that torchrun keeps for its processes. Where there is none (srun, or ranks given
by hand) each process speaks for itself. Labelling needs none of this: each process's share follows from its rank, and
when the store is lost a run goes on without.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TypeVar

import torch.distributed

from relabel.generate.options import GenerateSummary, StageSeconds
from relabel.plan import Failure

_log = logging.getLogger(__name__)
_runs = itertools.count()
_T = TypeVar("_T")

_CONNECT_SECONDS = 30.0
_PATIENCE_SECONDS = 1800.0
"""Without a sign of life from any process for so long, the others are not waited for."""
_POLL_SECONDS = 0.1
_TOLD_FAILURES = 1000
_TOLD_CHARACTERS = 500


class Peers:
    """Process `rank` of `world_size`; `store`, if any, is one that all of them see."""

    def __init__(self, rank: int, world_size: int, store: torch.distributed.Store | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = store
        self._done = self._total = 0

    @classmethod
    def of_run(cls, rank: int, world_size: int, environment: Mapping[str, str] = os.environ) -> Peers:
        """Those of torchrun's processes, if it started this one as that rank; else alone."""
        number = next(_runs)
        env = environment.get
        is_ours = world_size > 1 and (env("RANK"), env("WORLD_SIZE")) == (str(rank), str(world_size))
        if not is_ours or env("TORCHELASTIC_USE_AGENT_STORE") != "True" or not torch.distributed.is_available():
            return cls(rank, world_size)
        try:
            address, timeout = (environment["MASTER_ADDR"], int(environment["MASTER_PORT"])), _CONNECT_SECONDS
            tcp = torch.distributed.TCPStore(*address, is_master=False, timeout=timedelta(seconds=timeout))
        except (KeyError, ValueError, RuntimeError) as error:
            _log.warning("torchrun's store cannot be reached (%s): each process tells of its own share alone", error)
            return cls(rank, world_size)
        # A store may outlive a failed start, and serves every run of a script.
        prefix = f"relabel/{env('TORCHELASTIC_RUN_ID')}/{env('TORCHELASTIC_RESTART_COUNT')}/{number}/"
        return cls(rank, world_size, torch.distributed.PrefixStore(prefix, tcp))

    @property
    def are_shared(self) -> bool:
        """Whether the processes know of each other."""
        return self._store is not None

    @property
    def on_this_machine(self) -> int:
        """How many processes share this machine's cores, as far as a launcher says."""
        local = os.environ.get("LOCAL_WORLD_SIZE", "1")
        return int(local) if self.world_size > 1 and local.isdecimal() and int(local) else 1

    @property
    def leads(self) -> bool:
        """Whether this process shows its progress: the first, or every one where they do not know of each other."""
        return self.rank == 0 or not self.are_shared

    def title(self, what: str) -> str:
        """What a bar says."""
        return what if self.are_shared or self.world_size == 1 else f"{what} (process {self.rank} of {self.world_size})"

    def count(self, *, done: int = 0, total: int = 0) -> tuple[int, int]:
        """Add to the images that are done and to do; returns those of all processes that are known."""
        self._done, self._total = self._done + done, self._total + total
        every = self._ask(lambda store: (store.add("done", done), store.add("total", total)))
        return every or (self._done, self._total)

    def agree(self, choose: Callable[[], int]) -> int:
        """The number that the first process to ask here has chosen."""
        if self._ask(lambda store: store.add("asked", 1)) in (None, 1):
            chosen = choose()
            self._ask(lambda store: store.set("chosen", str(chosen)))
            return chosen
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (told := self._told("chosen")) is None and self.are_shared and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return choose() if told is None else int(told)

    def gather(self, mine: GenerateSummary, seen: Callable[[], int]) -> dict[int, GenerateSummary]:
        """The summaries by rank that a process has to tell of: on the first all, elsewhere its own.

        The first waits for the others as long as any of them counts images (`seen` says how many there are by now).
        Those that did not tell are missing. Where the processes do not know of each other, each has its own.
        """
        if self.rank:
            self._ask(lambda store: store.set(f"summary/{self.rank}", _encoded(mine)))
        if self.rank or not self.are_shared:
            # Where the store was lost, nobody else tells of this share.
            return {self.rank: replace(mine, is_part=self.are_shared)}
        found, signs, deadline = {0: mine}, (-1, 0), 0.0
        while len(found) < self.world_size:
            for rank in range(1, self.world_size):
                if rank not in found and (told := self._told(f"summary/{rank}")) is not None:
                    found[rank] = _decoded(told)
            if not self.are_shared:
                return {0: mine}
            if signs != (signs := (seen(), len(found))):
                deadline = time.monotonic() + _PATIENCE_SECONDS
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return found

    def _told(self, key: str) -> bytes | None:
        """What another process has said by now."""
        return self._ask(lambda store: store.get(key) if store.check([key]) else None)

    def _ask(self, question: Callable[[torch.distributed.Store], _T]) -> _T | None:
        """The store's answer; None where there is no store, or no longer."""
        if self._store is None:
            return None
        try:
            return question(self._store)
        except RuntimeError as error:
            _log.warning(
                "process %d of %d lost the store that torchrun's processes share (%s). It goes on labelling its share, "
                "and from here on tells of that alone",
                self.rank,
                self.world_size,
                str(error).partition("\n")[0],
            )
            self._store = None
            return None


def _encoded(summary: GenerateSummary) -> str:
    """As JSON of at most a few hundred kilobytes: the store refuses values of many megabytes."""
    listed, broken = (
        tuple(Failure(f.shard, f.key[:_TOLD_CHARACTERS], f.reason[:_TOLD_CHARACTERS]) for f in told[:_TOLD_FAILURES])
        for told in (summary.failures, summary.broken)
    )
    left_out = len(summary.failures) - len(listed)
    return json.dumps(asdict(replace(summary, failures=listed, failures_unlisted=left_out, broken=broken)))


def _decoded(data: bytes) -> GenerateSummary:
    values = json.loads(data)
    for name in ("failures", "broken"):
        values[name] = tuple(Failure(**failure) for failure in values[name])
    values["doubts"] = tuple(values["doubts"])
    return GenerateSummary(**values | {name: StageSeconds(**values[name]) for name in ("waits", "busy")})
