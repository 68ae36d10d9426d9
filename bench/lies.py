"""Pipelines that lie about what they show, or look as if: does one ever lie silently? ``make lies``.

Each is made as a user would make it, then checked with `relabel.check_views`, then run on photographs whose colours say
where they are (`bench.ramps`, which knows nothing of relabel's proof). It must end refused, or proved and right, or be
one of those that nothing can see, which the report says. Prints a table; exits with 1 if one is silent and wrong.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image, ImageOps
from timm.data import create_loader, create_transform
from timm.data.scheduled_sampler import ScheduledBatchSampler, ScheduledTransformDataset
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, SequentialSampler, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import relabel
from bench import lies_steps
from bench.ramps import Scene, judged, pairs

_FLOATS = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
_CROP = (v2.RandomResizedCrop(96, scale=(0.2, 1.0)), v2.RandomHorizontalFlip())
_WRONG = 0.02
"""A view that is further off lies."""


def _after(*steps: Any) -> Callable[[], Any]:
    """A crop that is followed, and more."""
    return lambda: v2.Compose([*_CROP, *_FLOATS, *steps])


def _before(*steps: Any) -> Callable[[], Any]:
    """Steps on Pillow's images, then a crop that is followed."""
    return lambda: v2.Compose([*steps, *_CROP, *_FLOATS])


def _flipping(image: Any) -> Any:
    return F.hflip(image)


class FlippingCrop(v2.RandomResizedCrop):  # type: ignore[misc] # torchvision has no types
    """A child that also mirrors."""

    def forward(self, *inputs: Any) -> Any:
        """Crop and mirror."""
        return F.hflip(super().forward(*inputs))


