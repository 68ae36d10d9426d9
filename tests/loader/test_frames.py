"""Photographs of every EXIF orientation, loaded upright and not, over stores of either frame: right, or refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import webdataset as wds
from generating import write_tar
from images.test_decode import photograph_like
from labeled import label
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from timm.data.dataset import ImageDataset
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.ops import roi_align
from torchvision.transforms import v2

import relabel
from relabel.errors import InvalidValueError, LabelError
from relabel.teacher import TeacherSpec

ORIENTATIONS = range(1, 9)
TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.flipud(np.rot90(a)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.fliplr(np.rot90(a)),
    8: np.rot90,
}
"""What numpy does to an array (y, x, ...) as decoded to have it upright."""
BACK = {**{n: n for n in ORIENTATIONS}, 6: 8, 8: 6}
TRANSFORM = v2.Compose(
    [v2.ToImage(), v2.RandomResizedCrop(32, scale=(0.3, 1.0)), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)]
)
Item = tuple[Any, relabel.CropLabel]


def tagged(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG without Exif, said to be held so; its pixels stay."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def jpegs(sizes_hw: tuple[tuple[int, int], ...] = ((60, 80), (64, 64))) -> list[bytes]:
    """Pictures as a camera writes them."""
    streams = [io.BytesIO() for _ in sizes_hw]
    for number, (stream, size_hw) in enumerate(zip(streams, sizes_hw, strict=True)):
        photograph_like(*size_hw).rotate(40 * number, translate=(5, 3)).save(stream, "JPEG", quality=95)
    return [stream.getvalue() for stream in streams]


class Album:
    """Pictures of each orientation, as class folders (a class an orientation), as a tar, and a store of each frame."""

    def __init__(self, root: Path, pictures: list[bytes], **teacher: Any) -> None:
        members = []
        for orientation in ORIENTATIONS:
            for number, data in enumerate(pictures):
                key = f"o{orientation}/{number:02d}"
                held = tagged(data, orientation)
                path = root / "photographs" / f"{key}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(held)
                members += [(f"{key}.jpg", held), (f"{key}.cls", str(orientation - 1).encode())]
        self.folder = root / "photographs"
        self.tar = write_tar(root / "photographs.tar", members)
        spec = {"name": "labeled:first", "device": "cpu"} | teacher
        self.stores = {
            (source, exif): relabel.open(
                label(images, root / f"{source}-{exif}.zarr", TeacherSpec(**spec, exif=exif), samples_per_shard=None)
            )
            for source, images in (("folder", self.folder), ("tar", self.tar))
            for exif in ("ignored", "upright")
        }

    def samples(self) -> Iterator[dict[str, Any]]:
        """Of the tar, by webdataset's own readers; its opener leaves files open."""
        with self.tar.open("rb") as file:
            files = wds.tariterators.tar_file_expander([{"url": str(self.tar), "stream": file}])
            yield from wds.tariterators.group_by_keys(files)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    return Album(tmp_path_factory.mktemp("album"), jpegs())


def pil_upright(path: Any) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def tensor_upright(path: str) -> torch.Tensor:
    return decode_image(path, ImageReadMode.RGB, apply_exif_orientation=True)


def handler(load: Callable[[Any], Any]) -> Callable[[str, bytes], Any]:
    """A decoder of webdataset's for JPEGs."""
    return lambda key, data: load(io.BytesIO(data)) if key.endswith("jpg") else None


def folder(load: Callable[[str], Any] | None, **options: Any) -> Callable[[Album, relabel.LabelMaps], Iterator[Item]]:
    def items(album: Album, maps: relabel.LabelMaps) -> Iterator[Item]:
        images = ImageFolder(album.folder, **({} if load is None else {"loader": load}))
        dataset = relabel.LabeledCrops(images, maps, TRANSFORM, check=False, **options)
        return (dataset[i] for i in range(len(dataset)))

    return items


