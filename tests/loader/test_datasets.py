"""Data sets of every kind: the label of each item is of the image that its pixels are."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import webdataset as wds
from generating import write_tar
from loader.photos import NAMES, STEPS, assert_right, encoded, items_of, told, write_photos, write_store
from PIL import Image
from stores import change_manifest
from timm.data import create_loader
from timm.data.dataset import ImageDataset, IterableImageDataset
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import relabel
from relabel.errors import ImageError, InvalidValueError, LabelError

TRANSFORM = v2.Compose(STEPS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> relabel.LabelMaps:
    return relabel.open(write_store(tmp_path_factory.mktemp("store") / "s.zarr"))


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "photos.tar"
    return write_tar(path, [(name, encoded(number)) for number, name in enumerate(NAMES)])


def test_images_in_tars_have_the_keys_of_a_store_that_was_made_of_tars(tar: Path, tmp_path: Path) -> None:
    keys = [name.removesuffix(".png") for name in NAMES]
    write_store(tmp_path / "s.zarr", keys)
    change_manifest(tmp_path / "s.zarr", data__kind="webdataset")
    maps = relabel.open(tmp_path / "s.zarr")
    dataset = relabel.Labeled(ImageDataset(str(tar), transform=TRANSFORM), maps)
    assert_right(maps, [dataset[i] for i in (6, 1)], [6, 1], keys)
    assert pickle.dumps(dataset)
    for part in ("a", "b"):
        write_tar(tmp_path / f"{part}.tar", [("cat/0.png", encoded(0))])
    with pytest.raises(InvalidValueError, match="several tars hold images of the same name"):
        relabel.Labeled(ImageDataset("", reader=ReaderImageInTar(str(tmp_path))), maps)


@pytest.mark.parametrize("reader", ["", "tar"])
def test_timms_readers_are_asked_for_the_very_image(photos: Path, tar: Path, maps: Any, reader: str) -> None:
    images = ImageDataset(str(tar if reader else photos), transform=TRANSFORM)
    dataset = relabel.Labeled(images, maps)
    assert dataset.filenames() == images.filenames()
    assert_right(maps, [dataset[i] for i in range(8)], list(range(8)))
    for double in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert_right(maps, [double[6]], [6])
        # Which lets go of the tar.
        assert pickle.dumps(double)
    # Forked workers that shared a tar's file would read each other's place in it.
    assert_right(maps, items_of(DataLoader(dataset, 1, num_workers=2)), list(range(8)))
    assert pickle.dumps(dataset)


def test_timm_may_not_give_the_next_image_for_one_that_cannot_be_read(maps: Any, tmp_path: Path) -> None:
    images = ImageDataset(str(write_photos(tmp_path)), transform=TRANSFORM)
    dataset = relabel.Labeled(images, maps)
    (tmp_path / NAMES[1]).write_bytes(b"no image")
    # ``images[1]`` is that of images[2] now.
    with pytest.raises(ImageError, match=r"cat/1\.png cannot be read"):
        dataset[1]


@pytest.mark.parametrize("prefetcher", [False, True])
def test_timms_loader_sets_the_transform_and_it_is_followed(photos: Path, maps: Any, prefetcher: bool) -> None:
    dataset = relabel.Labeled(ImageDataset(str(photos)), maps)
    loader = create_loader(
        dataset, (3, 16, 16), 4, is_training=True, scale=(0.5, 1), color_jitter=0, mean=(0,) * 3, std=(1,) * 3,
        num_workers=0, device=torch.device("cpu"), use_prefetcher=prefetcher, persistent_workers=False,
    )  # fmt: skip
    items = items_of(loader)
    numbers = [round(float(image[0].amax()) * 255 / 20) for image, _ in items]
    assert sorted(numbers) == list(range(8))
    assert_right(maps, items, numbers)


def test_kinds_may_be_mixed(photos: Path, tar: Path, maps: Any) -> None:
    mixed = ConcatDataset([ImageFolder(photos, TRANSFORM), ImageDataset(str(tar), transform=TRANSFORM)])
    dataset = relabel.Labeled(mixed, maps)
    assert_right(maps, [dataset[i] for i in (3, 12, 7, 8)], [3, 4, 7, 0])
    assert pickle.dumps(dataset)


class Own(torch.utils.data.Dataset[Any]):
    """As users write them."""

    def __init__(self, form: str, transform: Any = None) -> None:
        self.form, self.transform, self.getting = form, transform, torch.nn.Identity()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        image = torch.zeros(3, 16, 24)
        image[0], image[1] = index * 20 / 255, torch.arange(24) * 10 / 255
        image = self.getting(image)
        if self.transform:
            image = self.transform(image)
        return {
            "pair": (image, index // 4),
            "more": (image, index // 4, f"number {index}"),
            "alone": image,
            "mapping": {"image": image, "label": index // 4, "id": index},
        }[self.form]


@pytest.mark.parametrize("form", ["pair", "more", "alone", "mapping"])
def test_any_data_set_is_labeled_by_a_rule_for_its_keys(maps: Any, form: str) -> None:
    with pytest.raises(InvalidValueError, match="images of Own is not known: give key="):
        relabel.Labeled(Own(form), maps)
    own = Own(form, v2.Compose(STEPS[:2]))
    dataset = relabel.Labeled(own, maps, key=NAMES.__getitem__)
    items = [dataset[i] for i in (5, 2)]
    if form == "mapping":
        assert [item.pop("id") for item in items] == [5, 2]
        items = [(item["image"], item["label"]) for item in items]
    if form == "more":
        assert [item[2] for item in items] == ["number 5", "number 2"]
    if form == "alone":
        assert [told(ticket)[2] for _, ticket in items] == [-1, -1]
    else:
        assert_right(maps, items, [5, 2])
    own.transform = None
    with pytest.raises(InvalidValueError, match="transform of Own was set after"):
        dataset[0]


class Skipping(Own):
    """Gives the next item where it cannot read one, and opens a file when it is first asked."""

    file: Any = None

    def __getitem__(self, index: int) -> Any:
        self.file = self.file or memoryview(b"a file that no pickle takes")
        try:
            if index == 3:
                raise OSError("damaged")
            return super().__getitem__(index)
        except OSError:
            return self[index + 1]


def test_a_data_set_may_not_give_another_item_and_keeps_its_files_for_its_workers(maps: Any) -> None:
    dataset = relabel.Labeled(Skipping("pair", v2.Compose(STEPS[:2])), maps, key=NAMES.__getitem__)
    with pytest.raises(ImageError, match=r"Skipping gives its item 4 in place of another"):
        dataset[3]
    assert dataset.file is None
    for double in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        assert_right(maps, [double[i] for i in (5, 2)], [5, 2])


@pytest.mark.parametrize("hidden", ["in the data set", "in the loader of a folder"])
def test_chance_before_the_transform_is_refused(photos: Path, maps: Any, hidden: str) -> None:
    flip = v2.RandomHorizontalFlip()
    images: Any
    if hidden == "in the data set":
        images = Own("pair")
        images.getting = flip
    else:
        images = ImageFolder(photos, loader=lambda path: flip(Image.open(path).convert("RGB")))
    before = torch.get_rng_state()
    with pytest.raises(InvalidValueError, match=r"is another image each time that \w+ loads it: what crops, flips"):
        relabel.Labeled(images, maps, key=lambda _: NAMES[0], same_bytes=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_that_gives_items_of_its_own_keeps_them(photos: Path, maps: Any) -> None:
    class Numbered(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            return *super().__getitem__(index), index

    dataset = relabel.Labeled(Numbered(photos, TRANSFORM), maps)
    items = [dataset[i] for i in (5, 2)]
    assert [item[2] for item in items] == [5, 2]
    assert_right(maps, items, [5, 2])


def rows(photos: Path, held: str, names: tuple[str, str] = ("image", "label")) -> datasets.Dataset:
    """A data set of Hugging Face's, its images as files' bytes or as paths."""
    files = [str(photos / name) for name in NAMES]
    images = files if held == "paths" else [{"bytes": encoded(n), "path": name} for n, name in enumerate(NAMES)]
    features = {names[0]: datasets.Image(), names[1]: datasets.ClassLabel(names=["cat", "dog"])}
    columns = {names[0]: images, names[1]: [n // 4 for n in range(8)], "id": list(range(8))}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features | {"id": datasets.Value("int64")}))


@pytest.mark.parametrize(("held", "names"), [("bytes", ("image", "label")), ("paths", ("pixel_values", "labels"))])
def test_rows_of_hugging_face_are_known_by_their_bytes(photos: Path, maps: Any, held: str, names: Any) -> None:
    images = rows(photos, held, names).shuffle(seed=0).select(range(5))
    dataset = relabel.Labeled(images, maps, transform=TRANSFORM)
    numbers = images["id"][:]
    for double in (dataset, copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        items = [double[i] for i in range(5)]
        assert [item.keys() for item in items] == [{*names, "id"}] * 5
        assert [item["id"] for item in items] == numbers
        assert_right(maps, [(item[names[0]], item[names[1]]) for item in items], numbers)
    batch = next(iter(DataLoader(dataset, 5, num_workers=1)))
    assert_right(maps, list(zip(batch[names[0]], batch[names[1]], strict=True)), numbers)
    assert (dataset.column_names, dataset.num_rows) == ([*names, "id"], 5)
    assert not hasattr(dataset, "shuffle")
    with pytest.raises(AttributeError, match=r"set labeled\.transform = "):
        dataset.set_transform(print)


def test_a_format_of_hugging_face_is_kept_and_a_transform_of_batches_refused(photos: Path, maps: Any) -> None:
    images = rows(photos, "bytes")
    steps = v2.Compose([*STEPS[:2], STEPS[3]])
    dataset = relabel.Labeled(images.with_format("torch"), maps, transform=steps)
    assert_right(maps, [(item["image"], item["label"]) for item in (dataset[i] for i in (6, 1))], [6, 1])
    with pytest.raises(InvalidValueError, match=r"transform of batches .* and Labeled\(\.\.\., transform=\)"):
        relabel.Labeled(images.with_transform(lambda batch: batch), maps)
    dataset = relabel.Labeled(images, maps, transform=TRANSFORM)
    images.set_transform(lambda batch: batch)
    with pytest.raises(InvalidValueError, match="of Dataset was set after Labeled was made"):
        dataset[0]
    tensors = datasets.Dataset.from_dict({"pixel_values": [[0.5]], "label": [0]})
    with pytest.raises(InvalidValueError, match="has no columns of images"):
        relabel.Labeled(tensors, maps)
    with pytest.raises(InvalidValueError, match="not images that are decoded"):
        relabel.Labeled(tensors, maps, columns=("pixel_values", "label"))
    with pytest.raises(InvalidValueError, match=r"got DatasetDict, of train: give one .* as dataset\[\"train\"\]"):
        relabel.Labeled(datasets.DatasetDict({"train": tensors}), maps)
    with pytest.raises(InvalidValueError, match="got IterableDataset"):
        relabel.Labeled(tensors.to_iterable_dataset(), maps)


def test_rows_may_be_known_by_a_rule_or_dropped(photos: Path, maps: Any) -> None:
    images = rows(photos, "bytes")
    dataset = relabel.Labeled(images, maps, transform=TRANSFORM, key=lambda row: NAMES[row["id"]])
    assert_right(maps, [(item["image"], item["label"]) for item in (dataset[i] for i in (6, 1))], [6, 1])
    unknown = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(9), "path": "x.png"}], "label": [1], "id": [9]}, features=images.features
    )
    both = datasets.concatenate_datasets([unknown, images])
    with pytest.raises(LabelError, match=r"no image of the bytes of 1 of 9 images: row 0 \(x\.png\)\. Label the very"):
        relabel.Labeled(both, maps, transform=TRANSFORM)
    dataset = relabel.Labeled(both, maps, transform=TRANSFORM, unlabeled="drop")
    assert [dataset[i]["id"] for i in range(len(dataset))] == list(range(8))


@pytest.mark.parametrize("form", ["map", "Labeled", "key"])
def test_items_of_a_stream_survive_batching_and_shuffling(tmp_path: Path, form: str) -> None:
    members = [(f"{name[:-4]}.{end}", data) for n, name in enumerate(NAMES) for end, data in stream_members(n)]
    write_tar(tmp_path / "photos.tar", members)
    keys = NAMES if form == "key" else [name.removesuffix(".png") for name in NAMES]
    maps = relabel.open(write_store(tmp_path / "s.zarr", keys))
    stream = wds.WebDataset(str(tmp_path / "photos.tar"), shardshuffle=False)
    if form == "map":
        stream = stream.map(relabel.LabeledSample(maps, TRANSFORM))
    else:
        options = {"key": lambda key: f"{key}.png"} if form == "key" else {}
        stream = relabel.Labeled(stream, maps, transform=TRANSFORM, **options)
    stream = stream.batched(4).unbatched().shuffle(5).batched(8)
    ((images, tickets),) = DataLoader(stream, batch_size=None, num_workers=1)
    numbers = [round(float(image[0].amax()) * 255 / 20) for image in images]
    assert sorted(numbers) == list(range(8))
    assert_right(maps, list(zip(images, tickets, strict=True)), numbers, keys)


def stream_members(number: int) -> list[tuple[str, bytes]]:
    return [("png", encoded(number)), ("cls", str(number // 4).encode())]


def test_a_stream_without_keys_is_refused_by_name(maps: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"got IterableImageDataset\. The samples of a stream .* __key__"):
        relabel.Labeled(IterableImageDataset("", reader=object()), maps)
    with pytest.raises(InvalidValueError, match="got DataPipeline"):
        relabel.Labeled(wds.DataPipeline([{}]), maps)


@pytest.mark.parametrize("how", ["another's index", "a retry", "a retry by samples", "no loader"])
def test_a_child_of_a_folder_may_not_give_what_another_file_holds(maps: Any, tmp_path: Path, how: str) -> None:
    class Child(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            if how == "another's index":
                return super().__getitem__((index + 2) % 8)
            if how == "no loader":
                path, label = self.imgs[index - 1]
                with Image.open(path) as image:
                    return TRANSFORM(image.convert("RGB")), label
            try:
                return super().__getitem__(index)
            except OSError:
                path, label = self.samples[index + 1]
                if how == "a retry":
                    return super().__getitem__(index + 1)
                return TRANSFORM(self.loader(path)), label

    folder = Child(write_photos(tmp_path))
    dataset = relabel.Labeled(folder, maps, frame="decoded", check=False)
    (tmp_path / NAMES[3]).write_bytes(b"")
    with pytest.raises(ImageError, match=r"Child reads .* for its item 3, which is .*cat/3\.png by its samples"):
        dataset[3]


class After(Own):
    """Does something after its transform, perhaps in place, and reads by a flag."""

    in_place = False
    samples: Any = ()
    root = "nowhere"
    epoch = 0

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        if self.in_place:
            image.copy_(image.flip(-1))
        return (v2.functional.vflip(image) if self.train else image), label

    def __init__(self, train: bool) -> None:
        super().__init__("pair", v2.Compose(STEPS[:2]))
        self.train = train
        self.samples = [("cat", NAMES[i]) for i in range(8)]


def test_what_comes_after_the_transform_or_is_set_later_is_refused(maps: Any) -> None:
    with pytest.raises(InvalidValueError, match="After does something to an image after its transform"):
        relabel.Labeled(After(True), maps, key=NAMES.__getitem__)
    own = After(False)
    own.in_place = True
    with pytest.raises(InvalidValueError, match="After does something to an image after its transform"):
        relabel.Labeled(own, maps, key=NAMES.__getitem__)
    own = After(False)
    # Its samples are of another form: a rule is given the index.
    dataset = relabel.Labeled(own, maps, key=NAMES.__getitem__)
    assert_right(maps, [pickle.loads(pickle.dumps(dataset))[2]], [2])
    for name in ("train", "epoch"):
        before = getattr(own, name)
        setattr(own, name, True)
        with pytest.raises(InvalidValueError, match=f"{name} of After was set after Labeled was made"):
            dataset[2]
        setattr(own, name, before)
    assert dataset[2]


def test_a_loader_that_is_a_method_and_samples_that_are_a_property_are_no_change(photos: Path, maps: Any) -> None:
    class Methods(torch.utils.data.Dataset[Any]):
        root = photos
        samples = property(lambda _: [(str(photos / name), 0) for name in NAMES])

        def __len__(self) -> int:
            return 8

        def loader(self, path: str) -> Any:
            return Image.open(path).convert("RGB")

        def __getitem__(self, index: int) -> Any:
            return self.loader(self.samples[index][0]), index // 4

    dataset = relabel.Labeled(Methods(), maps, transform=TRANSFORM, key=NAMES.__getitem__)
    assert_right(maps, [dataset[i] for i in (5, 2)], [5, 2])


def test_a_loader_that_moves_what_some_files_show_is_refused_and_one_of_other_colours_not(
    photos: Path, maps: Any
) -> None:
    def moving(path: str) -> Any:
        image = Image.open(path).convert("RGB")
        return v2.functional.hflip(image) if path.endswith("2.png") else image

    with pytest.raises(InvalidValueError, match=r"cat/2.png is not loaded by ImageFolder as its file shows it"):
        relabel.Labeled(ImageFolder(photos, TRANSFORM, loader=moving), maps)
    of_class = ImageFolder(photos, TRANSFORM, loader=lambda path: Image.open(path).convert("RGB"))
    assert_right(maps, [relabel.Labeled(of_class, maps)[3]], [3])

    class Minority(Own):
        def __getitem__(self, index: int) -> Any:
            self.getting = v2.RandomHorizontalFlip(0.5 * (index > 5))
            return super().__getitem__(index)

    with pytest.raises(InvalidValueError, match="is another image each time"):
        relabel.Labeled(Minority("pair", v2.Compose(STEPS[:2])), maps, key=NAMES.__getitem__)


@pytest.mark.parametrize("kind", ["ImageFolder", "timm", "parts", "Hugging Face"])
def test_another_split_of_the_same_names_and_sizes_is_refused(
    photos: Path, maps: Any, tmp_path: Path, kind: str
) -> None:
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(number if number == 2 else number + 1))
    options: dict[str, Any] = {}
    images: Any
    if kind == "Hugging Face":
        images = datasets.Dataset.from_dict({"image": [str(tmp_path / name) for name in NAMES], "label": [0] * 8})
        images = images.cast_column("image", datasets.Image())
        options = {"transform": TRANSFORM, "key": lambda row: "/".join(Path(row["image"]["path"]).parts[-2:])}
    elif kind == "timm":
        images = ImageDataset(str(tmp_path), transform=TRANSFORM)
    else:
        images = ImageFolder(tmp_path, TRANSFORM)
    if kind == "parts":
        images = ConcatDataset([ImageFolder(photos, TRANSFORM), images])
    with pytest.raises(LabelError, match=r"^7 of 8 images .* other bytes .*0\.png.* say same_bytes=False"):
        relabel.Labeled(images, maps, **options)
    assert len(relabel.Labeled(images, maps, **options, same_bytes=False)) == len(images)


def test_a_stream_of_another_split_is_refused_and_never_left_out_whole(maps: Any) -> None:
    other = {"__key__": NAMES[3], "png": encoded(5)}
    for same in ({"__key__": NAMES[3], "png": encoded(3)}, None):
        sample = relabel.LabeledSample(maps, TRANSFORM, unlabeled="drop")
        assert not same or sample(same) is not None
        assert [sample(other) for _ in range(16)] == [None] * 16
        with pytest.raises(LabelError, match=r"other bytes than .*'cat/3.png'"):
            sample(other)
    with pytest.raises(LabelError, match="1 of 1 images"):
        relabel.LabeledSample(maps, TRANSFORM)(other)
    assert relabel.LabeledSample(maps, TRANSFORM, same_bytes=False)(other) is not None
