"""`Labeled`: a trainer's own data set, its transform followed, its items never another image's."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from loader.photos import NAMES, STEPS, assert_right, items_of, told, write_photos, write_store
from timm.data.dataset import ImageDataset
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import relabel
from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.tickets import Tickets

TRANSFORM = v2.Compose(STEPS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> relabel.LabelMaps:
    return relabel.open(write_store(tmp_path_factory.mktemp("store") / "s.zarr"))


def labeled(photos: Path, maps: relabel.LabelMaps, **options: Any) -> relabel.Labeled:
    return relabel.Labeled(ImageFolder(photos, TRANSFORM), maps, **options)


def test_a_folder_keeps_its_transform_and_its_attributes(photos: Path, maps: relabel.LabelMaps) -> None:
    folder = ImageFolder(photos, TRANSFORM)
    dataset = relabel.Labeled(folder, maps)
    assert_right(maps, [dataset[i] for i in (0, 6, 3, 7)], [0, 6, 3, 7])
    assert (len(dataset), dataset.num_classes, dataset.classes) == (8, 9, ["cat", "dog"])
    assert dataset.transform is folder.transform is TRANSFORM
    assert (dataset.targets, dataset.imgs, dataset.root) == (folder.targets, folder.samples, folder.root)
    assert not hasattr(dataset, "reader")
    assert repr(dataset).startswith("Labeled(8 items of ImageFolder, LabelMaps(")
    assert_right(maps, items_of(DataLoader(dataset, batch_size=8)), list(range(8)))


def test_a_transform_that_is_set_later_is_followed_or_refused(photos: Path, maps: relabel.LabelMaps) -> None:
    dataset = labeled(photos, maps)
    left = v2.Compose([v2.CenterCrop((16, 12)), v2.RandomHorizontalFlip(1.0), *STEPS[2:]])
    Subset(dataset, [0]).dataset.transform = left  # type: ignore[attr-defined]
    assert dataset.transform is left
    assert_right(maps, [dataset[5]], [5])
    assert told(dataset[5][1])[1] == relabel.View(relabel.Box(0.25, 0.0, 0.75, 1.0), flip=True)
    with pytest.raises(InvalidValueError, match="cannot follow the view through horizontal_flip"):
        dataset.transform = v2.functional.horizontal_flip
    assert dataset.transform is left
    with pytest.raises(InvalidValueError, match="RandomPerspective"):
        labeled(photos, maps, geometry="refuse").transform = v2.RandomPerspective(p=1.0)
    dataset.transform = v2.RandomPerspective(p=1.0)
    assert not Tickets.read(torch.as_tensor(dataset[0][1])[None]).views.is_exact
    for name in ("transforms", "target_transform", "samples"):
        with pytest.raises(InvalidValueError, match=f"{name} is the data set's: set it there"):
            setattr(dataset, name, None)


@pytest.mark.parametrize("name", ["transform", "transforms", "samples", "loader"])
def test_what_is_set_on_the_data_set_afterwards_is_seen_at_the_next_item(
    photos: Path, maps: relabel.LabelMaps, name: str
) -> None:
    folder = ImageFolder(photos, TRANSFORM)
    subset = Subset(folder, [1, 2])
    dataset = relabel.Labeled(subset, maps)
    assert dataset[1]
    changed = {"loader": folder.loader.__call__, "samples": list(folder.samples)}
    setattr(subset.dataset, name, changed.get(name, v2.Compose(STEPS)))
    with pytest.raises(InvalidValueError, match=rf"{name} of ImageFolder was set after Labeled was made"):
        dataset[0]


def test_samples_that_were_sorted_otherwise_are_seen(photos: Path, maps: relabel.LabelMaps) -> None:
    for dataset in (ImageFolder(photos, TRANSFORM), ImageDataset(str(photos), transform=TRANSFORM)):
        images = relabel.Labeled(dataset, maps)
        assert pickle.loads(pickle.dumps(images))[3]
        (dataset.reader if isinstance(dataset, ImageDataset) else dataset).samples.reverse()
        with pytest.raises(InvalidValueError, match=r"samples\D* was set after Labeled was made"):
            images[3]


def test_a_transform_that_does_not_show_what_it_tells_is_refused(photos: Path, maps: relabel.LabelMaps) -> None:
    class Lying:
        pass

    def handle(_: object, image: Any) -> Any:
        return image.rotate(180), relabel.View(relabel.Box.whole(), flip=True)

    relabel.register_view(Lying, handle)
    state = torch.get_rng_state()
    with pytest.raises(InvalidValueError, match="the transform Lying does not show what it tells"):
        relabel.Labeled(ImageFolder(photos, Lying()), maps)
    dataset = relabel.Labeled(ImageFolder(photos, Lying()), maps, check=False)
    assert told(dataset[0][1])[1].flip
    assert torch.equal(state, torch.get_rng_state())


def test_subsets_and_sums_of_data_sets_are_taken_apart(photos: Path, maps: relabel.LabelMaps) -> None:
    one, other = ImageFolder(photos, TRANSFORM), ImageFolder(photos, v2.Compose(STEPS[2:]))
    first, second = random_split(one, [5, 3], torch.Generator().manual_seed(0))
    nested = Subset(ConcatDataset([first, ConcatDataset([other, second])]), [12, 0, 7, 15])
    numbers = [list(range(8))[i] for i in (first.indices[0], second.indices[2])]
    dataset = relabel.Labeled(nested, maps)
    items = [dataset[i] for i in range(4)]
    assert_right(maps, items, [7, numbers[0], 2, numbers[1]])
    assert [told(ticket)[1] == relabel.View.whole() for _, ticket in items] == [True, False, True, False]
    assert not hasattr(dataset, "transform")
    dataset.transform = other.transform
    assert [told(dataset[i][1])[1] for i in range(4)] == [relabel.View.whole()] * 4


def test_another_files_image_is_never_given(photos: Path, maps: relabel.LabelMaps, tmp_path: Path) -> None:
    dataset = labeled(write_photos(tmp_path), maps)
    (tmp_path / NAMES[1]).write_bytes((tmp_path / NAMES[1]).read_bytes()[:60])
    with pytest.raises(ImageError, match=r"cat/1\.png cannot be read"):
        dataset[1]
    assert_right(maps, [dataset[2]], [2])


def test_labels_are_not_labeled_again(photos: Path, maps: relabel.LabelMaps) -> None:
    dataset = labeled(photos, maps)
    for again in (dataset, Subset(dataset, [0]), relabel.LabeledCrops(ImageFolder(photos), maps, None)):
        with pytest.raises(InvalidValueError, match="gives labels already"):
            relabel.Labeled(again, maps)
    with pytest.raises(InvalidValueError, match="its own transform, and another is given"):
        labeled(photos, maps, transform=TRANSFORM)
    for nothing in ([1], iter([1]), torch.utils.data.Dataset()):
        with pytest.raises((InvalidValueError, LabelError)):
            relabel.Labeled(nothing, maps)


def test_images_without_a_label_are_dropped_from_the_lists_too(photos: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr", ["cat/0.png", "x", "y", "cat/3.png", *NAMES[4:]])
    maps = relabel.open(tmp_path / "s.zarr")
    with pytest.raises(LabelError, match=r"2 of 8 keys: 'cat/1\.png', 'cat/2\.png'"):
        labeled(photos, maps)
    dataset = labeled(photos, maps, unlabeled="drop")
    left = [0, 3, 4, 5, 6, 7]
    assert dataset.indices.tolist() == left
    assert_right(maps, [dataset[i] for i in range(6)], left)
    assert (len(dataset), dataset.targets) == (6, [0, 0, 1, 1, 1, 1])
    assert [Path(path).parent.name + "/" + Path(path).name for path, _ in dataset.samples] == [NAMES[i] for i in left]


def test_a_class_is_changed_as_the_data_set_changes_it(photos: Path, maps: relabel.LabelMaps) -> None:
    folder = ImageFolder(photos, TRANSFORM, target_transform=lambda number: number + 5)
    dataset = relabel.Labeled(folder, maps)
    assert told(dataset[7][1])[2] == 6
    folder.target_transform = lambda number: torch.eye(2)[number]
    assert told(dataset[7][1])[2] == 1


def test_copies_are_data_sets_of_their_own(photos: Path, maps: relabel.LabelMaps) -> None:
    dataset = labeled(photos, maps)
    for double in (copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        double.transform = v2.Compose(STEPS[2:])
        assert (len(double), double.classes) == (8, ["cat", "dog"])
        assert_right(maps, [double[i] for i in (4, 2)], [4, 2])
    assert dataset.transform is TRANSFORM


def test_spawned_workers_give_the_label_of_what_they_loaded(photos: Path, maps: relabel.LabelMaps) -> None:
    dataset = ConcatDataset([Subset(labeled(photos, maps), range(1, 7)), labeled(photos, maps)])
    tickets = []
    # A forkserver's are spawned ones, and take as long to import torch.
    for start in ("spawn", "fork"):
        torch.manual_seed(0)
        loader = DataLoader(dataset, 7, num_workers=1, multiprocessing_context=start, persistent_workers=True)
        for _ in range(2):
            items = items_of(loader)
            assert_right(maps, items, [*range(1, 7), *range(8)])
            tickets.append(torch.stack([ticket for _, ticket in items]))
    # Workers of equal seeds draw the same crops however they start, also in a second epoch of theirs.
    assert torch.equal(torch.cat(tickets[:2]), torch.cat(tickets[2:]))
    assert not torch.equal(tickets[0], tickets[1])


def test_several_views_of_an_image_have_a_ticket_each(photos: Path, maps: relabel.LabelMaps) -> None:
    crops = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.FiveCrop(8)])
    outputs, tickets = relabel.Labeled(ImageFolder(photos, crops), maps)[6]
    assert (len(outputs), tickets.shape) == (5, (5, 11))
    assert_right(maps, list(zip(outputs, tickets, strict=True)), [6] * 5)
    with pytest.raises(InvalidValueError, match="5 views of an image"):
        relabel.LabeledCrops(ImageFolder(photos), maps, crops)[6]


def test_slips_are_told_in_a_sentence(photos: Path, maps: relabel.LabelMaps) -> None:
    with pytest.raises(InvalidValueError, match=r"maps is relabel\.open\(path\); got 'labels\.zarr', a str"):
        relabel.Labeled(ImageFolder(photos), "labels.zarr")  # type: ignore[arg-type]
    dataset = labeled(photos, maps)
    for index in (slice(0, 2), [1, 2], True):
        with pytest.raises(InvalidValueError, match="an item is asked for by a whole number; got"):
            dataset[index]  # type: ignore[index]
    assert_right(maps, [dataset[-1], dataset[torch.tensor(2)]], [7, 2])  # type: ignore[index]
    with pytest.raises(LabelError, match="another store's"):
        labeled(photos, maps, key=lambda path: f"another store's {path}", unlabeled="drop")
