"""The whole path on real input, in minutes on a CPU: scenes, a teacher, its store, the labels of 20,000 crops.

Run ``make demo``, or ``python pipelines/demo.py --help``. Nothing is downloaded: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

import relabel

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import scenes
from relabel.report import LabeledCrop, LabeledImage, draw_labels

TEACHER = "test_resnet"
IMAGE_SIZE_HW = (256, 256)
TEACHER_SCANS, TEACHER_SCENES = 1197, 2400
TARS = 6
CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
FLOOR = 1e-4
OUTPUTS = ("scenes", "teacher.safetensors", "labels.zarr", "labels.png")


def main() -> None:
    """Run the demo."""
    options = _options()
    out: Path = options.out
    started = time.perf_counter()
    _prepare(out)
    print(f"relabel {relabel.__version__}: labels of crops on real handwriting; everything goes to {out}/\n")

    with _step("1/6  compose scenes"):
        taught, labeled, pattern = _compose(options.scenes, options.seed, out)
    with _step(f"2/6  train a teacher, timm's {TEACHER}"):
        _train(taught, options.epochs, options.seed, out / "teacher.safetensors")
    store = str(out / "labels.zarr")
    with _step("3/6  label every scene once"):
        size = [str(side) for side in IMAGE_SIZE_HW]
        _relabel("generate", pattern, store, "--teacher", TEACHER, "--checkpoint", str(out / "teacher.safetensors"),
                 "--image-size", *size, "--batch-size", "32")  # fmt: skip
    with _step("4/6  check every byte of the store"):
        _relabel("verify", "shards", store, "--images", pattern)
    with _step(f"5/6  ask for the labels of {options.crops:,} random crops"):
        table = _compare(labeled, store, options.crops, options.seed)
    with _step("6/6  draw four scenes"):
        _draw(labeled, store, options.seed, out / "labels.png")
    print(table)
    print(f"\npicture: {out / 'labels.png'}; {time.perf_counter() - started:.0f} s in all")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="output folder [%(default)s]")
    parser.add_argument("--scenes", type=int, default=1200, help="scenes to label [%(default)s]")
    parser.add_argument("--crops", type=int, default=20_000, help="random crops to compare [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random [%(default)s]")
    parser.add_argument("--epochs", type=int, default=18, help="epochs of the teacher's training [%(default)s]")
    options = parser.parse_args()
    if options.scenes < TARS or min(options.crops, options.epochs) < 1 or options.seed < 0:
        parser.error(f"needs at least {TARS} scenes, one crop, one epoch and a seed that is not negative")
    return options


def _prepare(out: Path) -> None:
    """Make the output folder, without what an earlier demo left in it; another's files are not touched."""
    marker = out / ".made-by-relabel-demo"
    taken = [name for name in OUTPUTS if (out / name).exists()]
    if taken and not marker.exists():
        sys.exit(f"{out} holds {', '.join(taken)} that no demo made; give another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for name in taken:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(title, flush=True)
    started = time.perf_counter()
    yield
    print(f"     {time.perf_counter() - started:.0f} s\n", flush=True)


def _say(text: str) -> None:
    print(f"     {text}", flush=True)


def _relabel(*arguments: str) -> None:
    """Run the command line tool, as a user would."""
    shown = " ".join(f"'{a}'" if "{" in a else a for a in arguments)
    _say(f"$ relabel {shown}")
    done = subprocess.run([sys.executable, "-m", "relabel", *arguments, "--quiet"], stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        _say(line)
    if done.returncode:
        sys.exit(f"relabel {arguments[0]} ended with exit code {done.returncode}")


def _compose(count: int, seed: int, out: Path) -> tuple[list[scenes.Scene], list[scenes.Scene], str]:
    """The teacher's scenes and the scenes to label, of different scans; the latter as tars, by their pattern."""
    known, unknown = scenes.load_scans().split(TEACHER_SCANS, seed=seed)
    taught = scenes.compose(known, TEACHER_SCENES, scenes.TAUGHT, seed=2 * seed, prefix="teacher/")
    labeled = scenes.compose(unknown, count, scenes.LABELED, seed=2 * seed + 1, prefix="scene")
    pattern = scenes.write_tars(labeled, out / "scenes", TARS)
    digits = sum(len(scene.digits) for scene in labeled)
    several = sum(len({digit.label for digit in scene.digits}) > 1 for scene in labeled) / count
    _say(f"for the teacher's training: {len(taught)} scenes of {_range(scenes.TAUGHT)}, from {len(known)} scans")
    _say(
        f"to label: {count} scenes of {_range(scenes.LABELED)} ({digits} in all), from the other {len(unknown)} scans,"
    )
    _say(f"which the teacher never sees; {several:.0%} of these scenes hold several classes")
    _say("each scene has one ground truth label, as in ImageNet: the class of its largest digit")
    return taught, labeled, pattern


def _range(layout: scenes.Layout) -> str:
    return f"{layout.count[0]} to {layout.count[1]} digits"


def _train(taught: list[scenes.Scene], epochs: int, seed: int, checkpoint: Path) -> None:
    """Train on random crops of the scenes, each with its scene's one label, as ImageNet's teachers are trained."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(TEACHER, num_classes=scenes.NUM_CLASSES)
    model.to(memory_format=torch.channels_last)
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) * 255 for name in ("mean", "std"))
    images = [_pixels(scene) for scene in taught]
    labels = torch.tensor([scene.label for scene in taught])
    batch = 32
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        # Small crops first, which is cheap; larger ones at the end, since the teacher will see large images.
        side = 64 if epoch < epochs * 2 // 3 else 112
        losses = []
        for chosen in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            crops = torch.stack([_training_crop(images[i], side) for i in chosen.tolist()])
            normalised = ((crops - mean) / std).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(normalised), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % max(1, epochs // 4) == 0:
            _say(f"epoch {epoch + 1} of {epochs}, crops of {side} pixels: loss {np.mean(losses):.2f}")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, checkpoint)


def _pixels(scene: scenes.Scene) -> Tensor:
    return torch.from_numpy(scene.pixels).permute(2, 0, 1).contiguous()


def _training_crop(image: Tensor, side: int) -> Tensor:
    # The labelled scenes will be squashed to a square, so the teacher learns digits of stretched shapes.
    top, left, height, width = RandomResizedCrop.get_params(image, [0.1, 0.7], [0.5, 2.0])
    crop: Tensor = F.resized_crop(image, top, left, height, width, [side, side], antialias=True)
    return crop


def _compare(labeled: list[scenes.Scene], store: str, count: int, seed: int) -> str:
    """How far several labels of random crops are from what the crops truly contain, as a table."""
    maps = relabel.open(store)
    owners, boxes, empty = random_crops(labeled, count, seed)
    truth = torch.from_numpy(scenes.content([labeled[i] for i in owners], boxes.double().numpy()))
    keys = [labeled[i].key for i in owners]
    one_hot = nn.functional.one_hot(torch.tensor([labeled[i].label for i in owners]), scenes.NUM_CLASSES).double()
    whole = torch.tensor([relabel.Box.whole().xyxy]).expand(count, 4)
    started = time.perf_counter()
    pooled = _pool(maps, keys, boxes)
    seconds = time.perf_counter() - started
    _say(
        f"{maps.grid} cells a map; {seconds / count * 1e6:.0f} us a label, reading included. {empty:,} more crops held"
    )
    _say("no digit and were drawn again: there is no truth to compare with.")
    smooth = 0.9 * one_hot + 0.1 / scenes.NUM_CLASSES
    labels = {
        "the image's one-hot label": one_hot,
        "the same, smoothed by 0.1": smooth,
        "the map pooled over the whole image": _pool(maps, keys, whole),
        "crop label, x and y swapped (as published)": _pool(maps, keys, boxes[:, [1, 0, 3, 2]]),
        "crop label (relabel)": pooled,
    }
    return _table({name: distances(truth, label.double()) for name, label in labels.items()}, count)


def random_crops(labeled: list[scenes.Scene], count: int, seed: int) -> tuple[list[int], Tensor, int]:
    """RandomResizedCrop's crops, in turn over the scenes: each crop's scene, its box (xyxy fractions), crops redrawn.

    A crop without any digit is drawn again.
    """
    torch.manual_seed(seed)
    images = [_pixels(scene) for scene in labeled]
    owners: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    empty = 0
    while len(owners) < count:
        owner = len(owners) % len(labeled)
        scene = labeled[owner]
        top, left, height, width = RandomResizedCrop.get_params(images[owner], list(CROP_SCALE), list(CROP_RATIO))
        box = relabel.Box.from_crop(top, left, height, width, scene.size_hw)
        if scenes.content([scene], np.array([box.xyxy])).any():
            owners.append(owner)
            boxes.append(box.xyxy)
        else:
            empty += 1
    return owners, torch.tensor(boxes), empty


def distances(truth: Tensor, label: Tensor) -> tuple[float, float, float]:
    """How far labels (N, C) are from the truth (N, C): top-1 agreement, mean KL in nats, mean misplaced mass.

    Top-1 counts a label whose likeliest class has the largest area in the crop. KL(truth || label) is infinite where a
    label denies a class that is there, so every label's probabilities are first raised to at least `FLOOR`.
    """
    agreement = truth.gather(1, label.argmax(1, keepdim=True))[:, 0] >= truth.amax(1)
    floored = label.clamp(min=FLOOR)
    floored = floored / floored.sum(1, keepdim=True)
    divergence = torch.xlogy(truth, truth / floored).sum(1)
    misplaced = (truth - label).abs().sum(1) / 2
    return float(agreement.double().mean()), float(divergence.mean()), float(misplaced.mean())


def _pool(maps: relabel.LabelMaps, keys: list[str], boxes: Tensor, batch: int = 256) -> Tensor:
    """Soft labels (N, C), in batches as a trainer asks for them."""
    parts = [
        maps[maps.rows(keys[first : first + batch])].pool(boxes[first : first + batch])
        for first in range(0, len(keys), batch)
    ]
    return torch.cat(parts)


def _table(rows: dict[str, tuple[float, float, float]], count: int) -> str:
    width = max(map(len, rows))
    lines = [f"{'label of a crop':<{width}}   top-1 in the crop   KL(truth || label)   misplaced mass"]
    lines += [
        f"{name:<{width}}   {top1:>17.1%}   {kl:>13.2f} nats   {tv:>14.1%}" for name, (top1, kl, tv) in rows.items()
    ]
    return "\n".join(
        [
            f"How far each label is from what the crop contains ({count:,} crops; truth: each class's share of the",
            "digits' box area inside the crop)\n",
            *lines,
            f"\nProbabilities below {FLOOR:g} count as {FLOOR:g} in the KL of every label: without that, it would be",
            "infinite for a one-hot label. Misplaced mass needs no such rule: half the sum of |truth - label|.",
        ]
    )


def _draw(labeled: list[scenes.Scene], store: str, seed: int, path: Path) -> None:
    """Four scenes of several digits with two crops each, one on the largest digit and one elsewhere."""
    maps = relabel.open(store)
    chosen = [scene for scene in labeled if len({digit.label for digit in scene.digits}) >= 3][:4] or labeled[:4]
    random = np.random.default_rng(seed)
    rows = []
    for scene in chosen:
        boxes = [_crop_around(digit, scene.size_hw, random) for digit in _two_digits(scene)]
        score_map = maps[maps.rows([scene.key])]
        crops = tuple(
            LabeledCrop(
                relabel.Box(*box),
                score_map.pool(torch.tensor([box]))[0].numpy(),
                scenes.content([scene], np.array([box]))[0],
            )
            for box in boxes
        )
        rows.append(LabeledImage(f"{scene.key}: labelled “{scene.label}”", scene.pixels, score_map, crops))
    draw_labels(rows, path)


def _two_digits(scene: scenes.Scene) -> list[scenes.Digit]:
    """The largest digit, and the largest one of another class."""
    by_area = sorted(scene.digits, key=lambda digit: -digit.area)
    other = next((digit for digit in by_area if digit.label != scene.label), by_area[-1])
    return [by_area[0], other]


def _crop_around(
    digit: scenes.Digit, size_hw: tuple[int, int], random: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop, square in pixels where it fits, that holds a digit and whatever stands beside it."""
    x0, y0, x1, y1 = digit.box_xyxy
    sides: NDArray[np.float64] = np.array([size_hw[1], size_hw[0]], np.float64)
    side = max((x1 - x0) * sides[0], (y1 - y0) * sides[1]) * random.uniform(1.2, 1.7)
    extent = np.minimum(side / sides, 1)
    start = (np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - extent / 2).clip(0, 1 - extent)
    return float(start[0]), float(start[1]), float(start[0] + extent[0]), float(start[1] + extent[1])


if __name__ == "__main__":
    main()