class ShiftedCropV1(v1.RandomResizedCrop):  # type: ignore[misc] # torchvision has no types
    """A child whose forward crops elsewhere than ``get_params`` says."""

    def forward(self, image: Any) -> Any:
        """Crop, shifted."""
        top, left, height, width = self.get_params(image, list(self.scale), list(self.ratio))
        shifted = min(left + width // 4, image.width - width)
        return F.resized_crop(image, top, shifted, height, width, [96, 96])


class MaskedCropV1(v1.RandomResizedCrop):  # type: ignore[misc] # torchvision has no types
    """A child with parameters of its own, honest: its own get_params, as of masked autoencoders."""

    @staticmethod
    def get_params(img: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:  # noqa: ARG004
        """A square part."""
        side = int(torch.randint(40, min(img.size), ()))
        return int(torch.randint(0, img.height - side, ())), int(torch.randint(0, img.width - side, ())), side, side


class CroppingResize(v2.Resize):  # type: ignore[misc] # torchvision has no types
    """A resize that cuts a border off first."""

    def forward(self, *inputs: Any) -> Any:
        """Cut and resize."""
        (image,) = inputs
        height, width = F.get_size(image)
        return super().forward(F.crop(image, height // 8, width // 8, height * 3 // 4, width * 3 // 4))


class LyingCompose(v2.Compose):  # type: ignore[misc] # torchvision has no types
    """A compose that runs its steps, and mirrors."""

    def forward(self, *inputs: Any) -> Any:
        """All steps, mirrored."""
        return F.hflip(super().forward(*inputs))


class Reversed(v1.Compose):  # type: ignore[misc] # torchvision has no types
    """A compose that runs its steps backwards; of a flip and a crop of the middle it is honest."""

    def __call__(self, image: Any) -> Any:
        """From the last."""
        for step in reversed(self.transforms):
            image = step(image)
        return image


class SometimesFlips(nn.Module):
    """Mirrors one image of four."""

    def forward(self, image: Any) -> Any:
        """The image, perhaps mirrored."""
        return F.hflip(image) if torch.rand(()) < 0.25 else image


class Telling:
    """A transform that says its own view; the truth, or not."""

    def __init__(self, is_true: bool) -> None:
        self.is_true = is_true

    def __call__(self, image: Any) -> tuple[Any, relabel.View]:
        """The left half."""
        box = relabel.Box(0.0, 0.0, 0.5, 1.0) if self.is_true else relabel.Box(0.5, 0.0, 1.0, 1.0)
        return F.resize(F.crop(image, 0, 0, image.height, image.width // 2), [96, 96]), relabel.View(box)


class Two:
    """Two views, given in the other order."""

    def __init__(self, *transforms: Any, is_swapped: bool = False) -> None:
        self.first, self.second = transforms
        self.is_swapped = is_swapped

    def __call__(self, image: Any) -> list[Any]:
        """Both."""
        both = [self.first(image), self.second(image)]
        return both[::-1] if self.is_swapped else both


def _changed(kind: Any, method: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """A followed step with a method of its instance replaced by one that mirrors what comes out."""

    def make() -> Any:
        step = kind(*args, **options)
        own = getattr(step, method)
        setattr(step, method, lambda *given: F.hflip(own(*given)))
        return v2.Compose([step, v2.Resize((96, 96)), *_FLOATS])

    return make


def _hooked(kind: str) -> Callable[[], Any]:
    def make() -> Any:
        step = v2.RandomResizedCrop(96)
        if kind == "forward":
            step.register_forward_hook(lambda _m, _i, output: F.hflip(output))
        else:
            step.register_forward_pre_hook(lambda _m, inputs: (F.hflip(inputs[0]),))
        return v2.Compose([step, *_FLOATS])

    return make


def _bound() -> Any:
    step = v2.Resize((96, 96))
    step.transform = types.MethodType(lambda _self, image, _params: F.hflip(F.resize(image, [96, 96])), step)
    return v2.Compose([step, *_FLOATS])


def _class_changed() -> Any:
    """A class of torchvision's whose method was exchanged, of a copy of the class, so that no other case sees it."""
    kind = type("RandomResizedCrop", (v2.RandomResizedCrop,), {})
    kind.transform = lambda self, image, params: F.hflip(v2.RandomResizedCrop.transform(self, image, params))  # type: ignore[attr-defined]
    kind.__module__ = v2.RandomResizedCrop.__module__
    return v2.Compose([kind(96), *_FLOATS])


class _Scripted(nn.Module):
    def __init__(self, is_lying: bool) -> None:
        super().__init__()
        self.is_lying = is_lying

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flip(-1) if self.is_lying else 1 - (1 - image)


def _jitted(is_lying: bool) -> Callable[[], Any]:
    return lambda: v2.Compose([*_CROP, *_FLOATS, v2.ToPureTensor(), torch.jit.script(_Scripted(is_lying))])


TRANSFORMS: dict[str, Callable[[], Any]] = {
    **lies_steps.TRANSFORMS,
    "child of a crop that mirrors": lambda: v2.Compose([FlippingCrop(96), *_FLOATS]),
    "child of v1's crop that crops elsewhere": lambda: v1.Compose([ShiftedCropV1(96), v1.ToTensor()]),
    "child with get_params of its own (honest)": lambda: v1.Compose([MaskedCropV1(96), v1.ToTensor()]),
    "child of Resize that cuts": lambda: v2.Compose([CroppingResize((96, 96)), *_FLOATS]),
    "child of Compose that mirrors": lambda: LyingCompose([*_CROP, *_FLOATS]),
    "child of Compose, backwards": lambda: Reversed([v1.ToTensor(), v1.CenterCrop(200), v1.RandomHorizontalFlip()]),
    "child of Compose, backwards, a crop": lambda: Reversed([v1.ToTensor(), v1.Resize((96, 96)), v1.CenterCrop(150)]),
    "child of a colour step that mirrors": lambda: v2.Compose(
        [*_CROP, type("Grey", (v2.RandomGrayscale,), {"forward": lambda self, x: F.hflip(x)})(), *_FLOATS]
    ),
    "forward hook": _hooked("forward"),
    "forward pre-hook": _hooked("pre"),
    "forward replaced on the instance": _changed(v2.RandomResizedCrop, "forward", 96),
    "transform replaced on the instance": _changed(v2.Resize, "transform", (96, 96)),
    "v1 forward replaced": _changed(v1.RandomResizedCrop, "forward", 96),
    "a method bound to the instance": _bound,
    "a class's method replaced": _class_changed,
    "lambda that mirrors": _after(lambda image: image.flip(-1)),
    "lambda upside down": _after(lambda image: image.flip(-2)),
    "lambda that changes x and y": _after(lambda image: image.transpose(-1, -2)),
    "lambda that rolls": _after(lambda image: image.roll(12, -1)),
    "lambda that crops a little": _after(lambda image: F.resize(image[:, 3:-3, 3:-3], [96, 96])),
    "lambda that moves no pixel (honest)": _after(lambda image: 1 - (1 - image)),
    "v2.Lambda that mirrors": _after(v2.Lambda(lambda image: image.flip(-1))),
    "v1.Lambda that mirrors, on Pillow's": _before(v1.Lambda(ImageOps.mirror)),
    "v1.Lambda that keeps (honest)": _before(v1.Lambda(lambda image: image.convert("RGB"))),
    "function that mirrors": _before(_flipping),
    "partial that crops": _before(functools.partial(F.center_crop, output_size=[180, 180])),
    "partial that turns": _after(functools.partial(F.rotate, angle=7.0)),
    "partial that scales colours (honest)": _after(functools.partial(torch.mul, other=1.0)),
    "module that mirrors one in four": _after(SometimesFlips()),
    "module in RandomApply": lambda: v2.Compose([*_CROP, v2.RandomApply([SometimesFlips()], 0.5), *_FLOATS]),
    "module in RandomChoice": lambda: v2.Compose(
        [*_CROP, v2.RandomChoice([v2.Identity(), SometimesFlips()]), *_FLOATS]
    ),
    "jit module that mirrors": _jitted(True),
    "jit module that keeps (honest)": _jitted(False),
    "two views, in the other order": lambda: Two(
        _after()(), v2.Compose([v2.CenterCrop(96), *_FLOATS]), is_swapped=True
    ),
    "two views (honest)": lambda: Two(_after()(), _after()()),
    "says its own view (honest)": lambda: v2.Compose([Telling(True), *_FLOATS]),
    "says a view that is not so": lambda: v2.Compose([Telling(False), *_FLOATS]),
    "Pillow's transpose": _before(lambda image: image.transpose(Image.Transpose.ROTATE_90)),
    "Pillow's fit": _before(lambda image: ImageOps.fit(image, (200, 200))),
    "numpy turned back": _before(lambda image: Image.fromarray(np.asarray(image)[:, ::-1].copy())),
    "timm's, with one more step": lambda: v1.Compose(
        [*create_transform(96, is_training=True, color_jitter=0.0, mean=(0,) * 3, std=(1,) * 3).transforms, _flipping]
    ),
    "a rotation by few degrees in a function": _after(lambda image: F.rotate(image, 4.0)),
    "sequential with a liar": lambda: nn.Sequential(
        v2.PILToTensor(), v2.RandomResizedCrop(96), SometimesFlips(), v2.ToDtype(torch.float32, scale=True)
    ),
}


class Outer(Dataset[Any]):
    """A data set around another; `change` is given an item's image."""

    def __init__(self, dataset: Any, change: Callable[[Any], Any]) -> None:
        self.dataset, self.change = dataset, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        image, label, *_ = self.dataset[index]
        return self.change(image), label


class Next(Outer):
    """The image after, with the label of this: a data set that goes on where a file cannot be read."""

    def __getitem__(self, index: int) -> Any:
        return self.dataset[(index + 1) % len(self)][0], self.dataset[index][1]


def _collate(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def collate(items: Any) -> Any:
        images, tickets = default_collate(items)
        return change(images), tickets

    return collate


def _scheduled(labeled: Any) -> Any:
    labeled.transform = v2.Resize((128, 128))
    crops = [v2.Compose([v2.RandomResizedCrop(size), *_FLOATS]) for size in (64, 96)]
    return DataLoader(
        ScheduledTransformDataset(labeled, crops),
        batch_sampler=ScheduledBatchSampler(SequentialSampler(range(8)), [2, 2]),
    )


def _inner_set(labeled: Any) -> Any:
    labeled.dataset.transform = v2.Compose([v2.CenterCrop(96), *_FLOATS])
    return labeled


def _inner_changed(labeled: Any) -> Any:
    labeled.transform.transforms.append(F.hflip)
    return labeled


def _later(labeled: Any) -> Any:
    labeled.transform = v2.Compose([*_CROP, *_FLOATS, lambda image: image.flip(-1)])
    return labeled


def _timm(**more: Any) -> Callable[[Any], Any]:
    plain: dict[str, Any] = {"color_jitter": None, "mean": (0,) * 3, "std": (1,) * 3, "num_workers": 1}
    return lambda labeled: create_loader(
        labeled, (3, 96, 96), 4, is_training=True, device=torch.device("cpu"), **plain | more
    )


def _shuffled_labels(items: Any) -> Any:
    images, tickets = default_collate(items)
    return images, tickets.roll(1, 0)


def _stream(change: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def make(labeled: Any) -> Any:
        paths = [Path(path) for path, _ in labeled.dataset.samples]
        samples = [{"__key__": f"{path.parent.name}/{path.name}", "png": path.read_bytes()} for path in paths]
        label = relabel.LabeledSample(labeled.maps, _after()())
        stages = [lambda: iter(samples), wds.map(label), wds.shuffle(5), wds.batched(4)]
        return wds.DataPipeline(*stages, *([] if change is None else [wds.map_tuple(change, lambda tickets: tickets)]))

    return make


SOURCES: dict[str, Callable[[Any], Any]] = {
    "outer data set that mirrors": lambda labeled: Outer(labeled, _flipping),
    "outer data set that mirrors one in four": lambda labeled: Outer(labeled, SometimesFlips()),
    "outer data set that crops": lambda labeled: Outer(labeled, v2.RandomResizedCrop(96, scale=(0.5, 0.9))),
    "outer data set that scales colours (honest)": lambda labeled: Outer(labeled, lambda image: 1 - (1 - image)),
    "item of the next image": lambda labeled: Next(labeled, _flipping),
    "subset of a lying part": lambda labeled: Subset(ConcatDataset([labeled, Outer(labeled, _flipping)]), range(16)),
    "collate that mirrors": lambda labeled: DataLoader(labeled, 4, collate_fn=_collate(_flipping)),
    "collate that turns a little": lambda labeled: DataLoader(
        labeled, 4, collate_fn=_collate(functools.partial(F.rotate, angle=5.0))
    ),
    "collate that shifts labels": lambda labeled: DataLoader(labeled, 4, collate_fn=_shuffled_labels),
    "collate that resizes (honest)": lambda labeled: DataLoader(labeled, 4, collate_fn=_collate(v2.Resize((80, 80)))),
    "schedule of sizes": _scheduled,
    "transform set on the inner data set": _inner_set,
    "step added to the list later": _inner_changed,
    "lying transform set later": _later,
    "timm's create_loader (honest)": _timm(),
    "timm's create_loader, sizes on top": lambda labeled: Outer(_timm()(labeled).loader.dataset, _flipping),
    "webdataset, then mirrored": _stream(_flipping),
    "webdataset (honest)": _stream(None),
    "workers, then mirrored in a data set": lambda labeled: DataLoader(Outer(labeled, _flipping), 4, num_workers=2),
}

OUT_OF_REACH: dict[str, Callable[[Any], Any]] = {
    "a flip in the training step": lambda batch: (batch[0].flip(-1), batch[1]),
    "a mix in the training step": lambda batch: (batch[0].roll(1, 0), batch[1]),
}
"""What happens to a batch behind everything that can be looked at; the report says so."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pipeline ended."""

    name: str
    how: str
    said: str = ""


def ending(name: str, scene: Scene, draws: int) -> Ending:
    """Make one pipeline, check it, and look at what it shows."""
    batches: list[Any] = []
    change: Callable[[], None] | None = None
    if name in lies_steps.LATER:
        transform, change = lies_steps.LATER[name]()
    else:
        transform = TRANSFORMS.get(name, _after())()
    try:
        labeled = relabel.Labeled(ImageFolder(scene.photos, transform), scene.maps)
        source = SOURCES.get(name, lambda labeled: labeled)(labeled)
        report = relabel.check_views(source)
        if change is not None:
            change()
        while sum(len(images) for images, _ in batches) < draws:
            batches += [pairs(batch) for batch in (source if hasattr(source, "batch_size") else _items(source))]
    except relabel.RelabelError as error:
        return Ending(name, "refused", str(error))
    if name in OUT_OF_REACH:
        is_named = "the training step does" in str(report)
        return Ending(name, "named as out of reach" if is_named else "silent and wrong", str(report))
    found = [each for images, tickets in batches for each in judged(scene, images, tickets)]
    wrong = sum(each.is_mirrored or each.error > _WRONG for each in found)
    if name in lies_steps.OUT_OF_REACH:
        return Ending(name, "named as out of reach", lies_steps.OUT_OF_REACH[name])
    if wrong or not found:
        return Ending(name, "silent and wrong", f"{wrong} of {len(found)}")
    return Ending(name, "proved right", f"{len(found)} draws, at most {max(each.error for each in found):.4f} off")


def _items(source: Any) -> Any:
    if isinstance(source, torch.utils.data.IterableDataset) or not hasattr(source, "__getitem__"):
        return source
    return (source[index] for index in range(len(source)))


def campaign(scene: Scene, draws: int, seed: int, names: list[str] | None = None) -> list[Ending]:
    """All of them, or some."""
    endings = []
    for name in names or [*TRANSFORMS, *lies_steps.LATER, *SOURCES, *OUT_OF_REACH]:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - transforms draw from it
        torch.manual_seed(seed)
        endings.append(ending(name, scene, draws))
        print(table(endings[-1:]).splitlines()[0], file=sys.stderr, flush=True)
    return endings


def table(endings: list[Ending]) -> str:
    """A line each, and how many ended how."""
    lines = [f"{each.name:44} {each.how:22} {each.said.splitlines()[0][:110] if each.said else ''}" for each in endings]
    kinds = ("proved right", "refused", "named as out of reach", "silent and wrong")
    counts = ", ".join(f"{sum(each.how == kind for each in endings)} {kind}" for kind in kinds)
    return "\n".join([*lines, f"{len(endings)} pipelines: {counts}"])


def main() -> None:
    """Run, and print a table or JSON; exits with 1 if one is silent and wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=64, help="of each that is accepted (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="relabel-lies-") as folder:
        endings = campaign(Scene.made(Path(folder)), options.draws, options.seed)
    print(json.dumps([asdict(each) for each in endings]) if options.json else table(endings))
    sys.exit(any(each.how == "silent and wrong" for each in endings))


if __name__ == "__main__":
    main()
