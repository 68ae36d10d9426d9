"""What every test of generate gets: a look at the threads that it leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """However a run ends, its threads end with it."""
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in set(threading.enumerate()) - before}
    # zarr keeps its own for the life of the process.
    assert {name for name in left if not name.startswith(("asyncio_", "zarr_"))} == set()
