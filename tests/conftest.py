"""What every test gets: its own random state, and a GPU or a visible skip."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and where cores are shared they wait for each other; children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# The same examples in every run: who changes a line is not told of another's rare case. `make laws` draws new ones.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.register_profile("fresh", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A name with an address in it is another one in each of the processes, which then refuse to run at all."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"give these parameters ids: {', '.join(named)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `cuda` skip without a GPU; RELABEL_REQUIRE_CUDA=1 makes that a failure, seen by GPU jobs."""
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("RELABEL_REQUIRE_CUDA") == "1":
        pytest.fail("needs a GPU: torch sees none, and RELABEL_REQUIRE_CUDA=1 forbids to skip", pytrace=False)
    pytest.skip("no GPU here")


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """Every test draws the same random numbers in every run, and leaks none into the next."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    yield
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])  # noqa: NPY002
    if on_gpu:
        torch.cuda.set_rng_state_all(on_gpu)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn."""
    return torch.device(request.param)
