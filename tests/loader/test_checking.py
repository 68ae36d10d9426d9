"""`check_views`: what comes out at the far end of a loader shows what its label is of, or it is said how not."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from generating import write_tar
from PIL import Image
from stores import make_store, random_logits
from timm.data import create_loader
from timm.data.scheduled_sampler import ScheduledBatchSampler, ScheduledTransformDataset
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import relabel
from relabel.errors import InvalidValueError, LabelError

NAMES = [f"{'ab'[i % 2]}/{i:02d}.png" for i in range(12)]
# The size that `make_store` says its images have.
SIZE_HW = (60, 90)
FLOATS = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
TRANSFORM = v2.Compose([v2.RandomResizedCrop(48), v2.RandomHorizontalFlip(), *FLOATS])


check_views = partial(relabel.check_views, items=12)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", SIZE_HW[::-1]).save(root / name)
    return root


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> relabel.LabelMaps:
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    make_store(path, [NAMES], random_logits(12, 9, (4, 5)))
    return relabel.open(path)


@pytest.fixture
def labeled(photos: Path, maps: relabel.LabelMaps) -> relabel.Labeled:
    return relabel.Labeled(ImageFolder(photos, TRANSFORM), maps)


class Outer(Dataset[Any]):
    """A data set around another that does something to its images."""

    def __init__(self, dataset: Any, change: Callable[[Any], Any]) -> None:
        self.dataset, self.change = dataset, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        image, label = self.dataset[index]
        return self.change(image), label


class Neighbour(Outer):
    """The image of the next item, with the label of this one."""

    def __getitem__(self, index: int) -> Any:
        return self.dataset[(index + 1) % len(self)][0], self.dataset[index][1]


def sized(labeled: Any) -> Any:
    """timm's schedule of sizes, whose crops come after the label's."""
    labeled.transform = v2.Identity()
    choices = [TRANSFORM, v2.Compose([v2.RandomResizedCrop(32), *FLOATS])]
    sampler = ScheduledBatchSampler(range(12), [4, 4])
    return DataLoader(ScheduledTransformDataset(labeled, choices), batch_sampler=sampler)


def flipping(items: Any) -> Any:
    images, labels = default_collate(items)
    return images.flip(-1), labels


TRUE: dict[str, Callable[[Any], Any]] = {
    "the data set": lambda labeled: labeled,
    "a loader with workers": lambda labeled: DataLoader(labeled, 4, num_workers=2, persistent_workers=True),
    "data sets around": lambda labeled: Subset(ConcatDataset([labeled, Outer(labeled, torch.neg)]), range(1, 20)),
    "a collate in a closure": lambda labeled: DataLoader(
        range(12), 4, collate_fn=lambda some: default_collate([labeled[i] for i in some])
    ),
    "timm": lambda labeled: create_loader(
        labeled, (3, 48, 48), 4, is_training=True, re_prob=0.5, num_workers=0, device=torch.device("cpu")
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_what_is_told_is_shown(labeled: relabel.Labeled, name: str) -> None:
    report = check_views(TRUE[name](labeled))
    assert report.compared == report.items >= 12
    assert "Labeled" in report.layers
    assert report.explained[0] > 0.7
    assert "not seen here" in str(report)


LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "flips": (lambda labeled: Outer(labeled, v2.functional.hflip), "1[0-9] is mirrored left to right"),
    "another crop": (lambda labeled: Outer(labeled, v2.RandomResizedCrop(48, scale=(0.3, 0.8))), "another place"),
    "the next image": (lambda labeled: Neighbour(labeled, abs), "another image"),
    "a collate that flips": (lambda labeled: DataLoader(labeled, 4, collate_fn=flipping), "mirrored"),
    "a schedule of sizes": (sized, "another place"),
}


def masked(items: Any) -> dict[str, Any]:
    """A mask before the images, which are mirrored."""
    images, labels = default_collate(items)
    return {"mask": torch.ones(len(images), 48, 48), "pixels": images.flip(-1), "labels": labels}


def collating(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def collate(items: Any) -> Any:
        images, labels = default_collate(items)
        return change(images), labels

    return lambda labeled: DataLoader(labeled, 4, collate_fn=collate)


def pasted(images: Any) -> Any:
    return torch.cat([images[..., :24], images.roll(1, 0)[..., 24:]], -1)


def pasted_in(images: Any) -> Any:
    """A sixth of another image, whose place the label's explains well for the rest."""
    images = images.clone()
    images[..., 10:30, 20:40] = images.roll(1, 0)[..., 10:30, 20:40]
    return images


