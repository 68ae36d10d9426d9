"""One core of a trainer's worker: the bytes of a store, a random crop's label, and the labels of its tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor

import relabel
from bench import published, synthetic
from bench import store_making as stores
from bench.measure import Figure, Timing, in_turn
from relabel.store import StoreWriter

TOKENS_HW = (14, 14)
_DENSE_BATCH = 16  # its maps (B, 1000, 15, 15) and labels (B, 1000, 14, 14) of 256 images would take gigabytes
_ZARR_ROWS = 16  # a row takes it milliseconds
_SINGLES = 32  # enough that the clock's own cost is nothing
_Name = TypeVar("_Name", str, Path)


@dataclass(frozen=True, slots=True)
class Library:
    """The same images' labels, ours and theirs.

    Attributes:
        store: K = 16, M = 64.
        small_store: K = 8, M = 64.
        keys: of the rows of `store`.
        relabel_files, token_files: a file an image in the published formats, of `distinct` images; row i of the store
            holds the map of one of them.
    """

    store: StoreWriter
    small_store: StoreWriter
    keys: list[str]
    relabel_files: list[Path]
    token_files: list[Path]


def make_library(folder: Path, *, shards: int, rows: int, distinct: int) -> Library:
    """Write both stores and both kinds of files below `folder`."""
    keys = [stores.keys_of(shard * rows, rows) for shard in range(shards)]
    store = stores.write(folder / "k16.zarr", synthetic.score_maps(distinct, 16, 64), keys)
    small = stores.write(folder / "k8.zarr", synthetic.score_maps(distinct, 8, 64), keys[:1])
    files: tuple[list[Path], list[Path]] = ([], [])
    for name, paths, save in (
        ("relabel", files[0], published.save_relabel),
        ("token", files[1], published.save_token_labeling),
    ):
        (folder / name).mkdir()
        for first in range(0, distinct, 64):
            values, classes = published.cell_top(synthetic.logits(min(64, distinct - first), seed=first))
            for i, (one, ids) in enumerate(zip(values, classes, strict=True)):
                paths.append(folder / name / f"{first + i}.pt")
                save(paths[-1], one, ids)
    return Library(store, small, [key for shard in keys for key in shard], *files)


def sizes(library: Library) -> list[Figure]:
    """Bytes an image, all files of a store included."""
    figures = []
    for name, store, reach in (("K = 16, M = 64", library.store, 1300), ("K = 8, M = 64", library.small_store, 900)):
        data = store.manifest.data
        ours = sum(stores.size_by_array(store.path).values()) / (len(data.shards) * data.rows_per_shard)
        peers = {"a ReLabel file": library.relabel_files, "a TokenLabeling file": library.token_files}
        for peer, files in peers.items():
            theirs = sum(file.stat().st_size for file in files) / len(files)
            what = f"store of 15x15, {name}"
            figures.append(Figure(what=what, unit="B", measured=ours, reach=reach, peer=peer, peer_measured=theirs))
    return figures


def image_labels(library: Library, rounds: int, batch: int) -> list[Figure]:
    """Key to row to bytes to pooled (C) label, at random, in batches and one by one."""
    maps = relabel.open(library.store.path)
    maps.rows(library.keys[:1])
    batches = [_drawn(library, batch, seed) for seed in range(rounds + 1)]
    singles = [_drawn(library, _SINGLES, seed) for seed in range(rounds + 1)]

    def ours(keys: list[str], boxes: Tensor) -> Tensor:
        labels: Tensor = maps[maps.rows(keys)].pool(boxes)
        return labels

    def theirs(files: list[Path], boxes: Tensor) -> Tensor:
        return published.labels(published.dense(*published.load(files), synthetic.CLASSES), boxes)

    scores = _plain_zarr(library.store)
    ways: dict[str, Callable[[int], object]] = {
        "ours": lambda turn: ours(batches[turn].keys, batches[turn].boxes),
        "theirs": lambda turn: theirs(batches[turn].files, batches[turn].boxes),
        "zarr": lambda turn: [scores(key) for key in batches[turn].rows[:_ZARR_ROWS]],
        "ours, singly": lambda turn: [ours([key], box) for key, box in singles[turn].each(singles[turn].keys)],
        "theirs, singly": lambda turn: [theirs([file], box) for file, box in singles[turn].each(singles[turn].files)],
    }
    counts = {"ours": batch, "theirs": batch, "ours, singly": _SINGLES, "theirs, singly": _SINGLES, "zarr": _ZARR_ROWS}
    seconds = in_turn(ways, rounds)
    dense = "torch.load + scatter + roi_align"
    per = {name: each.per(counts[name]) for name, each in seconds.items()}
    together = _per_label(f"random label, batch {batch}", per["ours"], dense, per["theirs"])
    singly = _per_label("random label, one by one", per["ours, singly"], dense, per["theirs, singly"])
    beside = _per_label("the same as the first", per["ours"], "zarr-python, planes only", per["zarr"])
    return [replace(together, reach=30.0), singly, beside]


def _per_label(what: str, ours: Timing, peer: str, theirs: Timing) -> Figure:
    """Of seconds per label, in microseconds."""
    return Figure(
        what=what,
        unit="us",
        measured=ours.median * 1e6,
        spread=ours.spread * 1e6,
        wall=None if ours.wall is None else ours.wall * 1e6,
        peer=peer,
        peer_measured=theirs.median * 1e6,
    )


def token_labels(library: Library, rounds: int, batch: int) -> list[Figure]:
    """14 x 14 token labels from maps in memory: sparse ours, dense theirs, which at this batch would need gigabytes."""
    maps = relabel.open(library.store.path)
    drawn = [_drawn(library, batch, seed) for seed in range(rounds + 1)]
    few = min(_DENSE_BATCH, batch)
    mine = [maps[maps.rows(one.keys)] for one in drawn]
    loaded = [published.load(one.files[:few]) for one in drawn]

    def theirs(turn: int) -> object:
        dense = published.dense(*loaded[turn], synthetic.CLASSES)
        return published.labels(dense, drawn[turn].boxes[:few], TOKENS_HW)

    seconds = in_turn(
        {"ours": lambda turn: mine[turn].pool(drawn[turn].boxes, TOKENS_HW, sparse=True), "theirs": theirs}, rounds
    )
    one = _per_label("the same, a crop", seconds["ours"].per(batch), f"dense, batch {few}", seconds["theirs"].per(few))
    all_of_them = replace(
        one,
        what=f"token labels 14x14, batch {batch}, sparse",
        unit="ms",
        measured=seconds["ours"].median * 1e3,
        spread=seconds["ours"].spread * 1e3,
        wall=(seconds["ours"].wall or 0.0) * 1e3,
        reach=40.0,
        peer="",
        peer_measured=None,
    )
    return [all_of_them, one]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Random images of a library, and a box of each."""

    keys: list[str]
    rows: list[int]
    files: list[Path]
    boxes: Tensor

    def each(self, names: Sequence[_Name]) -> list[tuple[_Name, Tensor]]:
        return [(name, self.boxes[i : i + 1]) for i, name in enumerate(names)]


def _drawn(library: Library, count: int, seed: int) -> _Drawn:
    draw = random.Random(seed)
    rows = [draw.randrange(len(library.keys)) for _ in range(count)]
    files = [library.relabel_files[row % len(library.relabel_files)] for row in rows]
    return _Drawn([library.keys[row] for row in rows], rows, files, synthetic.crop_boxes(count, seed))


def _plain_zarr(store: StoreWriter) -> Callable[[int], object]:
    import zarr

    group = zarr.open_group(store.path, mode="r")
    rows = store.manifest.data.rows_per_shard
    scores = group["scores"]
    return lambda row: scores[row // rows, row % rows]  # type: ignore[index]
