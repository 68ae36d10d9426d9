"""Labelling end to end beside the bare forward loop of the same model, batch, precision and device, and a floor.

The bare loop runs timm's model as it is on images that lie ready on the device, and keeps nothing. The run reads and
decodes photographs, makes score maps and writes a store, from its first image to its last shard. Both take turns; the
medians of the rounds are compared. The floor is the device's own rate of large matrix products over the model's FLOPs.
Weights are random. ``python -m bench.generate --teacher eva02_large_patch14_448 --device cuda``
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import measure
from bench.measure import Figure
from bench.sampling import sample
from bench.synthetic import write_photographs
from relabel.generate import GenerateOptions, generate
from relabel.teacher import Teacher, TeacherSpec, load_teacher

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TEACHERS = {
    "cpu": ["resnet50", "mobilenetv3_small_100"],
    "cuda": ["eva02_large_patch14_448", "dm_nfnet_f6", "convnextv2_huge.fcmae_ft_in22k_in1k_512"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run: images a round, images a batch, rounds, and decoding threads (None is the default)."""

    count: int
    batch_size: int
    rounds: int
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one teacher, images/s of three ways, medians over the rounds; `flops` are those of one image.

    `shares` are the run's `end_to_end` over the same round's `bare`, one a round.
    """

    teacher: str
    image_size_hw: tuple[int, int]
    precision: str
    batch_size: int
    decode: str
    flops: float
    floor: float
    bare: float
    end_to_end: float
    shares: tuple[float, ...]
    waits: dict[str, float]

    @property
    def share(self) -> float:
        """The median share of the bare loop."""
        return statistics.median(self.shares)


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    device = torch.device(options.device)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="relabel-bench-", dir=options.folder) as folder:
        images = _photographs(Path(folder), options.images, options.count)
        plan = Plan(count=options.count, batch_size=options.batch_size, rounds=options.rounds, workers=options.workers)
        for name in options.teacher or _TEACHERS[device.type]:
            spec = TeacherSpec(
                name=name,
                random_weights=0,
                device=options.device,
                precision=options.precision,
                channels_last=options.channels_last,
            )
            plan = Plan(
                count=options.count, batch_size=options.batch_size, rounds=options.rounds, workers=options.workers
            )
            teacher = load_teacher(spec)
            teacher = replace(teacher, preprocessing=replace(teacher.preprocessing, decode=options.decode))
            results.append(compare(images, teacher, plan, Path(folder)))
            print(f"{name}: {results[-1].share:.3f}", file=sys.stderr, flush=True)
    if options.json:
        found = [dataclasses.asdict(result) | {"share": result.share} for result in results]
        print(measure.to_json({"accelerator": _accelerator(device), "results": found}))
        return
    on = measure.device()
    print(f"{_accelerator(device)} ({on['cpu']}, {on['cores']} cores), Python {on['python']}, torch {on['torch']}\n")
    print(measure.aligned([_HEADER, *map(_row, results)]))
    print(
        f"\nimages/s, medians of {options.rounds} rounds of {options.count} images; "
        "floor: the rate of large matrix products over the model's FLOPs"
    )


def labelling(folder: Path, name: str, plan: Plan) -> Figure:
    """One line of `make bench`: a teacher on the CPU, all cores."""
    images = _photographs(folder, None, plan.count)
    result = compare(images, load_teacher(TeacherSpec(name=name, random_weights=0, device="cpu")), plan, folder)
    return Figure(
        what=f"labelling over the bare forward loop, {name}, {plan.count} photographs, batch {plan.batch_size}",
        unit="x",
        measured=1 / result.share,
        spread=measure.timing([1 / share for share in result.shares]).spread,
        reach=round(1 / 0.9, 2),
    )


def compare(images: str, teacher: Teacher, plan: Plan, folder: Path) -> Result:
    """Run both ways in turn, each first in every other round; a first round warms up and does not count."""
    bare = _Bare(teacher, plan)
    rates: dict[str, list[float]] = {"bare": [], "end to end": []}
    waits: dict[str, float] = {}
    for turn in range(-1, plan.rounds):
        for way in sorted(rates, reverse=turn % 2 == 0):
            if way == "bare":
                rate = bare.images_per_second()
            else:
                with tempfile.TemporaryDirectory(dir=folder) as store:
                    options = GenerateOptions(batch_size=plan.batch_size, workers=plan.workers, show_progress=False)
                    summary = generate(images, Path(store) / "labels.zarr", teacher, options)
                rate, waits = summary.images_per_second, summary.waits.shares(summary.seconds)
            if turn >= 0:
                rates[way].append(rate)
    return Result(
        teacher=teacher.record.name,
        image_size_hw=teacher.preprocessing.image_size_hw,
        precision=teacher.record.precision,
        batch_size=plan.batch_size,
        decode=teacher.preprocessing.decode,
        flops=bare.flops,
        floor=_matmul_rate(teacher.device, bare.dtype) / bare.flops,
        bare=statistics.median(rates["bare"]),
        end_to_end=statistics.median(rates["end to end"]),
        shares=tuple(run / loop for run, loop in zip(rates["end to end"], rates["bare"], strict=True)),
        waits=waits,
    )


class _Bare:
    """timm's model as it is, on one batch of noise that lies ready on the device."""

    def __init__(self, teacher: Teacher, plan: Plan) -> None:
        self._plan, self._device = plan, teacher.device
        self.dtype = _DTYPES[teacher.record.precision]
        order = torch.channels_last if teacher.channels_last else torch.contiguous_format
        height, width = teacher.preprocessing.image_size_hw
        model: Any = timm.create_model(teacher.record.name).eval()
        self._model = model.to(self._device, self.dtype, memory_format=order)
        noise = torch.rand(plan.batch_size, 3, height, width)
        orders = (torch.contiguous_format, torch.channels_last)
        # Which order of the input is faster depends on the model; the loop to beat has the better one.
        self._batch = min((noise.to(self._device, self.dtype, memory_format=o) for o in orders), key=self._seconds)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self._model(self._batch[:1])
        self.flops = float(counter.get_total_flops())

    def images_per_second(self) -> float:
        """As many images as a run, in whole batches."""
        batches = max(1, round(self._plan.count / self._plan.batch_size))
        return batches * self._plan.batch_size / self._timed(self._batch, batches)

    def _seconds(self, batch: Tensor) -> float:
        self._timed(batch, 1)
        return min(self._timed(batch, 1) for _ in range(3))

    def _timed(self, batch: Tensor, times: int) -> float:
        self._wait()
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(times):
                self._model(batch)
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of a few."""
    size, repeats = (8192, 20) if device.type == "cuda" else (2048, 3)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        for _ in range(repeats):
            product = a @ b
        product[0, 0].item()
        best = min(best, (time.perf_counter() - started) / repeats)
    return 2 * size**3 / best


def _photographs(folder: Path, images: str | None, count: int) -> str:
    """A folder of `count` images, links to a few; of a user's own where given."""
    kept = folder / "photographs"
    if images is None:
        paths = [kept / key for key in write_photographs(kept, min(count, 64))]
    else:
        paths = []
        for i, image in enumerate(sample(images, min(count, 2048), seed=0)):
            paths.append(kept / f"{i:05d}.jpg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_bytes(image.data)
    root = folder / "images"
    root.mkdir()
    for i in range(count):
        (root / f"{i:06d}.jpg").symlink_to(paths[i % len(paths)])
    return str(root)


_HEADER = (
    *("teacher", "input", "GFLOPs", "precision", "batch", "decode"),
    *("floor", "bare loop", "of floor", "end to end", "of bare loop", "waiting for"),
)


def _row(result: Result) -> tuple[str, ...]:
    spread = measure.timing(result.shares).spread
    return (
        result.teacher,
        "x".join(map(str, result.image_size_hw)),
        f"{result.flops / 1e9:.1f}",
        result.precision,
        str(result.batch_size),
        result.decode,
        f"{result.floor:.1f}",
        f"{result.bare:.1f}",
        f"{result.bare / result.floor:.0%}",
        f"{result.end_to_end:.1f}",
        f"{result.share:.3f} +- {spread:.3f}",
        ", ".join(f"{stage} {share:.0%}" for stage, share in result.waits.items()),
    )


def _accelerator(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--images", help="photographs, as `relabel generate` takes them [synthetic ones of 500 x 375]")
    parser.add_argument("--teacher", action="append", help="a timm model; may be repeated [a few for the device]")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--precision", choices=[*_DTYPES], default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--decode", choices=["cpu", "cuda"], default="cpu", help="where JPEGs are decoded")
    parser.add_argument("--batch-size", type=int, default=64 if on_gpu else 32)
    parser.add_argument("--count", type=int, default=8192 if on_gpu else 256, help="images a round; few are repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="decoding threads [the default of `relabel generate`]")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes [the system's]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