def stream(*decoders: Any, **options: Any) -> Callable[[Album, relabel.LabelMaps], Iterator[Item]]:
    def items(album: Album, maps: relabel.LabelMaps) -> Iterator[Item]:
        steps = [wds.decode(*decoders)] if decoders else []
        return iter(
            wds.DataPipeline(
                album.samples, *steps, wds.map(relabel.LabeledSample(maps, TRANSFORM, tickets=False, **options))
            )
        )

    return items


def other(kind: str) -> Callable[[Album, relabel.LabelMaps], Iterator[Item]]:
    """Of the same photographs, in the order of the folder."""

    def items(album: Album, maps: relabel.LabelMaps) -> Iterator[Item]:
        paths = sorted(map(str, album.folder.rglob("*.jpg")))
        images: Any = ImageDataset(str(album.folder if kind == "timm" else album.tar))
        if kind == "Hugging Face":
            columns = {"image": paths, "label": [number // 2 for number in range(16)]}
            features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
            images = datasets.Dataset.from_dict(columns, features=features)
        labeled = relabel.LabeledCrops(images, maps, TRANSFORM, check=False)
        for row in (labeled[i] for i in range(16)):
            yield (row["image"], row["label"]) if kind == "Hugging Face" else row
        # Lets go of the tar.
        pickle.dumps(labeled)

    return items


# The frame in which each shows images, and what comes of it: all of it right, or a refusal.
WAYS: dict[str, tuple[str, Callable[[Album, relabel.LabelMaps], Iterator[Item]], str]] = {
    "ImageFolder": ("decoded", folder(None), ""),
    "ImageFolder, exif_transpose": ("upright", folder(pil_upright), ""),
    "ImageFolder, tensors": ("decoded", folder(lambda path: decode_image(path, ImageReadMode.RGB)), ""),
    "ImageFolder, upright tensors": ("upright", folder(tensor_upright), ""),
    "ImageFolder, upright arrays": ("upright", folder(lambda path: np.array(pil_upright(path))), ""),
    "timm": ("decoded", other("timm"), ""),
    "timm in a tar": ("decoded", other("tar"), ""),
    "Hugging Face": ("upright", other("Hugging Face"), ""),
    "webdataset before decode": ("decoded", stream(), ""),
    "webdataset before decode, upright": ("upright", stream(frame="upright"), ""),
    "webdataset pil": ("decoded", stream("pil"), ""),
    "webdataset exif_transpose": ("upright", stream(handler(pil_upright)), ""),
    "webdataset torchrgb": ("decoded", stream("torchrgb"), "does not tell whether it was turned"),
    "webdataset torchrgb, said": ("decoded", stream("torchrgb", frame="decoded"), ""),
}


def expected(maps: relabel.LabelMaps, shown: str, orientation: int, crop: relabel.CropLabel, size: int) -> np.ndarray:
    """(C, size, size) the label of a crop: the stored map turned by numpy, pooled by torchvision.

    In float32, since the number of samples jumps where a bin's length in cells crosses an integer.
    """
    own = maps.in_frame(maps.manifest.frame)
    dense = own[[crop.row]].decoded().to_dense()[0].permute(1, 2, 0).numpy()
    if shown != own.frame:
        dense = TURNS[orientation if shown == "upright" else BACK[orientation]](dense)
    scores = torch.from_numpy(np.ascontiguousarray(dense)).permute(2, 0, 1)
    box = torch.tensor([crop.box.xyxy], dtype=torch.float32) * torch.tensor([scores.shape[2], scores.shape[1]] * 2)
    pooled = roi_align(scores[None], [box], size, 1.0, -1, aligned=True)[0].double().softmax(0)
    return (pooled.flip(2) if crop.flip else pooled).numpy()


def worst(maps: relabel.LabelMaps, shown: str, items: Iterator[Item]) -> dict[int, float]:
    """The largest difference of any label, of images and of tokens, by orientation."""
    found: dict[int, float] = dict.fromkeys(ORIENTATIONS, 0.0)
    every = list(items)
    _, labels = relabel.collate(every)
    ours = {1: labels.pool((1, 1)), 14: labels.pool((14, 14))}
    for i, (_, crop) in enumerate(every):
        orientation = crop.ground_truth + 1
        for size, label_of in ours.items():
            away = np.abs(label_of[i].numpy() - expected(maps, shown, orientation, crop, size)).max()
            found[orientation] = max(found[orientation], float(away))
    return found


@pytest.mark.parametrize("exif", ["ignored", "upright"])
@pytest.mark.parametrize("way", WAYS)
def test_every_orientation_has_its_label_or_is_refused(album: Album, way: str, exif: str) -> None:
    shown, items, refused = WAYS[way]
    maps = album.stores["tar" if way.startswith("webdataset") else "folder", exif]
    torch.manual_seed(0)
    if refused:
        with pytest.raises(InvalidValueError, match=refused):
            worst(maps, shown, items(album, maps))
    else:
        assert max(worst(maps, shown, items(album, maps)).values()) < 1e-5


def some_upright(path: str) -> Image.Image:
    """As much code does it: by a table of rotations, which forgets mirrored images."""
    image = Image.open(path)
    angle = {3: 180, 6: 270, 8: 90}.get(image.getexif().get(0x0112, 1), 0)
    return image.convert("RGB").rotate(angle, expand=True)


def the_wrong_way(path: str) -> Image.Image:
    image = Image.open(path)
    turned = {5: Image.Transpose.TRANSVERSE, 7: Image.Transpose.TRANSPOSE}.get(image.getexif().get(0x0112, 1))
    return ImageOps.exif_transpose(image).convert("RGB") if turned is None else image.convert("RGB").transpose(turned)


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (some_upright, r"orientation 2\) decoded, .*orientation 3\) upright.*Mend it"),
        (the_wrong_way, r"orientation 5\) neither"),
        (lambda path: Image.open(path).convert("RGB").resize((40, 44)), r"neither.*resizes belong into the transform"),
        (lambda path: "no image", "an image is one of Pillow's, a tensor .* got a str"),
    ],
)
def test_a_loader_that_is_neither_is_refused_before_training(album: Album, load: Any, why: str) -> None:
    with pytest.raises(InvalidValueError, match=why):
        relabel.LabeledCrops(ImageFolder(album.folder, loader=load), album.stores["folder", "ignored"], TRANSFORM)


