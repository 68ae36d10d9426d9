"""The labels that a crop may get: of all logits, of what is stored, of less, of other formats, and of no map at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from relabel.geometry import WHOLE
from relabel.geometry.cells import swapped
from relabel.manifest import PLANES, PROFILE, STEP, Compression, ScoreRecord
from relabel.pooling import Space
from relabel.published import relabel_targets
from relabel.score_map import Fill, ScoreMap
from relabel.score_map.coding import decode_scores, encode_scores
from relabel.store import RowBatch
from relabel.store.codecs import CODECS, ENTRY_BYTES, ZSTD

LineKind = Literal["teacher", "limit", "stored", "size", "whole image", "swapped", "published", "truth"]

TOP = 5
"""Classes of a cell in the published formats."""
SMOOTHING = 0.1
_DEFAULT = (PLANES, PROFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to label crops.

    `planes` and `profile` are K and M where the label comes from such a map, else None; a hard label excludes all
    classes but one.
    """

    name: str
    kind: LineKind
    space: Space | None = None
    planes: int | None = None
    profile: int | None = None
    is_hard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeler:
    """A way, ready for a batch: from boxes (B, 4) to labels (B, C), and the bytes of each map where they are known."""

    way: Way
    labels: Callable[[Tensor], Tensor]
    bytes_each: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What is known of B images: the maps `stored` of them, and a re-run's logits and log-probabilities (B, C, H, W).

    `truths` is (B,) int64, -1 where unknown.
    """

    stored: ScoreMap
    logits: Tensor
    scores: Tensor
    footprints: Tensor
    truths: Tensor


def labelers(answers: Answers, record: ScoreRecord) -> Iterator[Labeler]:
    """Every way, in the order of the table; the first is that of all logits."""
    ids = torch.arange(answers.scores.shape[1]).expand(answers.scores.shape[:2])
    every = ScoreMap(
        ids, answers.scores, answers.scores.amin(1), num_classes=ids.shape[1], footprint=answers.footprints
    )
    yield from _of_map(every, Way(name="all logits", kind="limit"))
    yield from _of_store(answers.stored, record)
    for planes, profile in sizes(record):
        exact = ScoreMap.from_logits(answers.logits, planes, profile, footprint=answers.footprints)
        like = sized_record(record, planes, profile)
        rows = RowBatch.of(exact, like)
        way = Way(name=_sized(planes, profile), kind="size", space="logit", planes=planes, profile=profile)
        labels = _pooler(rows.maps(like), "logit")
        yield Labeler(way=way, labels=labels, bytes_each=row_bytes(rows, record.compression))
    yield from _of_boxes(answers.stored, record)
    yield from cell_labelers(answers.logits, answers.footprints, record.step or STEP)
    yield from _of_truths(answers)


def sizes(record: ScoreRecord) -> list[tuple[int, int]]:
    """(K, M) to be measured beside the stored ones: less of each, none of M, and twice as much."""
    planes, profile = _DEFAULT if record.has_holes else (record.planes, record.profile)
    halves = [(planes // part, m) for part in (2, 4) for m in (profile, profile // 4, 0)]
    wanted = [(2 * planes, profile), (planes, 2 * profile), (planes, profile // 4), (planes, 0), *halves]
    if record.has_holes:
        wanted.append((planes, profile))
    fitting = [(min(k, record.num_classes), m) for k, m in wanted if k > 0]
    fitting = [(k, min(m, record.num_classes - k)) for k, m in fitting]
    return sorted({size for size in fitting if record.has_holes or size != (planes, profile)}, reverse=True)


def row_bytes(rows: RowBatch, compression: Compression) -> list[int]:
    """What each image's scores, classes and profile take in a store, with the entry in the index."""
    beside = ENTRY_BYTES + rows.classes[:1].nbytes + rows.profile[:1].nbytes
    return [len(CODECS[compression].encode(scores.tobytes())) + beside for scores in rows.scores]


def _of_map(maps: ScoreMap, way: Way, bytes_each: list[int] | None = None) -> Iterator[Labeler]:
    """A map in both spaces."""
    spaces: tuple[Space, ...] = ("logit", "probability")
    for space in spaces:
        named = replace(way, name=f"{way.name}, {space} space", space=space)
        yield Labeler(way=named, labels=_pooler(maps, space), bytes_each=bytes_each)


