"""Every pipeline that is followed, in its own trainer's loader: is what is told what is shown? ``make views``.

Photographs whose colours say where they are go through the transforms of timm, torchvision's references, DeiT, LV-ViT,
Hugging Face, webdataset, Lightning, albumentations and kornia, in workers, some hundred draws each. Colour steps are
left out, for the colours are read. Prints a table: pipeline, draws, errors of boxes and maps, wrong mirrorings, labels;
exits with 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import datasets
import kornia.augmentation as K
import numpy as np
import torch
import webdataset as wds
from albumentations.pytorch import ToTensorV2
from timm.data import create_loader, create_transform
from timm.data.auto_augment import RandAugment, rand_augment_ops
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

import relabel
from bench.ramps import Judged, Scene, judged, pairs

BOX, MAP, LABEL = 0.01, 0.02, 1e-5
"""What a box and a map may be off, in fractions of the photograph, and a pooled ticket from the label at its view."""
_MOVES = ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"]
_FLOATS = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batches = Iterator[tuple[Any, Any]]


def _v1(*steps: Any) -> Callable[[], Any]:
    return lambda: v1.Compose([*steps, v1.ToTensor()])


def _v2(*steps: Any) -> Callable[[], Any]:
    return lambda: v2.Compose([*steps, *_FLOATS])


def _timm(size: int = 96, **options: Any) -> Callable[[], Any]:
    plain = {"color_jitter": None, "mean": (0.0,) * 3, "std": (1.0,) * 3, "is_training": True}
    return lambda: create_transform(size, **{**plain, **options})


def _moving(count: int) -> Any:
    return RandAugment(
        rand_augment_ops(9, hparams={"translate_pct": 0.1, "img_mean": (0, 0, 0)}, transforms=_MOVES), count
    )


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "timm": _timm(),
    "timm, vertical flip, random resampling": _timm(vflip=0.5, interpolation="random", scale=(0.3, 1.0)),
    "timm, erasing": _timm(re_prob=0.5, re_mode="const"),
    "timm rkrc": _timm(train_crop_mode="rkrc", hflip=0.5),
    "timm rkrr": _timm(train_crop_mode="rkrr", hflip=0.5),
    "timm, no augmentation": _timm(no_aug=True),
    "timm, evaluation": _timm(is_training=False, crop_pct=0.8),
    "timm, evaluation, squash": _timm(is_training=False, crop_mode="squash", crop_pct=0.9),
    "timm, evaluation, border": _timm(is_training=False, crop_mode="border", crop_pct=0.9),
    "timm RandAugment, its moves": _v1(v1.RandomResizedCrop(96), v1.RandomHorizontalFlip(), _moving(2)),
    "LV-ViT, its moves": _v1(v1.RandomResizedCrop(112, interpolation=3), v1.RandomHorizontalFlip(), _moving(1)),
    "DeiT": _timm(scale=(0.08, 1.0), interpolation="bicubic"),
    "DeiT of CIFAR": _v1(v1.RandomCrop(96, padding=4), v1.RandomHorizontalFlip()),
    "DeiT III": _v1(v1.Resize(96, interpolation=3), v1.RandomCrop(96, padding=4, padding_mode="reflect"),
                    v1.RandomHorizontalFlip()),
    "torchvision v1": _v1(v1.RandomResizedCrop(96, antialias=True), v1.RandomHorizontalFlip(0.5)),
    "torchvision v1, evaluation": _v1(v1.Resize(128), v1.CenterCrop(96)),
    "torchvision v1 on tensors": lambda: v1.Compose(
        [v1.PILToTensor(), v1.RandomResizedCrop(96, antialias=True), v1.RandomHorizontalFlip(),
         v1.ConvertImageDtype(torch.float)]
    ),
    "torchvision v2": _v2(v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()),
    "torchvision v2 on tensors": lambda: nn.Sequential(
        v2.PILToTensor(), v2.RandomResizedCrop(96), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)
    ),
    "torchvision v2, ScaleJitter": _v2(
        # Not down to a tenth: of twelve pixels the colours themselves are not known to a hundredth.
        v2.ScaleJitter((128, 128), scale_range=(0.3, 2.0)), v2.RandomCrop(96, pad_if_needed=True)
    ),
    "torchvision v2, sizes": _v2(v2.RandomShortestSize([110, 130]), v2.RandomCrop(96), v2.RandomHorizontalFlip()),
    "torchvision v2, ZoomOut": _v2(v2.RandomZoomOut(side_range=(1.0, 2.0)), v2.RandomResizedCrop(96, (0.6, 1.0))),
    "torchvision v2, rotation": _v2(v2.RandomResizedCrop(96), v2.RandomRotation(25), v2.RandomHorizontalFlip()),
    "torchvision v2, affine": _v2(v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10), v2.RandomResizedCrop(96)),
    "torchvision v1, affine": _v1(v1.RandomHorizontalFlip(), v1.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10),
                                  v1.RandomResizedCrop(96)),
    "torchvision v2, choices": _v2(
        v2.RandomApply([v2.RandomResizedCrop(96)], 0.5),
        v2.RandomChoice([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0), v2.RandomRotation(10)]),
        v2.Resize((96, 96)),
    ),
    "torchvision, weights' own": lambda: v2.Compose(
        [_of_weights(), v2.Normalize([-m / s for m, s in zip(_MEAN, _STD, strict=True)], [1 / s for s in _STD])]
    ),
    "Hugging Face's example": _v1(v1.RandomResizedCrop(96), v1.RandomHorizontalFlip()),
    "two views": lambda: TwoViews(_v2(v2.RandomResizedCrop(96), v2.RandomHorizontalFlip())()),
    "FiveCrop": lambda: v2.Compose([v2.Resize(128), v2.FiveCrop(96), *_FLOATS]),
    "albumentations": lambda: A.Compose(
        [A.RandomResizedCrop((96, 96)), A.HorizontalFlip(), A.VerticalFlip(), A.ToFloat(255), ToTensorV2()]
    ),
    "albumentations, affine": lambda: A.Compose(
        [A.Affine(rotate=(-20, 20), scale=(0.8, 1.2), p=0.8), A.RandomResizedCrop((96, 96)), A.D4(),
         A.ToFloat(255), ToTensorV2()]
    ),
}  # fmt: skip


def _of_weights() -> Any:
    """What torchvision's weights come with."""
    return ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=96, resize_size=128)


