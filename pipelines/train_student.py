"""Train a student: any classifier of timm's, or an LV-ViT, on one-hot, smoothed, relabel, token or teacher targets.

    python pipelines/train_student.py --model resnet18 --target relabel --labels a.zarr --images train/ --val val/
    torchrun --nproc_per_node=8 pipelines/train_student.py --preset lvvit_s --labels a.zarr --images train/ --val val/

A preset of imagenet1k.py and every field of a recipe (recipe.py) is an option. The folder of --out gets log.csv,
curves.png, recipe.json and checkpoint.pt, from which --resume goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines.curves import draw_curves
from pipelines.objective import Objective
from pipelines.online import OnlineTeacher
from pipelines.run_log import CHECKPOINT, RECIPE, Epoch, load_checkpoint, save_checkpoint, write_log
from pipelines.schedule import learning_rate, make_optimizer, set_learning_rate
from pipelines.starting import Start, facts_of, learn_heads, start_of
from pipelines.student_data import Data, Share, load_data
from pipelines.student_models import build_student, token_grid_hw
from pipelines.student_options import Command, parse
from pipelines.student_pixels import Pixels
from relabel.errors import RelabelError
from relabel.progress import Progress
from relabel.teacher.devices import find_device

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: list[str] | None = None) -> None:
    """The command line: exits with 2 and a sentence where something cannot be done."""
    command = parse(arguments, __doc__)
    try:
        with _process(command.device) as (share, device):
            run(command, share, device)
    except RelabelError as error:
        # An error in a loader's worker comes with the worker's traceback before it.
        text = str(error).strip()
        print(f"train_student: {text.splitlines()[-1] if 'Traceback' in text else text}", file=sys.stderr)
        sys.exit(2)


def run(command: Command, share: Share, device: torch.device) -> None:
    """One process's part of a training run; the first one writes the log, the curves and the checkpoint."""
    start = start_of(command.recipe)
    recipe = start.recipe
    data = load_data(recipe, command.places, share, device)
    trainer = Trainer(start, data, share, device)
    epochs: list[Epoch] = []
    if not command.resume and (command.out / CHECKPOINT).exists():
        raise RelabelError(f"{command.out} holds a run: go on with --resume, or give another --out")
    if command.resume:
        epochs = trainer.restore(load_checkpoint(command.out / CHECKPOINT, recipe.as_dict()))
    is_first = share.rank == 0
    if is_first:
        command.out.mkdir(parents=True, exist_ok=True)
        (command.out / RECIPE).write_text(json.dumps(recipe.as_dict(), indent=2) + "\n", encoding="utf-8")
    for number in range(len(epochs), recipe.total_epochs):
        epochs.append(trainer.epoch(number, shown=is_first))
        if is_first:
            print(epochs[-1], flush=True)
            write_log(command.out, epochs)
            save_checkpoint(command.out, trainer.state(epochs))
    if is_first:
        draw_curves({recipe.name: epochs}, command.out / "curves.png")


