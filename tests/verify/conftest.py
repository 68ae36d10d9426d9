"""Small stores to be broken: five images in shards of three and two, the last one failed, so one row has no image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from stores import make_store, random_logits, seal

SHARDS = [["a/0", "a/1", "b/2"], ["b/3", "c/4"]]


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """One store for each set of options, to be copied: zarr takes longer to make one than a test to break it."""
    stores: dict[str, Path] = {}

    def made(footprints: tuple[float, ...] | None = None, suffix: str = ".jpg", **options: Any) -> Path:
        name = repr((footprints, suffix, options))
        if name not in stores:
            path = stores[name] = tmp_path_factory.mktemp("stores") / "labels.zarr"
            if footprints is not None:
                options["footprint"] = torch.tensor(footprints).expand(5, -1)
            shards = [[key + suffix for key in shard] for shard in SHARDS]
            make_store(path, shards, random_logits(5, 12, (2, 3)), failed=frozenset({shards[1][1]}), **options)
        return stores[name]

    return made


@pytest.fixture
def make(_made: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes the store, with the options of `make_store`, a box for every row, and an ending of all keys."""
    return lambda **options: Path(shutil.copytree(_made(**options), tmp_path / "labels.zarr"))


@pytest.fixture
def store(make: Callable[..., Path]) -> Path:
    """The store as `make_store` makes it when nothing is asked for."""
    return make()


@pytest.fixture
def edit() -> Callable[[Path, str, Any, Any], None]:
    """Changes what is stored at a place, which starts with the shard, and leaves every checksum right."""

    def edited(store: Path, array: str, place: Any, value: Any) -> None:
        zarr.open_group(store, mode="r+")[array][place] = value
        seal(store)

    return edited
