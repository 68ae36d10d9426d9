"""What the tests of this room share."""

from __future__ import annotations

import pytest

from relabel.tracking import proof, rarely


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is tried out: for lies that are told at every image."""
    monkeypatch.setattr(proof, "_DRAWS", 6)
    monkeypatch.setattr(rarely, "_DRAWS", 12)
