"""What every test of a trainer gets: photographs, and their labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import training

# They are no modules: tests run them as a page changes them.
collect_ignore = ["scripts"]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_photographs(tmp_path_factory.mktemp("photographs") / "train")


@pytest.fixture(scope="session")
def labels(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_labels(photographs, tmp_path_factory.mktemp("labels") / "labels.zarr")


@pytest.fixture
def workplace(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run a script in, that holds labels.zarr."""
    (tmp_path / "labels.zarr").symlink_to(labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path