def _of_store(stored: ScoreMap, record: ScoreRecord) -> Iterator[Labeler]:
    bytes_each = row_bytes(RowBatch.of(stored, record), record.compression)
    if record.has_holes:
        way = Way(name="stored", kind="stored")
        published = replace(way, name="stored, zero fill, as published", kind="published")
        yield Labeler(way=published, labels=_pooler(stored, "logit", "zero"), bytes_each=bytes_each)
    else:
        size = (record.planes, record.profile)
        way = Way(name=f"stored: {_sized(*size)}", kind="stored", planes=size[0], profile=size[1])
    yield from _of_map(stored, way, bytes_each)


def _of_boxes(stored: ScoreMap, record: ScoreRecord) -> Iterator[Labeler]:
    """The stored map with other boxes than the crop's."""
    pool = _pooler(stored, "logit", "zero" if record.is_logit else "rest")
    whole = torch.tensor([WHOLE.xyxy]).expand(len(stored), 4)
    way = Way(name="stored, one label for the whole image", kind="whole image", space="logit")
    yield Labeler(way=way, labels=lambda boxes: pool(whole.to(boxes)))
    way = Way(name="stored, box with x and y swapped", kind="swapped", space="logit")
    yield Labeler(way=way, labels=lambda boxes: pool(swapped(boxes)))


def cell_labelers(logits: Tensor, footprints: Tensor, step: float) -> Iterator[Labeler]:
    """The published kinds of maps, the top 5 classes of each cell, of logits (B, C, H, W) and footprints (B, 4).

    `step` is that of codes in nats, for the kind that the papers do not have: the others at the mean of the rest.
    """
    batch, num_classes, height, width = logits.shape
    top = min(TOP, num_classes)
    values, classes = logits.topk(top, dim=1)
    raw = ScoreMap.from_cell_topk(classes, values.half().float(), num_classes=num_classes)
    raw = replace(raw, footprint=footprints)
    halves = [2 * top * height * width * 2] * batch
    for as_shipped in (False, True):
        way = Way(
            name=f"cell top-{top}, zero fill, as published" + (", box swapped" if as_shipped else ""), kind="published"
        )

        def published(boxes: Tensor, as_shipped: bool = as_shipped) -> Tensor:
            return relabel_targets(raw, boxes, as_shipped=as_shipped)

        yield Labeler(way=way, labels=published, bytes_each=halves)
    scores = logits.log_softmax(1)
    values = scores.gather(1, classes)
    others = max(num_classes - top, 1)
    rest = (scores.sum(1) - values.sum(1)) / others
    codes = encode_scores(torch.cat([values, rest.unsqueeze(1)], dim=1), step)
    filled = decode_scores(codes, step, holes=False)
    maps = ScoreMap.from_cell_topk(classes, filled[:, :-1], num_classes=num_classes, rest=filled[:, -1])
    maps = replace(maps, footprint=footprints)
    bytes_each = [
        sum(len(ZSTD.encode(part.numpy().tobytes())) for part in (one, ids.short())) + 2 * ENTRY_BYTES
        for one, ids in zip(codes, classes, strict=True)
    ]
    way = Way(name=f"cell top-{top}, mean of the rest", kind="published", space="logit")
    yield Labeler(way=way, labels=_pooler(maps, "logit"), bytes_each=bytes_each)


def _of_truths(answers: Answers) -> Iterator[Labeler]:
    """One-hot and smoothed ground truth; NaN where it is not known."""
    num_classes = answers.scores.shape[1]
    known = (answers.truths >= 0) & (answers.truths < num_classes)
    one_hot = torch.nn.functional.one_hot(answers.truths.clamp(0, num_classes - 1), num_classes).float()
    one_hot[~known] = torch.nan
    way = Way(name="ground truth, one-hot", kind="truth", is_hard=True)
    yield Labeler(way=way, labels=lambda boxes: one_hot)
    smoothed = one_hot * (1 - SMOOTHING) + SMOOTHING / num_classes
    yield Labeler(way=Way(name=f"ground truth, smoothed {SMOOTHING:g}", kind="truth"), labels=lambda boxes: smoothed)


def _pooler(maps: ScoreMap, space: Space, fill: Fill = "rest") -> Callable[[Tensor], Tensor]:
    # A crop may lie outside what a map of the centre covers, and must have some label to be counted.
    return lambda boxes: maps.pool(boxes, space=space, fill=fill, uncovered="nearest")


def sized_record(record: ScoreRecord, planes: int, profile: int) -> ScoreRecord:
    """A store of the same coding and another size; of one of raw logits, as `relabel generate` would make it."""
    if record.is_logit:
        return ScoreRecord(num_classes=record.num_classes, planes=planes, profile=profile, grid_hw=record.grid_hw)
    return replace(record, planes=planes, profile=profile)


def _sized(planes: int, profile: int) -> str:
    return f"{planes} planes" + (f" + profile of {profile}" if profile else "")