def copies(album: Album, to: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    """The photographs, changed, under the same names and without Exif."""
    for path in album.folder.rglob("*.jpg"):
        copy = to / path.relative_to(album.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        image = change(Image.open(path))
        Image.fromarray(np.array(image.convert("RGB"))).save(copy, "PNG")
    return to


@pytest.mark.parametrize("shown", ["decoded", "upright"])
def test_smaller_copies_without_exif_have_the_labels_of_the_originals(album: Album, tmp_path: Path, shown: str) -> None:
    def change(image: Image.Image) -> Image.Image:
        image = ImageOps.exif_transpose(image) if shown == "upright" else image
        return image.resize((image.width * 3 // 7, image.height * 3 // 7))

    images = ImageFolder(copies(album, tmp_path / "copies", change))
    maps = album.stores["folder", "ignored"]
    dataset = relabel.LabeledCrops(images, maps, TRANSFORM, same_bytes=False)
    torch.manual_seed(0)
    assert max(worst(maps, shown, (dataset[i] for i in range(len(dataset)))).values()) < 1e-5
    # Of squares alone nothing tells whether they were turned before they lost their Exif.
    squares = torch.utils.data.Subset(images, range(1, 16, 2))
    with pytest.raises(InvalidValueError, match=r"cannot be told by those looked at .*frame='decoded' .* or frame="):
        relabel.LabeledCrops(squares, maps, TRANSFORM, same_bytes=False)
    dataset = relabel.LabeledCrops(squares, maps, TRANSFORM, frame=shown, same_bytes=False)  # type: ignore[arg-type]
    assert max(worst(maps, shown, (dataset[i] for i in range(8))).values()) < 1e-5


def test_an_image_that_was_replaced_has_no_label(album: Album, tmp_path: Path) -> None:
    images = ImageFolder(copies(album, tmp_path / "copies", lambda image: image))
    dataset = relabel.LabeledCrops(images, album.stores["folder", "ignored"], TRANSFORM, same_bytes=False)
    path = images.samples[0][0]
    for size in ((80, 80), (60, 80), (80, 50)):
        Image.new("RGB", size).save(path, "PNG")
        with pytest.raises(LabelError, match=rf"00.jpg is loaded as {size[1]} x {size[0]} .* labelled as 60 x 80"):
            dataset[0]
    Image.new("RGB", (120, 90)).save(path, "PNG")
    assert dataset[0][1].row == 0


def test_a_store_that_knows_no_orientations_serves_images_as_they_are_decoded(album: Album, tmp_path: Path) -> None:
    keys = sorted(str(path.relative_to(album.folder)) for path in album.folder.rglob("*.jpg"))
    relabel.write(tmp_path / "own.zarr", keys, relabel.ScoreMap.from_logits(torch.randn(16, 20, 4, 4)))
    maps = relabel.open(tmp_path / "own.zarr")
    dataset = relabel.LabeledCrops(ImageFolder(album.folder), maps, TRANSFORM)
    assert (dataset.maps, len(dataset)) == (maps, 16)
    with pytest.raises(LabelError, match=r"does not know how 16 of 16 images were held .* write it again with images="):
        relabel.LabeledCrops(ImageFolder(album.folder, loader=pil_upright), maps, TRANSFORM)
    with pytest.raises(LabelError, match="does not know how 1 of 1 images"):
        maps.in_frame("upright")[[3]]
    path = album.folder / keys[-1]
    label_of = relabel.LabeledSample(maps, TRANSFORM, tickets=False)
    for image in (path.read_bytes(), Image.open(io.BytesIO(path.read_bytes())), Image.new("RGB", (8, 8))):
        assert label_of({"__key__": keys[-1], "jpg": image})[1].maps is maps  # type: ignore[index]
    for image in (torch.zeros(3, 8, 8), ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes())))):
        with pytest.raises(InvalidValueError, match=r"does not know how the image .* was held"):
            label_of({"__key__": keys[-1], "jpg": image})
    assert relabel.LabeledSample(maps, None, frame="decoded")({"__key__": keys[-1], "jpg": torch.zeros(3, 8, 8)})


def test_maps_that_cannot_be_turned_are_refused_before_training(album: Album, tmp_path: Path) -> None:
    wide = label(album.folder, tmp_path / "wide.zarr", ensemble={"grid_hw": (4, 6)})
    with pytest.raises(LabelError, match="maps of 4x6 cells cannot be turned by a quarter"):
        relabel.LabeledCrops(ImageFolder(album.folder, loader=pil_upright), relabel.open(wide), TRANSFORM)


def test_frames_of_a_store_are_two_objects_that_know_the_same(album: Album) -> None:
    maps = album.stores["folder", "upright"]
    other = pickle.loads(pickle.dumps(maps.in_frame("decoded")))
    assert (maps.frame, other.frame, other.in_frame("upright").frame) == ("upright", "decoded", "upright")
    assert other.in_frame("upright").in_frame("decoded") is other
    rows = maps.rows(["o6/00.jpg", "o1/00.jpg"])
    assert other.sizes_hw(rows).tolist() == [[60, 80], [60, 80]]
    assert maps.sizes_hw(rows).tolist() == [[80, 60], [60, 80]]
    assert maps.orientations(rows).tolist() == [6, 1]
    assert torch.equal(maps[rows].rest[0].rot90(1), other[rows].rest[0])
    with pytest.raises(InvalidValueError, match="frame must be 'decoded' or 'upright'; got 'turned'"):
        maps.in_frame("turned")  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="-1 is no row"):
        maps.orientations(maps.find(["o6/99.jpg"]))