class OneOf(Neighbour):
    """The image of the next item, of one item alone."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index) if index == 3 else self.dataset[index]


LIES |= {
    "a mask before images that are mirrored": (lambda labeled: DataLoader(labeled, 4, collate_fn=masked), "mirrored"),
    "mixed images": (collating(lambda images: 0.7 * images + 0.3 * images.flip(0)), "is mixed with another image"),
    "pasted images": (collating(pasted), "is mixed with another image"),
    "parts pasted in": (collating(pasted_in), "is mixed with another image"),
}


@pytest.mark.parametrize("name", LIES)
def test_what_is_not_told_is_an_error(labeled: relabel.Labeled, name: str) -> None:
    source, fault = LIES[name]
    with pytest.raises(LabelError, match=f"views lie: of [0-9]+ images through .*Labeled.*{fault}"):
        check_views(source(labeled))


def test_one_item_that_is_wrong_each_time_it_comes_is_no_chance(labeled: relabel.Labeled) -> None:
    with pytest.raises(LabelError, match=r"of 48 images .*, 4 shows another place or another image"):
        check_views(OneOf(labeled, abs), items=48)


@pytest.mark.parametrize("change", [torch.zeros_like, lambda images: images * float("nan")])
def test_where_nothing_can_be_compared_nothing_is_proved(labeled: relabel.Labeled, change: Any) -> None:
    with pytest.raises(LabelError, match=r"nothing is proved: of 12 images .*, 0 show anything .* 12 are plain"):
        check_views(collating(change)(labeled))


def test_what_could_be_an_image_and_was_not_looked_at_is_named(labeled: relabel.Labeled) -> None:
    def two(items: Any) -> Any:
        images, labels = default_collate(items)
        return images, images.flip(-1)[..., :40], labels

    report = check_views(DataLoader(labeled, 4, collate_fn=two))
    assert report.others == ("(3, 48, 40)",)
    assert "(3, 48, 40) beside the images" in str(report)


def test_workers_that_run_go_on_with_the_images_themselves(labeled: relabel.Labeled) -> None:
    loader = DataLoader(labeled, 4, num_workers=1, persistent_workers=True)
    running = iter(loader)
    next(running)
    check_views(loader)
    assert all(not images.any() for images, _ in [*running, *loader])
    assert not labeled[0][0].any()


def test_no_random_number_is_used_up(labeled: relabel.Labeled) -> None:
    own = torch.Generator().manual_seed(3), np.random.default_rng(3)
    loader = DataLoader(Outer(labeled, lambda image: image * own[1].random()), 4, shuffle=True, generator=own[0])

    def state() -> list[str]:
        every = torch.get_rng_state(), np.random.get_state(), own[0].get_state()  # noqa: NPY002
        return [*map(str, every), str(random.getstate()), str(own[1].bit_generator.state)]

    before = state()
    check_views(loader)
    assert state() == before


def test_at_least_one_item_is_looked_at(photos: Path, maps: relabel.LabelMaps) -> None:
    with pytest.raises(InvalidValueError, match=r"items must be at least 1, .* got 0"):
        check_views(relabel.Labeled(ImageFolder(photos, TRANSFORM), maps), items=0)


def test_batches_of_maps_read_in_the_workers_are_checked(photos: Path, maps: relabel.LabelMaps) -> None:
    crops = relabel.LabeledCrops(ImageFolder(photos), maps, TRANSFORM)
    for source in (crops, DataLoader(crops, 4, collate_fn=relabel.collate)):
        assert check_views(source).compared == 12
    with pytest.raises(LabelError, match="mirrored top to bottom"):
        check_views(DataLoader(Outer(crops, v2.functional.vflip), 4, collate_fn=relabel.collate))


@pytest.mark.parametrize("is_lying", [False, True])
def test_a_stream_is_checked(photos: Path, maps: relabel.LabelMaps, tmp_path: Path, is_lying: bool) -> None:
    write_tar(tmp_path / "a.tar", [(name, (photos / name).read_bytes()) for name in NAMES])
    sample = relabel.LabeledSample(maps, TRANSFORM, key=lambda key: f"{key}.png")
    stream = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).map(sample)
    stream = stream.batched(4).unbatched().shuffle(5).batched(3)
    if is_lying:
        stream = stream.map_tuple(lambda images: images.flip(-1), lambda tickets: tickets)
        with pytest.raises(LabelError, match="mirrored left to right"):
            check_views(wds.WebLoader(stream, batch_size=None, num_workers=1))
    else:
        assert check_views(wds.WebLoader(stream, batch_size=None, num_workers=1)).compared == 12


def test_several_views_of_an_image_each_have_their_own(photos: Path, maps: relabel.LabelMaps) -> None:
    dataset = relabel.Labeled(ImageFolder(photos, v2.FiveCrop(48)), maps)
    assert check_views(dataset, items=60).items == 60
    dataset.transform = v2.Compose([v2.FiveCrop(48), v2.PILToTensor()])
    assert check_views(DataLoader(dataset, 4), items=60).items == 60
    swapped = Outer(dataset, lambda crops: crops[::-1])
    with pytest.raises(LabelError, match="another place"):
        check_views(DataLoader(swapped, 4))


def test_what_an_ignored_step_moves_is_no_lie(photos: Path, maps: relabel.LabelMaps) -> None:
    steps = v2.Compose([v2.RandomResizedCrop(48), v2.RandomPerspective(1.0, p=1.0), *FLOATS])
    dataset = relabel.Labeled(ImageFolder(photos, steps), maps)
    assert check_views(dataset).compared == 12
    with pytest.raises(LabelError, match="mirrored"):
        check_views(Outer(dataset, v2.functional.hflip))


def test_what_has_no_labels_is_refused(photos: Path, labeled: relabel.Labeled) -> None:
    with pytest.raises(InvalidValueError, match=r"no Labeled, .* was found in this ImageFolder"):
        check_views(ImageFolder(photos, TRANSFORM))
    without = DataLoader(labeled, 4, collate_fn=lambda items: torch.stack([image for image, _ in items]))
    with pytest.raises(LabelError, match=r"no tickets .* come out with the images, but Tensor \(4, 3, 48, 48\)"):
        check_views(without)
