"""What it costs labels to ignore that an augmentation moves pixels, and what following it leaves.

``python -m studies.augment_cost STORE IMAGES --teacher NAME --checkpoint FILE``

Random crops of photographs are augmented with the parts that change colours off. Where every pixel came from is read
from an image of the same size whose colours are its places, put through the same draws: neither the tracker nor the
pooling has a part in it. The true label is the softmax of the mean, over the pixels that show the photograph, of the
stored map at the places that they came from; of a token, over its pixels, if half of them show the photograph.

KL(the true label || the one told) in nats, and how often both name the same class; with a teacher also KL(its answer to
the augmented pixels || each label). "none" is the floor: RoIAlign takes fewer samples than there are pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment
from torch import Tensor, nn
from torchvision.transforms import autoaugment as v1_autoaugment
from torchvision.transforms import transforms as v1

import relabel
from bench import measure
from bench.sampling import sample
from relabel.progress import Progress
from relabel.teacher import Teacher, TeacherSpec, load_teacher
from relabel.worth.fidelity import divergence

_SIDE, _TOKENS, _FINE = 224, 14, 4
"""Pixels of a crop, tokens a side, and places a token's side: each is the mean of 4 x 4 pixels."""
_MOVING = ("shear", "translate", "rotate")
Fill = tuple[int, int, int]
Step = Callable[[Any], Any]


def _timm(config: str, make: Callable[..., Step]) -> Callable[[Fill], Step]:
    return lambda fill: make(config, {"img_mean": fill, "translate_const": 100})


ROWS: dict[str, Callable[[Fill], Step]] = {
    "none": lambda _: nn.Identity(),
    "timm rand-m9-mstd0.5-inc1": _timm("rand-m9-mstd0.5-inc1", auto_augment.rand_augment_transform),
    "timm rand-m7-mstd0.5-inc1": _timm("rand-m7-mstd0.5-inc1", auto_augment.rand_augment_transform),
    "timm rand-m6-mstd0.5-inc1": _timm("rand-m6-mstd0.5-inc1", auto_augment.rand_augment_transform),
    "timm original-mstd0.5": _timm("original-mstd0.5", auto_augment.auto_augment_transform),
    "torchvision RandAugment(2, 9)": lambda fill: v1_autoaugment.RandAugment(fill=list(fill)),
    "torchvision TrivialAugmentWide()": lambda fill: v1_autoaugment.TrivialAugmentWide(fill=list(fill)),
    "torchvision AutoAugment()": lambda fill: v1_autoaugment.AutoAugment(fill=list(fill)),
    "RandomRotation(15)": lambda fill: v1.RandomRotation(15, fill=list(fill)),
    "RandomPerspective()": lambda fill: v1.RandomPerspective(fill=list(fill)),
    "ElasticTransform()": lambda fill: v1.ElasticTransform(fill=list(fill)),
    "torchvision AugMix()": lambda fill: v1_autoaugment.AugMix(fill=list(fill)),
    "timm augmix-m3-w3": _timm("augmix-m3-w3", auto_augment.augment_and_mix_transform),
}
"""Augmentations by what they are called, from the colour that fills what they uncover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One augmentation: labels that ignore it, and that follow it, against the true ones; means over its draws.

    `far` is the share of tokens told further than a token's side from where they are. `pixels` is the mean KL from the
    teacher's answer to the augmented pixels, NaN without a teacher.
    """

    augmentation: str
    told: str
    draws: int
    displaced: float
    far: float
    image_kl: float
    image_same: float
    token_kl: float
    token_same: float
    pixels: float


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One crop: its row of the store, what is told of it, where it is from, and what it looks like.

    `places` are (56, 56, 2), fractions of the photograph; `shown` (56, 56) says where it is to be seen; `told` is by
    "ignored" and "followed", where that can be.
    """

    row: int
    told: dict[str, relabel.View]
    places: Tensor
    shown: Tensor
    picture: Image.Image


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    maps, images = relabel.open(options.store), sample(options.images, options.draws, seed=0)
    photographs = [Image.open(io.BytesIO(image.data)).convert("RGB") for image in images]
    rows = maps.rows([image.key for image in images]).tolist()
    teacher = _teacher(options) if options.teacher else None
    names = [name for name in ROWS if not options.only or any(part in name for part in options.only)]
    lines: list[Line] = []
    with Progress("augmenting", len(names) * options.draws, unit="crops") as progress:
        for name in names:
            drawn = []
            for number in range(options.draws):
                photograph = number % len(rows)
                drawn += _draw(ROWS[name], photographs[photograph], rows[photograph], number)
                progress.advance(1)
            lines += _lines(name, drawn, maps, teacher)
    if options.json:
        print(measure.to_json({"lines": [dataclasses.asdict(line) for line in lines]}))
    else:
        print(measure.aligned([_HEAD, *map(_cells, lines)]))


def _draw(make: Callable[[Fill], Step], photograph: Image.Image, row: int, seed: int) -> list[Draw]:
    """One draw; none where the augmentation itself fails."""
    crop = [v1.RandomResizedCrop(_SIDE), v1.RandomHorizontalFlip()]
    _, ignored = _seeded(relabel.TrackedTransform(v1.Compose(crop)), photograph, seed)
    try:
        _, followed = _seeded(relabel.TrackedTransform(v1.Compose([*crop, make((0, 0, 0))])), photograph, seed)
    except ValueError as error:
        # timm posterizes to 0 bits at times, which Pillow refuses.
        if "bits must be" not in str(error):
            raise
        return []
    told = {"ignored": ignored} | ({"followed": followed} if followed.is_exact else {})
    with _colours_off():
        # Grey, as timm fills; black where places are read, as no place is.
        picture, coded = (
            _seeded(v1.Compose([*crop, _without_colours(make(fill))]), image, seed)
            for fill, image in (((124, 116, 104), photograph), ((0, 0, 0), _position_image(photograph.size)))
        )
    colours = torch.from_numpy(np.array(coded)).permute(2, 0, 1).double() / 255
    x, y, _ = nn.functional.avg_pool2d(colours, _SIDE // (_TOKENS * _FINE))
    shown = nn.functional.avg_pool2d((colours[2:] > 0.97).double(), _SIDE // (_TOKENS * _FINE))[0] == 1
    return [Draw(row, told, torch.stack([x, y], dim=2), shown, picture)]


def _seeded(transform: Callable[[Any], Any], image: Image.Image, seed: int) -> Any:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm draws from it
    torch.manual_seed(seed)
    return transform(image)


def _position_image(size: tuple[int, int]) -> Image.Image:
    """Red is x, green is y, blue says that this is the image."""
    width, height = size
    pixels: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)
    pixels[..., 0] = np.round((np.arange(width) + 0.5) / width * 255)
    pixels[..., 1] = np.round((np.arange(height) + 0.5) / height * 255)[:, None]
    return Image.fromarray(pixels)


@contextmanager
def _colours_off() -> Iterator[None]:
    """Of torchvision's auto-augments only what moves pixels is done; all is drawn."""
    original = v1_autoaugment._apply_op

    def moving(image: Any, name: str, *rest: Any, **named: Any) -> Any:
        return original(image, name, *rest, **named) if name.lower().startswith(_MOVING) else image

    v1_autoaugment._apply_op = moving
    try:
        yield
    finally:
        v1_autoaugment._apply_op = original


