"""What labels cost a training loop: by stage, by epoch, and in a step of ResNet-18; ``python -m bench.overhead``.

CPU time, and rounds in turn, so that a busy machine slows both alike. Photographs and maps are synthetic. With
``--images FOLDER --labels STORE`` on a machine with a GPU, ``pipelines/train_student.py`` is what to time: see
`bench/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, default_collate
from torchvision.models import resnet18

import relabel
from bench import epoch, measure, peers, synthetic
from bench.epoch import TRANSFORM, Scene, Way
from bench.measure import Figure, in_turn
from relabel.tickets import ticket
from relabel.tracking import TrackedTransform

_PARTS = ("stages", "epochs", "processes", "compiled", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a run is: photographs, rounds of stages and of epochs, and the batches of loops and of ResNet-18."""

    photographs: int = 768
    batch: int = 256
    rounds: int = 15
    epochs: int = 7
    step_batch: int = 16
    steps: int = 4
    step_rounds: int = 9


QUICK = Scale(photographs=16, batch=8, rounds=1, epochs=1, step_batch=2, steps=1, step_rounds=1)


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _options()
    scale = QUICK if options.quick else Scale()
    figures: list[Figure] = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="relabel-bench-", dir=options.folder) as folder:
        scene = Scene.made(Path(folder), scale.photographs)
        shown = str(scene)
        parts: dict[str, Callable[[], list[Figure]]] = {
            "stages": lambda: stages(Path(folder), scene, scale),
            "epochs": lambda: [
                *epoch.kinds(Path(folder), scene, scale.epochs, min(scale.batch, 128)),
                *epoch.starts(scene, scale.epochs, min(scale.batch, 128)),
            ],
            "processes": lambda: processes(scene, scale),
            "compiled": lambda: compiled(scene),
            "step": lambda: step(scene, scale),
        }
        for name in options.parts or _PARTS:
            figures += parts[name]()
    if options.json:
        print(measure.to_json({"quick": options.quick, "figures": [figure.to_json() for figure in figures]}))
        return
    on = measure.device()
    print(f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, torch {on['torch']}, relabel {on['relabel']}")
    print(f"{shown}; load average {os.getloadavg()[0]:.1f}\n")
    print(measure.to_table(figures))
    print("\n! misses what it should reach; +- is half the distance of the quartiles; CPU time")


Stage = tuple[int, Callable[[int], object]]
"""How many images it is of, and what to run in a round."""


def stages(folder: Path, scene: Scene, scale: Scale) -> list[Figure]:
    """Microseconds of CPU time an image, on one core; what labels add stands beside what there is without."""
    with measure.one_core():
        all_stages = {**_of_items(scene, min(64, len(scene.keys))), **_of_batches(folder, scene, scale)}
        found = in_turn({name: run for name, (_, run) in all_stages.items()}, scale.rounds)
    each = {name: seconds.per(all_stages[name][0]) for name, seconds in found.items()}
    return [
        Figure(what=name, unit="us", measured=1e6 * one.median, spread=1e6 * one.spread) for name, one in each.items()
    ]


def _of_items(scene: Scene, count: int) -> dict[str, Stage]:
    """What a worker does."""
    plain, labeled, track = scene.plain(), scene.labeled(), TrackedTransform(TRANSFORM)
    paths = [path for path, _ in plain.samples[:count]]
    images = [plain.loader(path) for path in paths]
    views: list[Any] = [track(image)[1] for image in images]
    tickets = [ticket(scene.maps.ticket_id, row, view) for row, view in enumerate(views)]
    crops = [TRANSFORM(image) for image in images]

    def of(act: Callable[[Any], object], given: Iterable[Any]) -> Stage:
        def run(turn: int) -> None:
            # The same crops each way.
            torch.manual_seed(turn)
            for each in given:
                act(each)

        return count, run

    return {
        "load and decode": of(plain.loader, paths),
        "transform": of(TRANSFORM, images),
        "transform, tracked": of(track, images),
        # Nothing is drawn: a seed of torch's takes as long as many tickets.
        "ticket": (count, lambda _: [ticket(1, 2, view) for view in views]),
        "item without": of(plain.__getitem__, range(count)),
        "item with": of(labeled.__getitem__, range(count)),
        "collate without": (count, lambda _: default_collate([(crop, 1) for crop in crops])),
        "collate with": (count, lambda _: default_collate(list(zip(crops, tickets, strict=True)))),
    }


def _of_batches(folder: Path, scene: Scene, scale: Scale) -> dict[str, Stage]:
    """What a loop does, and the peers."""
    count = min(scale.batch, len(scene.keys))
    rows, boxes = torch.arange(count), synthetic.crop_boxes(count, 0)
    tickets = scene.maps.tickets(rows, boxes)
    logits = torch.randn(count, scene.maps.num_classes)
    classes, labels = torch.zeros(count, dtype=torch.long), scene.maps.pool(tickets)
    sparse = scene.maps.pool(tickets, sparse=True)

    def alone(load: peers.Load) -> Stage:
        return count, lambda _: [peers.label(load(number), boxes[number]) for number in range(count)]

    return {
        "read": (count, lambda _: scene.maps[rows]),
        "read and pool": (count, lambda _: scene.maps.pool(tickets)),
        "read and pool, one by one": (count, lambda _: [scene.maps.pool(one) for one in tickets.split(1)]),
        "read and pool, sparse": (count, lambda _: scene.maps.pool(tickets, sparse=True)),
        "read and pool, 14 x 14 tokens, sparse": (count, lambda _: scene.maps.pool(tickets, 14, sparse=True)),
        "loss of classes": (count, lambda _: functional.cross_entropy(logits, classes)),
        "loss of labels": (count, lambda _: relabel.soft_cross_entropy(logits, labels)),
        "loss of sparse labels": (count, lambda _: relabel.soft_cross_entropy(logits, sparse)),
        **{
            f"peer: {name}, dense, roi_align": alone(load) for name, load in peers.write(folder / "maps", count).items()
        },
    }


def step(scene: Scene, scale: Scale) -> list[Figure]:
    """A training step of ResNet-18 at 224 pixels with all that comes before it, and what labels add to it."""
    torch.manual_seed(0)
    student = resnet18(num_classes=scene.maps.num_classes)
    optimizer = torch.optim.SGD(student.parameters(), 0.01)

    def learn(images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> None:
        optimizer.zero_grad()
        loss_of(student(images)).backward()
        optimizer.step()

    def with_classes(images: Tensor, classes: Tensor) -> None:
        learn(images, lambda logits: functional.cross_entropy(logits, classes))

    def with_tickets(images: Tensor, tickets: Tensor) -> None:
        labels = scene.maps.pool(tickets, sparse=True)
        learn(images, lambda logits: relabel.soft_cross_entropy(logits, labels))

    options: dict[str, Any] = {"batch_size": scale.step_batch, "shuffle": True}
    both = {
        "without": Way(DataLoader(scene.plain(), **options), with_classes),
        "with": Way(DataLoader(scene.labeled(), **options), with_tickets),
    }
    with measure.one_core():
        seconds = in_turn({"": lambda turn: _steps(both["without"], turn, scale.steps)}, min(3, scale.step_rounds))
        found = epoch.ratio(both, scale.step_rounds, lambda _: time.process_time(), scale.steps)
    images = scale.step_batch * scale.steps
    what = f"ResNet-18 at 224, batch {scale.step_batch}, decoding included"
    alone = seconds[""].per(images)
    return [
        Figure(
            what=f"{what}: an image without labels", unit="ms", measured=1e3 * alone.median, spread=1e3 * alone.spread
        ),
        *epoch.figures("the same with labels over without", {"CPU time": found}, reach=1.01),
    ]


def _steps(way: Way, turn: int, count: int) -> None:
    torch.manual_seed(turn)
    for number, batch in enumerate(way.loader):
        way.use(*batch)
        if number + 1 == count:
            break


def compiled(scene: Scene) -> list[Figure]:
    """Graphs that ``torch.compile`` makes of a step over several batches: one, for labels are pooled outside of it."""
    from torch._dynamo.utils import counters

    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, scene.maps.num_classes))
    figures = []
    loader = DataLoader(scene.labeled(), min(8, len(scene.keys) // 2), drop_last=True)
    for name, sparse in (("dense", False), ("sparse", True)):
        torch._dynamo.reset()
        counters.clear()

        # Which code the graph becomes does not matter here.
        @torch.compile(backend="eager")
        def loss_of(images: Tensor, labels: Any) -> Tensor:
            return relabel.soft_cross_entropy(student(images), labels)

        for number, (images, tickets) in enumerate(loader):
            labels = scene.maps.pool(tickets, sparse=True) if sparse else scene.maps.pool(tickets)
            loss_of(images, labels).backward()
            if number == 5:
                break
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        figures.append(Figure(what=f"compiled step, {name} labels: graphs of all batches", unit="", measured=graphs))
        figures.append(Figure(what=f"compiled step, {name} labels: graph breaks", unit="", measured=breaks))
    return figures


def processes(scene: Scene, scale: Scale) -> list[Figure]:
    """CPU time of two processes that train together (gloo), with labels over without."""
    with tempfile.TemporaryDirectory() as folder:
        given = (scene.folder, scene.maps.where, f"{folder}/meet", scale)
        torch.multiprocessing.spawn(_process, given, nprocs=2)
        found = torch.load(f"{folder}/meet.pt", weights_only=True)
    return epoch.figures("two processes of DistributedDataParallel, with labels over without", {"gloo": tuple(found)})


def _process(rank: int, folder: Path, store: str, meet: str, scale: Scale) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    scene = Scene(folder, [], relabel.open(store))
    student = DistributedDataParallel(
        nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1000))
    )

    def with_classes(images: Tensor, classes: Tensor) -> None:
        functional.cross_entropy(student(images), classes).backward()

    def with_tickets(images: Tensor, tickets: Tensor) -> None:
        relabel.soft_cross_entropy(student(images), scene.maps.pool(tickets, sparse=True)).backward()

    def loader(dataset: Any) -> DataLoader[Any]:
        return DataLoader(dataset, min(scale.batch, 64), sampler=DistributedSampler(dataset))

    both = {
        "without": Way(loader(scene.plain()), with_classes),
        "with": Way(loader(scene.labeled()), with_tickets),
    }
    found = torch.tensor(epoch.ratio(both, scale.epochs, lambda _: time.process_time()))
    dist.all_reduce(found)
    if rank == 0:
        torch.save((found / 2).tolist(), f"{meet}.pt")
    dist.destroy_process_group()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)} [all]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, in seconds")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes [the system's]")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(_PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    main()