class TwoViews:
    """Two draws of one transform, as trainers of pairs have it."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> list[Any]:
        """Both."""
        return [self.transform(image), self.transform(image)]


@dataclass(slots=True)
class Tally:
    """What was seen of one pipeline."""

    draws: int = 0
    untold: int = 0
    box: float = 0.0
    map: float = 0.0
    mirrored: int = 0
    label: float = 0.0
    seen_label: float = 0.0
    refused: str = ""

    def add(self, each: Judged) -> None:
        """Count one output."""
        self.mirrored += each.is_mirrored
        self.label, self.seen_label = max(self.label, each.label), max(self.seen_label, each.seen_label)
        if each.is_turned:
            self.map = max(self.map, each.error)
        else:
            self.box = max(self.box, each.error)

    @property
    def is_good(self) -> bool:
        """Whether nothing is further off than it may be."""
        is_near = self.box <= BOX and self.map <= MAP and self.label <= LABEL and not self.mirrored
        return is_near and not self.refused and self.draws > 0


def _many(labeled: Any, draws: int) -> Any:
    return Subset(ConcatDataset([labeled] * math.ceil(draws / len(labeled))), range(draws))


def _folder(transform: Callable[[], Any], scene: Scene, draws: int, **options: Any) -> Batches:
    labeled = relabel.Labeled(ImageFolder(scene.photos, transform()), scene.maps)
    loader = DataLoader(_many(labeled, draws), 8, shuffle=True, num_workers=2, **options)
    return map(pairs, loader)


def _timm_loader(scene: Scene, draws: int) -> Batches:
    labeled = relabel.Labeled(ImageFolder(scene.photos), scene.maps)
    given: Any = labeled
    options: dict[str, Any] = {"scale": (0.2, 1.0), "hflip": 0.5, "vflip": 0.5, "color_jitter": None, "num_workers": 2}
    loader = create_loader(
        given, (3, 96, 96), 4, is_training=True, mean=(0,) * 3, std=(1,) * 3, device=torch.device("cpu"), **options
    )
    for _ in range(math.ceil(draws / 8)):
        yield from map(pairs, loader)


def _hugging_face(scene: Scene, draws: int) -> Batches:
    cache = str(scene.photos.parent)
    rows = datasets.load_dataset("imagefolder", data_dir=str(scene.photos), split="train", cache_dir=cache)
    labeled = relabel.Labeled(rows, scene.maps, transform=TRANSFORMS["Hugging Face's example"]())
    return map(pairs, DataLoader(_many(labeled, draws), 8, num_workers=2))


def _webdataset(scene: Scene, draws: int) -> Batches:
    tar = scene.photos.parent / "photos.tar"
    with tarfile.open(tar, "w") as file:
        for key in scene.keys:
            file.add(scene.photos / key, key)
    sample = relabel.LabeledSample(scene.maps, TRANSFORMS["torchvision v2"](), key=lambda key: f"{key}.png")
    stream = wds.WebDataset(str(tar), shardshuffle=False).repeat().map(sample)
    stream = stream.batched(4).unbatched().shuffle(10).batched(8)
    loader = wds.WebLoader(stream, batch_size=None, num_workers=1).with_epoch(math.ceil(draws / 8))
    return map(pairs, loader)


def _kornia(scene: Scene, draws: int) -> Batches:
    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(), K.RandomAffine(15, (0.1, 0.1), (0.8, 1.2)), data_keys=["input"]
    )
    for images, tickets in _folder(TRANSFORMS["torchvision v2"], scene, draws):
        moved = augment(images)
        matrix = torch.as_tensor(augment.transform_matrix)
        yield moved, relabel.moved(tickets, matrix, (96, 96), (96, 96))


LOADERS: dict[str, Callable[[Scene, int], Batches]] = {
    "timm create_loader": _timm_loader,
    "Hugging Face datasets": _hugging_face,
    "webdataset, batched and shuffled": _webdataset,
    "kornia on batches": _kornia,
    "Lightning: spawned workers that stay": lambda scene, draws: _folder(
        TRANSFORMS["torchvision v1"], scene, draws, persistent_workers=True, multiprocessing_context="spawn"
    ),
}


def run(scene: Scene, name: str, draws: int, seed: int) -> Tally:
    """One pipeline."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - transforms draw from it
    torch.manual_seed(seed)
    tally = Tally()
    try:
        batches = LOADERS[name](scene, draws) if name in LOADERS else _folder(TRANSFORMS[name], scene, draws)
        for images, tickets in batches:
            found = list(judged(scene, images, tickets))
            tally.draws += len(images)
            tally.untold += len(images) - len(found)
            for each in found:
                tally.add(each)
            if tally.draws >= draws:
                break
    except relabel.RelabelError as error:
        tally.refused = str(error)
    return tally