class Trainer:
    """The student, its average, its optimizer and its loss, on one device of one or many."""

    def __init__(self, start: Start, data: Data, share: Share, device: torch.device) -> None:
        recipe = start.recipe
        self._recipe, self._data, self._share, self._device = recipe, data, share, device
        torch.manual_seed(recipe.seed)  # the same first weights in every process
        student: Any = build_student(recipe, data.num_classes, start, data.class_names)
        self._student = student.to(device, memory_format=torch.channels_last)
        # Mixing draws from torch's generator, which every epoch starts anew: so a resumed run is equal.
        self._objective = Objective(recipe, data.num_classes, token_grid_hw(self._student), maps=data.maps)
        self._teacher = OnlineTeacher(recipe, data.class_names, device) if recipe.target == "teacher" else None
        self._pixels = Pixels(recipe, device)
        self._average = None if recipe.ema_decay is None else ModelEmaV3(self._student, decay=recipe.ema_decay)
        self._optimizer = make_optimizer(self._student, recipe)
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self._parallel = self._wrapped()

    def _wrapped(self) -> nn.Module:
        if self._share.world_size == 1:
            return self._student  # type: ignore[no-any-return]
        on = [self._device.index] if self._device.type == "cuda" else None
        return DistributedDataParallel(self._student, device_ids=on)

    def epoch(self, number: int, *, shown: bool) -> Epoch:
        """Train on all images once, then validate; `number` counts from 0."""
        _seed(self._recipe.seed, number, self._share.rank)
        started = time.perf_counter()
        loss, count, rate = self._learn(number, shown=shown)
        learned = time.perf_counter()
        top1 = self.top1(self._student)
        averaged = None if self._average is None else self.top1(self._average.module)
        return Epoch(
            epoch=number + 1,
            learning_rate=rate,
            train_loss=loss,
            val_top1=top1,
            val_top1_ema=averaged,
            seconds=time.perf_counter() - started,
            images_per_second=count / (learned - started),
        )

    def _learn(self, number: int, *, shown: bool) -> tuple[float, int, float]:
        """The mean loss, the images of all processes, and the last learning rate of an epoch."""
        recipe, device = self._recipe, self._device
        steps, rate = self._data.steps, 0.0
        mixes = number < recipe.total_epochs - recipe.mixing_off_epochs
        self._parallel.train()
        self._choose_what_learns(number)
        self._switch_mixtoken(mixes)
        total = torch.zeros((), device=device)
        with Progress(f"epoch {number + 1}", steps * recipe.batch_size, unit="images", shown=shown) as progress:
            for step, (images, labels) in enumerate(self._data.epoch(number)):
                rate = learning_rate(recipe, number + step / steps)
                set_learning_rate(self._optimizer, rate)
                labels = labels if self._teacher is None else self._teacher(images)
                images = self._pixels(images, trains=True)
                # The loss stays on the device: nothing waits for a step.
                total += self._step(images, labels, mixes=mixes)
                if self._average is not None:
                    self._average.update(self._student, step=number * steps + step)
                progress.advance(recipe.batch_size)
        mean = float(_summed(total, self._share)) / (steps * self._share.world_size)
        if not math.isfinite(mean):
            raise RelabelError(
                f"the loss of epoch {number + 1} is {mean}: lower --learning-rate, or give --clip-norm 1 or "
                f"--precision bfloat16 (now {recipe.precision})"
            )
        return mean, steps * recipe.batch_size, rate

    def _choose_what_learns(self, number: int) -> None:
        """The classifier alone in the first epochs, then all, also where a run goes on in the midst of them."""
        heads = self._recipe.head_epochs
        if number <= heads and heads:
            learn_heads(self._student, alone=number < heads)
            # It counts the parameters that learn when it is made.
            self._parallel = self._wrapped()

    def _step(self, images: Tensor, labels: Tensor, *, mixes: bool) -> Tensor:
        """One step of the optimizer; the loss, without gradient."""
        precision = _PRECISIONS[self._recipe.precision]
        with torch.autocast(self._device.type, precision, enabled=precision != torch.float32):
            loss = self._objective(self._parallel, images, labels, mixes=mixes)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        if self._recipe.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._student.parameters(), self._recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def _switch_mixtoken(self, mixes: bool) -> None:
        if self._recipe.mixing == "mixtoken" and not mixes:
            self._student.mix_token = None

    def top1(self, student: nn.Module) -> float:
        """Percent of the validation images of all processes whose first class is theirs."""
        student.eval()
        if self._share.world_size > 1:
            # Batch statistics are each process's own until the next step.
            for buffer in student.buffers():
                dist.broadcast(buffer, 0)
        counts = torch.zeros(2, device=self._device)
        precision = _PRECISIONS[self._recipe.precision]
        autocast = torch.autocast(self._device.type, precision, enabled=precision != torch.float32)
        with torch.inference_mode(), autocast:
            for images, classes in self._data.validation:
                classes = classes.to(self._device, non_blocking=True)
                counts[0] += (student(self._pixels(images, trains=False)).argmax(1) == classes).sum()
                counts[1] += len(classes)
        right, count = map(int, _summed(counts, self._share))
        return 100 * right / count

    def state(self, epochs: list[Epoch]) -> dict[str, Any]:
        """All that `restore` needs, tensors and plain values."""
        return {
            **facts_of(self._recipe, self._data.class_names),
            "recipe": self._recipe.as_dict(),
            "epochs": [asdict(epoch) for epoch in epochs],
            "student": self._student.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> list[Epoch]:
        """Go on from a `state`; the epochs that are done."""
        self._student.load_state_dict(state["student"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        return [Epoch(**epoch) for epoch in state["epochs"]]


@contextmanager
def _process(device_name: str) -> Iterator[tuple[Share, torch.device]]:
    """This process's place among torchrun's, and its device."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = find_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if world == 1:
        yield Share(), device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Share(rank, world), device
    finally:
        dist.destroy_process_group()


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Start all random numbers of an epoch anew, loader's workers included, which torch seeds from its own."""
    value = int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002, since timm's RandAugment draws from this one


def _summed(values: Tensor, share: Share) -> Tensor:
    """The sum over all processes."""
    if share.world_size > 1:
        dist.all_reduce(values)
    return values


if __name__ == "__main__":
    main()
