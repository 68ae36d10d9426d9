"""Datasets and streams of crops: the right row, box and flip reach the batch, in workers of every kind."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from generating import write_tar
from PIL import Image
from stores import make_store, random_logits
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import relabel
from relabel.errors import ImageError, InvalidValueError, LabelError
from relabel.tickets import ticket

NAMES = [f"{folder}/{i}.png" for folder in ("cat", "dog") for i in range(4)]
TRANSFORM = v2.Compose(
    [v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
)


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (90, 60), (number * 20, 0, 0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "photos"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "s.zarr", [NAMES[4:], NAMES[:4]], random_logits(8, 9, (4, 5)))
    return tmp_path / "s.zarr"


def crops(photos: Path, store: Path, **options: Any) -> relabel.LabeledCrops:
    return relabel.LabeledCrops(ImageFolder(photos), relabel.open(store), TRANSFORM, **options)


@pytest.mark.parametrize("flip", [False, True])
def test_what_was_read_off_the_transform_reaches_the_label(photos: Path, store: Path, flip: bool) -> None:
    # An image of 90 x 60 pixels.
    transform = v2.Compose([v2.CenterCrop((10, 6)), v2.RandomHorizontalFlip(float(flip)), v2.ToImage()])
    maps = relabel.open(store)
    sample = relabel.LabeledSample(maps, transform, tickets=False)({"__key__": NAMES[5], "png": picture(5), "cls": 7})
    assert sample is not None
    for target, label in ((relabel.LabeledCrops(ImageFolder(photos), maps, transform)[5][1], 1), (sample[1], 7)):
        assert target.box.xyxy == pytest.approx((42 / 90, 25 / 60, 48 / 90, 35 / 60))
        assert (target.row, target.flip, target.ground_truth) == (1, flip, label)
        _, labels = relabel.collate([(torch.zeros(1), target)])
        assert labels.views.flips.tolist() == [flip]


def test_a_batch_has_the_labels_of_its_crops(photos: Path, store: Path) -> None:
    dataset = crops(photos, store)
    items = [dataset[i] for i in (0, 6, 3)]
    images, labels = relabel.collate(items)
    assert torch.equal(images, torch.stack([image for image, _ in items]))
    assert labels.ground_truth.tolist() == [0, 1, 0]
    for i, (_, crop) in enumerate(items):
        boxes, flips = torch.tensor([crop.box.xyxy]), torch.tensor([crop.flip])
        expected = dataset.maps[[crop.row]].pool(boxes, (2, 3), flip=flips)
        assert torch.allclose(labels.pool((2, 3))[i : i + 1], expected, atol=1e-6)
        assert torch.allclose(labels.pool(space="probability")[i].sum(), torch.tensor(1.0))


def test_a_turned_crop_has_the_label_of_what_it_shows(photos: Path, store: Path) -> None:
    turning = v2.Compose([v2.RandomRotation((20, 40)), v2.RandomVerticalFlip(1.0), v2.Resize((8, 8)), v2.ToImage()])
    maps = relabel.open(store)
    dataset = relabel.LabeledCrops(ImageFolder(photos), maps, turning)
    items = [dataset[i] for i in (0, 6)]
    _, labels = relabel.collate(items)
    assert labels.views.is_affine.all()
    views, rows = relabel.Views.of([crop.view for _, crop in items]), [crop.row for _, crop in items]
    how: dict[str, Any] = {"uncovered": "nearest"}
    expected = maps[rows].pool(views, 3, **how)
    assert torch.equal(labels.pool(3, **how), expected)
    assert torch.equal(
        labels.pool(3, sparse=True, **how).dense(), maps[rows].pool(views, 3, sparse=True, **how).dense()
    )
    assert not torch.allclose(maps[rows].pool(views.boxes, 3, **how), expected, atol=1e-3)
    tickets = torch.from_numpy(np.stack([ticket(maps.ticket_id, crop.row, crop.view) for _, crop in items]))
    assert torch.allclose(maps.pool(tickets, 3, **how), expected, atol=1e-6)


def some_twice(dataset: Any) -> Any:
    return ConcatDataset([Subset(dataset, range(1, 7)), dataset])


# Spawned workers get a pickle; starting them takes seconds, and is done once, in test_labeled.
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: pickle.loads(pickle.dumps(some_twice(d)))])
def test_loader_workers_give_the_row_of_the_image_that_they_loaded(
    photos: Path, store: Path, wrap: Callable[[Any], Any]
) -> None:
    dataset = wrap(crops(photos, store))
    loader = DataLoader(dataset, batch_size=3, collate_fn=relabel.collate, num_workers=2, persistent_workers=True)
    whole = relabel.open(store)
    count = 0
    for images, labels in itertools.chain(loader, loader):
        numbers = (images[:, 0].amax((1, 2)) * 255 / 20).round().long().tolist()
        maps = whole[whole.rows([NAMES[number] for number in numbers])]
        assert torch.equal(labels.maps.planes, maps.planes)
        assert labels.pool().sum(1).tolist() == pytest.approx([1.0] * len(labels))
        count += len(images)
    assert count == 2 * len(dataset)
    # The collector would wait for its workers, five seconds each, in some other test.
    del loader


def test_labels_move_but_boxes_stay_where_their_weights_are_made(
    photos: Path, store: Path, device: torch.device
) -> None:
    _, labels = relabel.collate([crops(photos, store)[0]])
    moved = labels.to(device)
    assert moved.maps.planes.device.type == moved.ground_truth.device.type == device.type
    assert moved.views.boxes.device.type == "cpu"
    assert torch.allclose(moved.pool().cpu(), labels.pool(), atol=1e-6)


@pytest.mark.cuda
def test_a_loader_pins_labels(photos: Path, store: Path) -> None:
    loader = DataLoader(crops(photos, store), batch_size=4, collate_fn=relabel.collate, pin_memory=True)
    assert all(labels.maps.planes.is_pinned() and labels.ground_truth.is_pinned() for _, labels in loader)


def test_images_without_a_label_are_an_error_or_dropped(photos: Path, tmp_path: Path) -> None:
    failed = frozenset({NAMES[2]})
    make_store(tmp_path / "f.zarr", [NAMES[:6]], random_logits(6, 9, (4, 5)), failed=failed)
    with pytest.raises(LabelError, match=r"2 of 8 keys: 'dog/2\.png', 'dog/3\.png'"):
        crops(photos, tmp_path / "f.zarr")
    dataset = crops(photos, tmp_path / "f.zarr", unlabeled="drop")
    assert dataset.indices.tolist() == [0, 1, 3, 4, 5]
    assert [dataset[i][1].row for i in range(5)] == [0, 1, 3, 4, 5]
    assert [dataset[i][1].ground_truth for i in range(5)] == [0, 0, 0, 1, 1]


def test_a_failed_image_is_found_before_training_starts(photos: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "f.zarr", [NAMES], random_logits(8, 9, (4, 5)), failed=frozenset({NAMES[2]}))
    with pytest.raises(LabelError, match=r"1 of 8 images failed .*/cat/2\.png'.*unlabeled='drop'"):
        crops(photos, tmp_path / "f.zarr")


def test_keys_may_be_made_of_paths_by_a_rule_of_ones_own(photos: Path, tmp_path: Path) -> None:
    stems = [Path(name).stem + name[:3] for name in NAMES]
    make_store(tmp_path / "s.zarr", [stems], random_logits(8, 9, (4, 5)))
    dataset = crops(photos, tmp_path / "s.zarr", key=lambda path: Path(path).stem + Path(path).parent.name)
    assert [dataset[i][1].row for i in range(8)] == list(range(8))


def test_a_subset_of_a_folder_is_that_subset(photos: Path, store: Path) -> None:
    subset = Subset(Subset(ImageFolder(photos), [7, 2, 5]), [2, 0])
    dataset = relabel.LabeledCrops(subset, relabel.open(store), v2.PILToTensor())
    assert len(dataset) == 2
    for item, number in zip((dataset[0], dataset[1]), (5, 7), strict=True):
        assert item[0].max() == number * 20
        assert item[1].row == dataset.maps.rows([NAMES[number]]).item()
        assert item[1].ground_truth == 1
    with pytest.raises(InvalidValueError, match="its own transform"):
        relabel.LabeledCrops(Subset(ImageFolder(photos, transform=TRANSFORM), [0]), dataset.maps, None)
    with pytest.raises(InvalidValueError, match="what the store calls the images of list is not known: give key="):
        relabel.LabeledCrops(Subset([1], [0]), dataset.maps, None)


def test_keys_of_a_dataset_of_splits_are_below_the_split(photos: Path, store: Path) -> None:
    folder = ImageFolder(photos)
    # As torchvision's ImageNet is made: its root holds the archives, and `train` the images.
    folder.root, folder.split_folder = str(photos.parent), str(photos)  # type: ignore[attr-defined]
    dataset = relabel.LabeledCrops(folder, relabel.open(store), TRANSFORM)
    assert [dataset[i][1].row for i in range(8)] == [4, 5, 6, 7, 0, 1, 2, 3]


def stream_sample(key: str, **changes: Any) -> dict[str, Any]:
    return {"__key__": key, "jpg": picture(1), "cls": 1} | changes


def test_samples_of_a_stream_without_a_label_raise_or_are_left_out(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [["a", "b"]], random_logits(2, 9, (4, 5)), failed=frozenset({"b"}))
    maps = relabel.open(tmp_path / "s.zarr")
    label = relabel.LabeledSample(maps, TRANSFORM, tickets=False)
    with pytest.raises(LabelError, match=r"1 of 1 images failed .*'b'"):
        label(stream_sample("b"))
    with pytest.raises(LabelError, match=r"no image of 1 of 1 keys: 'c'"):
        label(stream_sample("c"))
    drop = relabel.LabeledSample(maps, TRANSFORM, tickets=False, unlabeled="drop")
    kept = [item for item in map(drop, map(stream_sample, "abc")) if item is not None]
    assert [target.row for _, target in kept] == [0]
    with pytest.raises(InvalidValueError, match="'raise' or 'drop'"):
        relabel.LabeledSample(maps, TRANSFORM, tickets=False, unlabeled="keep")  # type: ignore[arg-type]


def test_a_stream_of_another_store_does_not_end_in_silence(store: Path) -> None:
    drop = relabel.LabeledSample(relabel.open(store), TRANSFORM, unlabeled="drop")
    assert [drop(stream_sample(f"x{number}")) for number in range(256)] == [None] * 256
    with pytest.raises(LabelError, match=r"no image of 1 of 1 keys: 'x256'.* give Labeled"):
        drop(stream_sample("x256"))
    assert drop(stream_sample(NAMES[0])) is not None
    assert drop(stream_sample("x257")) is None


def test_what_was_changed_before_the_label_is_refused(store: Path) -> None:
    maps = relabel.open(store)
    images = {"cropped": picture(1).crop((0, 0, 90, 30)), "resized": picture(1).resize((45, 30))}
    images["a tensor"] = torch.zeros(3, 30, 45)  # type: ignore[assignment]
    for image in images.values():
        with pytest.raises(LabelError, match="cropped or resized before LabeledSample; put"):
            relabel.LabeledSample(maps, None)(stream_sample(NAMES[0], jpg=image))
    assert relabel.LabeledSample(maps, None)(stream_sample(NAMES[0]))


def mirrored(given: Any) -> Any:
    if isinstance(given, dict):
        return given | {"png": v2.functional.hflip(given["png"])}
    return v2.functional.hflip(given)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([wds.decode("pil"), wds.map(mirrored)], "mirrored"),
        ([wds.decode("pil"), wds.map_dict(png=v2.RandomHorizontalFlip())], "RandomHorizontalFlip"),
        ([wds.decode("pil"), wds.map_dict(cls=int)], None),
        ([wds.map(dict), wds.shuffle(3)], None),
    ],
)
def test_a_pipeline_that_changes_decoded_images_before_the_label_is_refused(
    store: Path, steps: list[Any], name: str | None
) -> None:
    stream = io.BytesIO()
    picture(0).save(stream, "PNG")
    source = [{"__key__": NAMES[0], "png": stream.getvalue(), "cls": b"1"}]
    pipeline = wds.WebDataset("unread.tar", shardshuffle=False)
    pipeline.pipeline = [source, *steps]
    labeled = relabel.Labeled(pipeline, relabel.open(store), TRANSFORM)
    if name is None:
        assert len(list(labeled)) == 1
        return
    with pytest.raises(InvalidValueError, match=f"come decoded, and .*{name}.* put LabeledSample first"):
        list(labeled)
    assert len(list(relabel.Labeled(pipeline, relabel.open(store), TRANSFORM, check=False))) == 1


def test_an_image_of_another_name_that_was_changed_before_the_label_is_refused(store: Path) -> None:
    pipeline = wds.WebDataset("unread.tar", shardshuffle=False).map_dict(photo=mirrored)
    pipeline.pipeline = [[{"__key__": NAMES[0], "photo": picture(0)}], pipeline.pipeline[-1]]
    with pytest.raises(InvalidValueError, match="mirrored before LabeledSample"):
        list(relabel.Labeled(pipeline, relabel.open(store), TRANSFORM, image_suffixes=["photo"]))


def test_which_member_of_a_sample_is_its_image_is_the_rule_of_generate(store: Path) -> None:
    label = relabel.LabeledSample(relabel.open(store), TRANSFORM, tickets=False)
    with pytest.raises(InvalidValueError, match=r"got a tuple\. Map LabeledSample before to_tuple"):
        label((picture(0), 0))  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"must hold one image; jpg and png is one of .* Give image_suffixes"):
        label(stream_sample(NAMES[0], png=picture(0)))
    with pytest.raises(InvalidValueError, match="with __key__; got"):
        label({"jpg": picture(0)})
    # The only image of a sample may have a suffix of several parts, and one beside it is a mask.
    assert label({"__key__": NAMES[0], "image.jpg": picture(0)})[1].ground_truth == -1  # type: ignore[index]
    image, _ = label(stream_sample(NAMES[0], **{"seg.png": picture(12)}))  # type: ignore[misc]
    assert image.max() == 20 / 255
    own = relabel.LabeledSample(label.maps, TRANSFORM, tickets=False, image_suffixes=["photo", "seg.png"])
    image, _ = own(stream_sample(NAMES[0], **{"seg.png": picture(12)}))  # type: ignore[misc]
    assert image.max() == pytest.approx(240 / 255)


def test_a_stream_of_samples_is_labeled_by_its_keys(tmp_path: Path) -> None:
    members = []
    for number in range(5):
        stream = io.BytesIO()
        picture(number).save(stream, "PNG")
        members += [(f"x/{number}.png", stream.getvalue()), (f"x/{number}.cls", str(number).encode())]
    write_tar(tmp_path / "a.tar", members)
    make_store(tmp_path / "s.zarr", [[f"x/{i}" for i in (4, 3, 2, 1, 0)]], random_logits(5, 9, (4, 5)))
    sample = relabel.LabeledSample(relabel.open(tmp_path / "s.zarr"), TRANSFORM, tickets=False)
    stream = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("pil").map(sample)
    images, labels = next(iter(DataLoader(stream, batch_size=5, num_workers=1, collate_fn=relabel.collate)))
    assert (images[:, 0].amax((1, 2)) * 255 / 20).round().tolist() == [0, 1, 2, 3, 4]
    assert labels.ground_truth.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(labels.maps.planes, sample.maps[[4, 3, 2, 1, 0]].planes)
    with pytest.raises(InvalidValueError, match=r"must hold one image; none is one of \['__key__', 'txt'\]"):
        sample({"__key__": "x/0", "txt": b""})
    assert sample({"__key__": "README", "md": b""}) is None
    with pytest.raises(InvalidValueError, match="'x/0' is no class number: 'cat'"):
        sample({"__key__": "x/0", "png": picture(0), "cls": "cat"})


def test_items_of_two_stores_or_of_two_sizes_do_not_make_a_batch(photos: Path, store: Path) -> None:
    one, two = crops(photos, store), crops(photos, store)
    with pytest.raises(InvalidValueError, match="Open the store once"):
        relabel.collate([one[0], two[0]])
    with pytest.raises(InvalidValueError, match=r"got one with a ndarray\. Tickets are stacked"):
        relabel.collate([relabel.Labeled(ImageFolder(photos, TRANSFORM), one.maps)[0]])
    with pytest.raises(InvalidValueError, match="got 0 items"):
        relabel.collate([])
    plain = relabel.LabeledCrops(ImageFolder(photos), one.maps, None)
    with pytest.raises(InvalidValueError, match="Let the transform end in tensors"):
        relabel.collate([plain[0]])
    with pytest.raises(InvalidValueError, match="Let the transform end in tensors of one size"):
        relabel.collate([(torch.zeros(3, 4, 4), one[0][1]), (torch.zeros(3, 4, 5), one[1][1])])


def test_a_datasets_own_transform_is_refused_not_dropped(photos: Path, store: Path) -> None:
    with pytest.raises(InvalidValueError, match="its own transform, and another is given"):
        relabel.LabeledCrops(ImageFolder(photos, transform=TRANSFORM), relabel.open(store), None)


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"space": "probability"}, {"uncovered": "nearest"}])
def test_a_batch_hands_on_how_to_pool(tmp_path: Path, options: dict[str, Any]) -> None:
    make_store(tmp_path / "s.zarr", [["a"]], random_logits(1, 9, (4, 5)), footprint=torch.tensor([0.0, 0.0, 0.5, 1.0]))
    maps = relabel.open(tmp_path / "s.zarr")
    box = relabel.Box(0.6, 0.0, 0.9, 1.0) if "uncovered" in options else relabel.Box(0.1, 0.0, 0.4, 1.0)
    _, labels = relabel.collate([(torch.zeros(1), relabel.CropLabel(0, relabel.View(box, flip=True), 3, maps))])
    expected = maps[[0]].pool(torch.tensor([box.xyxy]), (1, 2), flip=torch.tensor([True]), **options)
    assert torch.allclose(labels.pool((1, 2), **options), expected)
    assert torch.allclose(labels.pool((1, 2), sparse=True, **options).dense(), expected)
    if "uncovered" in options:
        for sparse in (False, True):
            with pytest.raises(LabelError):
                labels.pool(sparse=sparse)
    else:
        assert not torch.allclose(labels.pool((1, 2)), expected, atol=1e-3)


def test_a_stream_brings_its_keys_to_its_workers(store: Path) -> None:
    sample = relabel.LabeledSample(relabel.open(store), TRANSFORM, tickets=False)
    for name in ("key", "status"):
        (store / name).rename(store / f"{name} is gone")
    assert pickle.loads(pickle.dumps(sample))(stream_sample(NAMES[0])) is not None


def test_a_batch_of_published_maps_gives_the_published_labels() -> None:
    """Small boxes are at least a cell wide in the published codes, and nowhere else."""
    classes = torch.tensor([[3, 1, 4, 0], [1, 2, 0, 4]]).reshape(1, 2, 2, 2)
    maps = relabel.ScoreMap.from_cell_topk(classes, torch.arange(8.0).reshape(1, 2, 2, 2), num_classes=5)
    box = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    labels = relabel.CropLabels(maps, relabel.Views.of_boxes(box), torch.tensor([0]))
    expected = maps.pool(box, 2, fill="zero")
    assert torch.equal(labels.pool(2, fill="zero"), expected)
    assert torch.equal(labels.pool(2, sparse=True, fill="zero").dense(), expected)
    assert not torch.allclose(labels.pool(2), expected, atol=1e-3)


def test_an_image_that_cannot_be_read_is_named(photos: Path, store: Path) -> None:
    dataset = crops(photos, store)
    (photos / NAMES[1]).write_bytes((photos / NAMES[1]).read_bytes()[:40])
    with pytest.raises(ImageError, match=r"cat/1\.png cannot be read"):
        dataset[1]
