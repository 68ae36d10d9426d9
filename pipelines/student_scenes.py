"""What students.py learns from and is tested on: scenes of digits, their crops, a teacher and its store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

import relabel
from pipelines import scenes

TRAIN_SCANS, OTHER_SCANS = 800, 600  # the remaining 397 are for the test
CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TEACHER_OPTIONS: dict[str, Any] = {"channels": (16, 32, 64, 128), "stem_width": 8, "output_stride": 16}
TEACHER_CROP, TEACHER_IMAGE_HW = 64, (128, 128)
_TARS = 3  # a few shards, as a store has
_TEACHER_FILE = "RELABEL_STUDENTS_TEACHER"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many scenes to learn from, scenes of the other teacher, test scenes, test crops, and epochs of a teacher."""

    train: int = 1500
    other: int = 2000
    test: int = 1500
    test_crops: int = 3000
    teacher_epochs: int = 40


@dataclass(frozen=True, slots=True)
class Split:
    """Scenes without a scan in common: `train` is for students, `other` for a teacher of its own, `test` for nobody."""

    train: list[scenes.Scene]
    other: list[scenes.Scene]
    test: list[scenes.Scene]


@dataclass(frozen=True, slots=True)
class Crops:
    """N crops as a student sees them in turn: scene ids (N,), boxes (N, 4) xyxy, pixels uint8 (N, 3, s, s)."""

    owners: Tensor
    boxes: Tensor
    pixels: Tensor


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Whole test scenes with the class of their largest digit, and crops of them with what they contain (N, 10)."""

    whole: Tensor
    classes: Tensor
    crops: Tensor
    content: Tensor


def compose(counts: Counts) -> Split:
    """The scenes of all seeds; only students, their crops and their order differ by seed."""
    rest, for_test = scenes.load_scans().split(TRAIN_SCANS + OTHER_SCANS, seed=0)
    for_train, for_other = rest.split(TRAIN_SCANS, seed=1)
    return Split(
        scenes.compose(for_train, counts.train, scenes.LABELED, seed=10, prefix="train"),
        scenes.compose(for_other, counts.other, scenes.TAUGHT, seed=11, prefix="other"),
        scenes.compose(for_test, counts.test, scenes.LABELED, seed=12, prefix="test"),
    )


def decoded(made: Sequence[scenes.Scene]) -> list[Tensor]:
    """Scenes at half their size, uint8 (3, height, width): enough for small crops, and a quarter of the work."""
    halves = []
    for scene in made:
        height, width = scene.size_hw
        pixels = torch.from_numpy(scene.pixels).permute(2, 0, 1)
        halves.append(F.resize(pixels, [height // 2, width // 2], antialias=True))
    return halves


def random_crops(images: Sequence[Tensor], epochs: int, side: int, seed: int) -> Crops:
    """Each image once an epoch, in random order, in RandomResizedCrop's crops; none is mirrored, for digits are not."""
    torch.manual_seed(seed)
    owners = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    boxes, pixels = [], []
    for image in (images[i] for i in owners.tolist()):
        top, left, height, width = RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO))
        size_hw = image.shape[1], image.shape[2]
        boxes.append(relabel.Box.from_crop(top, left, height, width, size_hw).xyxy)
        pixels.append(F.resized_crop(image, top, left, height, width, [side, side], antialias=True))
    return Crops(owners, torch.tensor(boxes), torch.stack(pixels))


def held_out(made: Sequence[scenes.Scene], count: int, side: int) -> HeldOut:
    """Both tests: all scenes, squashed to a square, and `count` crops of them that hold a digit."""
    images = decoded(made)
    whole = torch.stack([F.resize(image, [side, side], antialias=True) for image in images])
    drawn = random_crops(images, 2 * (count // len(images) + 1), side, seed=0)
    content = scenes.content([made[i] for i in drawn.owners.tolist()], drawn.boxes.double().numpy())
    kept = np.flatnonzero(content.any(axis=1))[:count]
    classes = torch.tensor([scene.label for scene in made])
    return HeldOut(whole, classes, drawn.pixels[kept], torch.from_numpy(content[kept]))


def normalised(pixels: Tensor) -> Tensor:
    """uint8 pixels as floats in [-1, 1], channels last, which is faster on a CPU."""
    return ((pixels.float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def train_teacher(made: Sequence[scenes.Scene], epochs: int, path: Path, say: Callable[[str], None]) -> None:
    """Train on random crops of scenes, each with its scene's one label, and keep the weights."""
    torch.manual_seed(0)
    model = _teacher_model()
    model.to(memory_format=torch.channels_last)
    images, labels = decoded(made), torch.tensor([scene.label for scene in made])
    batch = min(32, len(images))
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            crops = [_teacher_crop(images[i]) for i in chosen.tolist()]
            loss = nn.functional.cross_entropy(model(normalised(torch.stack(crops))), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        if (epoch + 1) % max(1, epochs // 4) == 0:
            say(f"{path.stem}, epoch {epoch + 1} of {epochs}: loss {torch.stack(losses).mean():.2f}")
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
    partial.rename(path)


def teacher() -> Any:
    """What ``--teacher pipelines.student_scenes:teacher`` calls; the environment says where its weights are."""
    model = _teacher_model()
    model.load_state_dict(load_file(os.environ[_TEACHER_FILE]))
    model.image_size_hw, model.mean, model.std = TEACHER_IMAGE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return model


def generate(made: Sequence[scenes.Scene], checkpoint: Path, store: Path) -> None:
    """Label the scenes as a user would: tars, `relabel generate`, and a check of every byte."""
    tars = store.with_suffix(".tars")
    pattern = scenes.write_tars(made, tars, min(_TARS, len(made)))
    environment = os.environ | {_TEACHER_FILE: str(checkpoint.resolve())}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for words in (
        ("generate", pattern, str(store), "--teacher", "pipelines.student_scenes:teacher", "--batch-size", "32"),
        ("verify", "shards", str(store), "--images", pattern),
    ):
        command = [sys.executable, "-m", "relabel", *words, "--quiet"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"relabel {words[0]} ended with exit code {done.returncode}: {done.stdout}")


def teacher_accuracy(checkpoint: Path, made: Sequence[scenes.Scene]) -> float:
    """How often the teacher's answer to a whole scene is the class of its largest digit."""
    model = _teacher_model()
    model.load_state_dict(load_file(checkpoint))
    model.eval()
    right = 0
    with torch.no_grad():
        for first in range(0, len(made), 50):
            some = made[first : first + 50]
            pixels = [torch.from_numpy(scene.pixels).permute(2, 0, 1) for scene in some]
            images = torch.stack([F.resize(image, list(TEACHER_IMAGE_HW), antialias=True) for image in pixels])
            right += int((model(normalised(images)).argmax(1) == torch.tensor([s.label for s in some])).sum())
    return right / len(made)


def _teacher_model() -> Any:
    return timm.create_model("resnet10t", num_classes=scenes.NUM_CLASSES, **TEACHER_OPTIONS)


def _teacher_crop(image: Tensor) -> Tensor:
    # The scenes will be squashed to a square, so the teacher learns digits of stretched shapes.
    place = RandomResizedCrop.get_params(image, [0.1, 0.7], [0.5, 2.0])
    crop: Tensor = F.resized_crop(image, *place, [TEACHER_CROP, TEACHER_CROP], antialias=True)
    return crop