_HEADS = (("draws", 5), ("untold", 6), ("box", 7), ("map", 7), ("mirrored", 8), ("label", 8), ("at seen", 8))


def table(tallies: dict[str, Tally]) -> str:
    """A line a pipeline."""
    heads = [f"{head:>{width}}" for head, width in _HEADS]
    lines = [f"{'pipeline':40} {' '.join(heads)}"]
    for name, each in tallies.items():
        figures = f"{each.draws:5} {each.untold:6} {each.box:7.4f} {each.map:7.4f} {each.mirrored:8}"
        mark = "" if each.is_good else f"  !! {each.refused[:120]}"
        lines.append(f"{name:40} {figures} {each.label:8.1e} {each.seen_label:8.4f}{mark}")
    wrong = sum(not each.is_good for each in tallies.values())
    lines.append(f"{len(tallies)} pipelines, {sum(each.draws for each in tallies.values())} draws, {wrong} wrong")
    return "\n".join(lines)


def main() -> None:
    """Draw, and print a table or JSON; exits with 1 if something was told wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="of each pipeline (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="pipelines with this in their name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="relabel-views-") as folder:
        scene = Scene.made(Path(folder))
        names = [name for name in (*TRANSFORMS, *LOADERS) if options.only in name]
        tallies = {}
        for name in names:
            tallies[name] = run(scene, name, options.draws, options.seed)
            print(table({name: tallies[name]}).splitlines()[1], file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"seed": options.seed, "pipelines": {name: asdict(each) for name, each in tallies.items()}}))
    else:
        print(table(tallies))
        print(f"seed {options.seed}, {time.perf_counter() - started:.0f} s")
    sys.exit(any(not each.is_good for each in tallies.values()))


if __name__ == "__main__":
    main()