def test_a_stream_runs_to_its_end_over_images_that_cannot_be_read(album: Album, tmp_path: Path) -> None:
    """As the README has it: a picture that was cut when it was labelled, one that was cut since, and one replaced."""
    first, square = jpegs()
    files = {f"{number:02d}.jpg": tagged(first, number % 8 + 1) for number in range(12)}
    files["03.jpg"] = files["03.jpg"][:500]
    tar = write_tar(tmp_path / "a.tar", list(files.items()))
    store = label(tar, tmp_path / "a.zarr", samples_per_shard=None, max_failures=1)
    files |= {"05.jpg": files["05.jpg"][:500], "07.jpg": square, "README.md": b"words", "12.jpg": first}
    write_tar(tar, [*files.items(), ("04.seg.png", b"a mask")])
    sample = relabel.LabeledSample(relabel.open(store), TRANSFORM, tickets=False, unlabeled="drop")
    stream = wds.WebDataset(str(tar), shardshuffle=False).map(sample)
    seen = []
    for _, labels in DataLoader(stream, batch_size=4, num_workers=1, collate_fn=relabel.collate):
        seen += labels.pool().argmax(1).tolist()
    assert len(seen) == 9


@pytest.mark.parametrize("unlabeled", ["drop", "raise"])
def test_a_bad_image_is_told_of_once_or_raised(album: Album, unlabeled: Any, caplog: pytest.LogCaptureFixture) -> None:
    label_of = relabel.LabeledSample(album.stores["tar", "ignored"], TRANSFORM, tickets=False, unlabeled=unlabeled)
    cut = {"__key__": "o3/00", "jpg": tagged(jpegs()[0], 3)[:700]}
    others = {"__key__": "o3/00", "jpg": jpegs(((50, 80),))[0]}, {"__key__": "o6/00", "jpg": tagged(jpegs()[0], 8)}
    if unlabeled == "raise":
        with pytest.raises(relabel.ImageError, match="the sample 'o3/00' cannot be decoded"):
            label_of(cut)
        for other, why in zip(others, ("is loaded as 50 x 80", "has the EXIF orientation 8, and had 6"), strict=True):
            with pytest.raises(LabelError, match=why):
                label_of(other)
        return
    assert [label_of(each) for each in (cut, *others)] == [None] * 3
    assert label_of.dropped == 3
    assert [record.getMessage() for record in caplog.records if "o3/00" in record.getMessage()] == caplog.messages[:1]
    assert [label_of(cut) for _ in range(13)] == [None] * 13
    with pytest.raises(relabel.ImageError, match="cannot be decoded"):
        label_of(cut)


