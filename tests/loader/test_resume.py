"""An epoch that is taken up in its middle has the tickets, and so the labels, that it would have had."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from loader.photos import STEPS, write_photos, write_store
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import relabel

_BATCH = 3


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> relabel.LabelMaps:
    return relabel.open(write_store(tmp_path_factory.mktemp("store") / "labels.zarr"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, maps: relabel.LabelMaps) -> relabel.Labeled:
    photos = write_photos(tmp_path_factory.mktemp("photos"))
    return relabel.Labeled(ImageFolder(photos, v2.Compose(STEPS)), maps)


class Seeded(Dataset[Any]):
    """A data set whose item depends on nothing but the seed, the epoch and its index."""

    def __init__(self, inner: Any, epoch: int) -> None:
        self._inner, self._epoch = inner, epoch

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Any:
        torch.manual_seed(1000 * self._epoch + index)
        return self._inner[index]


def batches(dataset: Any, maps: relabel.LabelMaps, done: int, *, skips: bool, workers: int) -> list[Any]:
    """Images, tickets and labels of an epoch's batches after those that are done.

    What is done is loaded and thrown away with `skips`; else the sampler is advanced.
    """
    torch.manual_seed(7)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(5)).tolist()
    loader = DataLoader(dataset, _BATCH, sampler=order if skips else order[done * _BATCH :], num_workers=workers)
    rest = itertools.islice(loader, done if skips else 0, None)
    return [(images, tickets, maps.pool(tickets), maps.pool(tickets, 2)) for images, tickets in rest]


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_batches_leave_the_others_as_they_were(
    dataset: relabel.Labeled, maps: relabel.LabelMaps, workers: int
) -> None:
    whole = batches(dataset, maps, 0, skips=True, workers=workers)
    assert_equal(batches(dataset, maps, 1, skips=True, workers=workers), whole[1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_advanced_sampler_gives_the_rest_where_items_have_seeds(
    dataset: relabel.Labeled, maps: relabel.LabelMaps, workers: int
) -> None:
    whole = batches(Seeded(dataset, 1), maps, 0, skips=False, workers=0)
    # By as many workers as there are now.
    assert_equal(batches(Seeded(dataset, 1), maps, 2, skips=False, workers=workers), whole[2:])
    other = batches(Seeded(dataset, 2), maps, 0, skips=False, workers=0)
    assert not torch.equal(whole[0][1], other[0][1])