def _without_colours(step: Any) -> Step:
    """The same of timm's."""
    policy = getattr(step, "policy", None)
    operations = [each for some in policy for each in some] if isinstance(policy, list) else getattr(step, "ops", [])
    for operation in operations:
        if not operation.name.lower().startswith(_MOVING):
            operation.aug_fn = lambda image, *_, **__: image
    kept: Step = step
    return kept


def _lines(name: str, drawn: list[Draw], maps: relabel.LabelMaps, teacher: Teacher | None) -> Iterator[Line]:
    # An augmentation that is followed or not as it comes would be compared with itself only.
    told = [way for way in ("ignored", "followed") if all(way in draw.told for draw in drawn)]
    answers = None if teacher is None else _answers(teacher, [draw.picture for draw in drawn])
    tallies: dict[str, list[list[float]]] = {way: [] for way in told}
    for number, draw in enumerate(drawn):
        if draw.shown.double().mean() < _LEAST_SHOWN:
            continue
        stored = maps[[draw.row]]
        image, tokens, counted = _truth(stored, draw)
        for way in told:
            views = relabel.Views.of([draw.told[way]])
            label = stored.pool(views, uncovered="nearest")
            of_tokens = stored.pool(views, _TOKENS, uncovered="nearest").flatten(2)[0].T[counted]
            away = _displaced(draw, draw.told[way])[counted]
            tallies[way].append(
                [
                    float(away.mean()),
                    float((away > 1 / _TOKENS).double().mean()),
                    float(divergence(image, label)),
                    float(image.argmax() == label.argmax()),
                    float(divergence(tokens[counted], of_tokens).mean()),
                    float((tokens[counted].argmax(1) == of_tokens.argmax(1)).double().mean()),
                    float("nan") if answers is None else float(divergence(answers[number : number + 1], label)),
                ]
            )
    for way, tally in tallies.items():
        means = torch.tensor(tally, dtype=torch.float64).mean(0).tolist()
        fields = ("displaced", "far", "image_kl", "image_same", "token_kl", "token_same", "pixels")
        yield Line(augmentation=name, told=way, draws=len(tally), **dict(zip(fields, means, strict=True)))