def orientation_only_in(kind: str) -> bytes:
    """A square photograph, held upside down, that says so in a block of a kind."""
    stream, picture, block = io.BytesIO(), Image.open(io.BytesIO(jpegs()[1])), Image.Exif()
    block[0x0112] = 3
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
    texts = PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block.tobytes()):8}\n{block.tobytes().hex()}\n")
    options: dict[str, Any] = {
        "XMP of a JPEG": {"format": "JPEG", "xmp": packet},
        "Exif of a PNG": {"format": "PNG", "exif": block},
        "text of a PNG": {"format": "PNG", "pnginfo": texts},
        "Exif of a WebP": {"format": "WEBP", "exif": block},
    }
    picture.save(stream, **options[kind])
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["XMP of a JPEG", "Exif of a PNG", "text of a PNG", "Exif of a WebP"])
def test_a_square_tells_its_frame_by_what_is_left_of_its_exif_wherever_that_stood(tmp_path: Path, kind: str) -> None:
    data = orientation_only_in(kind)
    store = label(write_tar(tmp_path / "a.tar", [("a.png", data)]), tmp_path / "a.zarr", samples_per_shard=None)
    label_of = relabel.LabeledSample(relabel.open(store), TRANSFORM, tickets=False)
    as_decoded = Image.open(io.BytesIO(data)).convert("RGB")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    for image, frame in ((data, "decoded"), (as_decoded, "decoded"), (upright, "upright")):
        assert label_of({"__key__": "a", "png": image})[1].maps.frame == frame  # type: ignore[index]
    # A copy may have been turned before it lost its Exif, or not.
    stream = io.BytesIO()
    Image.fromarray(np.array(as_decoded)).save(stream, "PNG")
    with pytest.raises(InvalidValueError, match="does not tell whether it was turned by it"):
        label_of({"__key__": "a", "png": stream.getvalue()})
