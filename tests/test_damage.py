"""A few damages of the campaign that `make damage` makes by the thousand: found, never served, and mended."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bench.damage import run, table
from bench.damage_kinds import GOOD, KINDS


def test_damages_are_found_never_served_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing cuts the power, and thousands of waits for a busy disk are minutes.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    tmp_path.chmod(0o755)
    names = ["rows swapped in the maps, checksums right", *random.Random(0).sample(sorted(KINDS), 6), "times changed"]
    campaign = run(tmp_path, names, stores=[("zstd", "letterbox")])
    assert campaign.notes == []
    damaged = [tally for name, tally in campaign.tallies.items() if name in KINDS]
    assert [(tally.found, tally.mended) for tally in damaged] == [(tally.n, tally.n) for tally in damaged]
    assert sum(tally.refused for tally in damaged) >= 5
    assert campaign.tallies["times changed"].harmless == 1
    assert set(names) - GOOD.keys() <= KINDS.keys()
    assert "all damages" in table(campaign)