_LEAST_SHOWN = 0.1
"""Of a crop; nearly empty ones have no label to speak of."""


def _truth(stored: relabel.ScoreMap, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """The true labels (1, C) and (196, C), and which tokens are seen enough to have one (196,)."""
    maps = stored.decoded()
    if maps.profile is None:
        raise ValueError("the store keeps no profile")
    scores = torch.cat([maps.planes, maps.rest[:, None]], dim=1).double()
    # grid_sample's places run from -1 to 1 over the map, and beyond its outer cells' centres it repeats them.
    grid = draw.places[None] * 2 - 1
    at_places = nn.functional.grid_sample(scores, grid, padding_mode="border", align_corners=False)[0]
    by_token = (at_places * draw.shown).reshape(-1, _TOKENS, _FINE, _TOKENS, _FINE).sum((2, 4)).flatten(1).T
    seen = draw.shown.double().reshape(_TOKENS, _FINE, _TOKENS, _FINE).sum((1, 3)).flatten()
    means = torch.cat([by_token / seen.clamp(min=1)[:, None], by_token.sum(0, keepdim=True) / seen.sum()])
    tail = means[:, -1:] + maps.profile.double()
    every = tail[:, -1:].expand(-1, maps.num_classes).clone()
    stored_scores = torch.cat([means[:, :-1], tail[:, :-1]], dim=1)
    labels = every.scatter(1, maps.classes.long().expand(len(every), -1), stored_scores).softmax(1)
    return labels[-1:], labels[:-1], seen >= _FINE * _FINE / 2


def _displaced(draw: Draw, view: relabel.View) -> Tensor:
    """(196,), how far from where it is each token is told, in sides of the crop."""
    numbers = (torch.arange(_TOKENS * _FINE) + 0.5) / (_TOKENS * _FINE)
    v, u = torch.meshgrid(numbers, numbers, indexing="ij")
    told = (
        torch.stack([u, v, torch.ones_like(u)], dim=2).double() @ torch.tensor(view.as_matrix(), dtype=torch.float64).T
    )
    height, width = draw.told["ignored"].box.size_hw
    away: Tensor = torch.linalg.vector_norm((draw.places - told) / torch.tensor([width, height]), dim=2) * draw.shown
    by_token: Tensor = away.reshape(_TOKENS, _FINE, _TOKENS, _FINE).sum((1, 3)).flatten()
    count = draw.shown.double().reshape(_TOKENS, _FINE, _TOKENS, _FINE).sum((1, 3)).flatten()
    mean: Tensor = by_token / count.clamp(min=1)
    return mean


def _answers(teacher: Teacher, pictures: list[Image.Image]) -> Tensor:
    """(n, C), what the teacher says of the pixels of whole crops."""
    labels = []
    for first in range(0, len(pictures), 16):
        pixels = torch.stack(
            [torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in pictures[first : first + 16]]
        )
        labels.append(teacher(pixels).mean((2, 3)).softmax(1))
    return torch.cat(labels)


def _teacher(options: argparse.Namespace) -> Teacher:
    size_hw = (_SIDE, _SIDE)
    return load_teacher(TeacherSpec(name=options.teacher, checkpoint=options.checkpoint, image_size_hw=size_hw))


_HEAD = (
    "augmentation", "labels", "draws", "displaced", "> 1 token", "image KL", "same", "token KL", "same", "from pixels",
)  # fmt: skip


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.augmentation,
        line.told,
        str(line.draws),
        f"{line.displaced:.3f}",
        f"{line.far:.0%}",
        f"{line.image_kl:.4f}",
        f"{line.image_same:.1%}",
        f"{line.token_kl:.3f}",
        f"{line.token_same:.1%}",
        f"{line.pixels:.3f}",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", help="labels of the images")
    parser.add_argument("images", help="a folder, or webdataset tars, as `relabel generate` takes them")
    parser.add_argument("--teacher", help="that made them, to be asked about the augmented pixels [it is not]")
    parser.add_argument("--checkpoint", type=Path, help="its weights")
    parser.add_argument("--draws", type=int, default=384, help="crops a line [%(default)s]")
    parser.add_argument("--only", nargs="+", help="parts of the names of augmentations [all]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
