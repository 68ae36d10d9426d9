"""Options are checked where they are born; a summary says whether a run was good."""

from __future__ import annotations

import os

import pytest

from relabel.errors import InvalidValueError
from relabel.generate import Failure, GenerateOptions, GenerateSummary
from relabel.generate.options import StageSeconds, merged


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"planes": 0}, "planes must be a whole number, 1 or more; got 0"),
        ({"profile": -1}, "profile must be a whole number, 0 or more; got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, or 'auto'; got 0"),
        ({"dtype": "int8"}, "dtype must be one of 'uint8', 'float16'; got 'int8'"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in \[0, 2\); got 2"),
        ({"step": 1 / 32}, "step must be a number, from 0.0625 to 1.0; got"),
        ({"step": 0.5, "dtype": "float16"}, "not rounded to steps; got step 0.5. Leave --step"),
        ({"max_failures": 1.5}, "max_failures must be a number, from 0 to 1; got 1.5"),
    ],
)
def test_options_without_meaning_are_refused(given, what):
    with pytest.raises(InvalidValueError, match=what):
        GenerateOptions(**given)


def test_workers_default_to_the_cores_that_may_be_used():
    assert GenerateOptions().threads == len(os.sched_getaffinity(0))
    assert GenerateOptions(workers=3).threads == 3


@pytest.mark.parametrize(
    ("images", "failed", "lost_shards", "max_failures", "good"),
    [
        (100, 1, 0, 0.01, True),
        (100, 2, 0, 0.01, False),
        (100, 1, 0, 0.0, False),
        (100, 100, 0, 1.0, True),
        (0, 0, 0, 0.0, True),
        (100, 0, 1, 1.0, False),
    ],
)
def test_a_run_is_good_if_every_shard_is_there_and_few_images_failed(images, failed, lost_shards, max_failures, good):
    failures = (Failure(0, "", "cut"),) * lost_shards + (Failure(1, "key", "not an image"),) * failed
    summary = GenerateSummary(
        shards=2,
        shards_skipped=0,
        shards_published=2 - lost_shards,
        images=images,
        failures=failures,
        seconds=4.0,
        max_failures=max_failures,
    )
    assert summary.is_good is good
    assert summary.images_per_second == images / 4


def test_waits_are_shares_of_a_run():
    waits = StageSeconds(data=1.0, device=6.0)
    with waits.on("disk"):
        pass
    assert 0 < waits.disk < 1
    waits.disk = 0.4
    assert waits.shares(8.0) == {"data": 0.125, "device": 0.75, "disk": 0.05}
    assert waits.note(8.0) == "data 12%, device 75%, disk 5%"


def part(**given: object) -> GenerateSummary:
    sizes = {"shards": 3, "shards_skipped": 1, "shards_published": 2, "images": 50, "failures": (), "seconds": 4.0}
    return GenerateSummary(**sizes | given)


def test_the_summary_of_several_processes_adds_counts_and_takes_the_mean_of_what_happened_at_once():
    both = merged(
        [
            part(failures=(Failure(0, "a", "cut"),), waits=StageSeconds(device=2.0), busy=StageSeconds(data=1.0)),
            part(failures=(Failure(4, "", "gone"),), waits=StageSeconds(device=4.0), seconds=6.0, failures_unlisted=7),
        ]
    )
    assert (both.shards, both.shards_skipped, both.shards_published, both.images) == (6, 2, 4, 100)
    assert (both.failures, both.failures_unlisted) == ((Failure(0, "a", "cut"), Failure(4, "", "gone")), 7)
    assert (both.seconds, both.waits, both.busy) == (6.0, StageSeconds(device=3.0), StageSeconds(data=0.5))
    assert both.timings_table() == [("data", 0.0, 0.5 / 6), ("device", 0.5, 0.0), ("disk", 0.0, 0.0)]


@pytest.mark.parametrize(("unlisted", "good"), [(0, True), (1, False)])
def test_failures_that_are_not_listed_count_all_the_same(unlisted, good):
    assert part(images=100, failures=(Failure(0, "a", "cut"),), failures_unlisted=unlisted).is_good is good
