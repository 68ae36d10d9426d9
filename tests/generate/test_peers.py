"""Processes of one run: one count, one batch size, one summary; and what is left when they lose touch."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed
from generating import make_teacher, options, write_tars
from store.samples import contents

from relabel.generate import Failure, GenerateSummary, generate, peers
from relabel.generate.options import StageSeconds
from relabel.generate.peers import Peers

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "a run",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


def summary(images: int = 50, **given: Any) -> GenerateSummary:
    sizes = {"shards": 3, "shards_skipped": 1, "shards_published": 2, "failures": (), "seconds": 4.0}
    return GenerateSummary(**sizes | {"images": images} | given)


def together(world_size: int) -> list[Peers]:
    store = torch.distributed.HashStore()
    return [Peers(rank, world_size, store) for rank in range(world_size)]


def gathered(processes: list[Peers], tell: Callable[[int], GenerateSummary]) -> list[dict[int, GenerateSummary]]:
    def gather(process: Peers) -> dict[int, GenerateSummary]:
        return process.gather(tell(process.rank), lambda: process.count()[0])

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(gather, processes))


class LostStore:
    """Answers `answers` times; then it is gone."""

    def __init__(self, answers: int = 0) -> None:
        self.answers, self.store = answers, torch.distributed.HashStore()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.answers -= 1
        if self.answers < 0:
            raise torch.distributed.DistNetworkError("Connection reset by peer\nException raised from ...")
        return getattr(self.store, name)


# Counts


def test_every_process_counts_for_all():
    processes = together(3)
    for process in processes:
        process.count(total=10)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda p: [p.count(done=1) for _ in range(100)], processes))
    assert [process.count() for process in processes] == [(300, 30)] * 3


def test_a_process_alone_counts_its_own():
    process = Peers(1, 2)
    assert process.count(total=10) == (0, 10)
    assert process.count(done=4) == (4, 10)


# Who speaks, and how


@pytest.mark.parametrize(
    ("process", "leads", "title"),
    [
        (Peers(0, 1), True, "labelling"),
        (Peers(3, 8), True, "labelling (process 3 of 8)"),
        (together(2)[0], True, "labelling"),
        (together(2)[1], False, "labelling"),
    ],
)
def test_one_bar_for_processes_that_know_of_each_other_and_one_each_otherwise(process, leads, title):
    assert (process.leads, process.title("labelling")) == (leads, title)


# The batch size


def test_all_take_the_number_of_the_first_that_asks():
    asked: list[int] = []

    def choose(rank: int) -> int:
        asked.append(rank)
        time.sleep(0.2)
        return 100 + rank

    processes = together(3)
    with ThreadPoolExecutor(3) as pool:
        chosen = list(pool.map(lambda process: process.agree(lambda: choose(process.rank)), processes))
    assert chosen == [100 + asked[0]] * 3
    assert len(asked) == 1


def test_who_gets_no_answer_chooses_alone(monkeypatch):
    monkeypatch.setattr(peers, "_PATIENCE_SECONDS", 0.1)
    first, second = together(2)
    first._ask(lambda store: store.add("asked", 1))
    assert second.agree(lambda: 7) == 7


# Summaries


def test_the_first_tells_of_all_and_the_others_are_parts():
    told = gathered(
        together(3),
        lambda rank: summary(
            10 * rank,
            failures=(Failure(rank, "a", "cut"),) * rank,
            waits=StageSeconds(data=1.5),
            busy=StageSeconds(disk=rank),
        ),
    )
    assert [sorted(one) for one in told] == [[0, 1, 2], [1], [2]]
    assert [one[rank].is_part for rank, one in enumerate(told)] == [False, True, True]
    for rank in (1, 2):
        assert told[0][rank].images == 10 * rank
        assert told[0][rank].failures == (Failure(rank, "a", "cut"),) * rank
        assert (told[0][rank].waits, told[0][rank].busy) == (StageSeconds(data=1.5), StageSeconds(disk=rank))


def test_more_failures_than_the_store_takes_are_counted():
    failures = (Failure(9, "", "a whole shard"), *[Failure(1, "k" * 10**4, "r" * 10**4)] * 5000)
    told = gathered(together(2), lambda rank: summary(10**6 * rank, failures=failures * rank))[0][1]
    assert len(told.failures) + told.failures_unlisted == 5001
    assert told.failures[0] == failures[0]
    assert not told.is_good


def test_the_first_waits_as_long_as_others_count(monkeypatch):
    monkeypatch.setattr(peers, "_PATIENCE_SECONDS", 1.0)
    first, second = together(2)
    now, labelled = [0.0], iter(range(15))

    def sleep(_: float) -> None:
        now[0] += 0.6
        if next(labelled, None) is None:
            second.gather(summary(), lambda: 0)
        else:
            second.count(done=1)

    monkeypatch.setattr(peers, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    seen: list[int] = []
    told = first.gather(summary(), lambda: seen.append(first.count()[0]) or seen[-1])
    assert sorted(told) == [0, 1]
    assert seen[-1] == 15
    assert now[0] > 9


# When they lose touch


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_store_is_a_warning_and_each_tells_of_itself(rank, caplog):
    process = Peers(rank, 2, LostStore(answers=4))
    assert process.count(total=9) == (0, 9)
    assert process.count(done=3) == (3, 9)
    assert process.count(done=3) == (6, 9)
    assert process.gather(summary(), lambda: 0) == {rank: summary()}
    (warning,) = caplog.messages
    assert f"process {rank} of 2 lost the store" in warning
    assert "(Connection reset by peer)" in warning


def test_a_store_that_is_lost_while_the_first_waits_does_not_hold_it(caplog):
    assert Peers(0, 2, LostStore(answers=3)).gather(summary(), lambda: 0) == {0: summary()}
    assert len(caplog.messages) == 1


def test_a_run_goes_on_without_its_store(tmp_path, monkeypatch, caplog):
    images = write_tars(tmp_path / "tars", (5, 3, 6))
    generate(images, tmp_path / "whole", make_teacher(), options())
    for rank in (0, 1):
        monkeypatch.setattr(Peers, "of_run", lambda rank, size: Peers(rank, size, LostStore(answers=4)))
        assert generate(images, tmp_path / "store", make_teacher(), options(rank=rank, world_size=2)).is_good
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert len(caplog.messages) == 2


# A run


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process never says a word."""
    monkeypatch.setattr(peers, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(Peers, "of_run", lambda rank, size: Peers(rank, size, torch.distributed.HashStore()))


def test_the_shards_of_a_silent_process_are_judged_by_the_store(tmp_path, monkeypatch, silent):
    images = write_tars(tmp_path / "tars", (5, 3, 6))
    first = generate(images, tmp_path / "store", make_teacher(), options(rank=0, world_size=2))
    assert [(f.shard, f.key) for f in first.failures] == [(0, ""), (1, "")]
    assert "process 1 did not publish it" in first.failures[0].reason
    assert (first.shards, first.is_good) == (3, False)
    assert generate(images, tmp_path / "store", make_teacher(), options(rank=1, world_size=2)).is_part
    assert generate(images, tmp_path / "store", make_teacher(), options(rank=0, world_size=2)).is_good


# torchrun's environment


@pytest.mark.parametrize(
    ("change", "rank", "world_size"),
    [
        ({}, 0, 2),
        ({}, 1, 3),
        ({}, 0, 1),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, 1, 2),
        ({"TORCHELASTIC_USE_AGENT_STORE": ""}, 1, 2),
    ],
    ids=["another rank", "another size", "alone", "a store of the script's", "srun"],
)
def test_processes_that_torchrun_did_not_start_so_do_not_look_for_its_store(change, rank, world_size, caplog):
    assert not Peers.of_run(rank, world_size, TORCHRUN | change).are_shared
    assert caplog.messages == []


@pytest.mark.parametrize("given", [{"MASTER_PORT": "none"}, {}, {"MASTER_PORT": "1"}], ids=["none", "", "nobody's"])
def test_a_store_that_cannot_be_reached_is_a_warning(given, monkeypatch, caplog):
    monkeypatch.setattr(peers, "_CONNECT_SECONDS", 0.5)
    assert not Peers.of_run(1, 2, TORCHRUN | given).are_shared
    assert "store cannot be reached" in caplog.text


def test_runs_and_starts_of_one_script_do_not_mix():
    served = torch.distributed.TCPStore("localhost", 0, is_master=True)
    environment = TORCHRUN | {"MASTER_PORT": str(served.port)}
    first = Peers.of_run(1, 2, environment)
    second = Peers.of_run(1, 2, environment)
    assert first.count(done=3) == (3, 0)
    assert second.count(done=4) == (4, 0)


@pytest.mark.parametrize(("world_size", "local", "here"), [(8, "4", 4), (8, None, 1), (8, "", 1), (1, "4", 1)])
def test_cores_are_shared_with_the_processes_of_the_same_machine(monkeypatch, world_size, local, here):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert Peers(0, world_size).on_this_machine == here
