"""`verify_labels`: the teacher run once more, its maps held against the stored ones, and what the labels are worth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relabel.ambient import torch_defaults
from relabel.errors import ImageError, StoreError
from relabel.findings import Finding
from relabel.geometry import Box
from relabel.images import EncodedImage, ImageSource, open_source
from relabel.images.crops import random_crops
from relabel.images.decode import decode
from relabel.manifest import ClassSpaces
from relabel.progress import Progress
from relabel.store import StoreReader
from relabel.worth.checking import ScoreCheck, ScoreSummary
from relabel.worth.fidelity import Fidelity, LabelLine
from relabel.worth.fitting import Judged
from relabel.worth.options import LabelsOptions
from relabel.worth.readings import Gathered, ReadingReport
from relabel.worth.recommend import Recommendation, recommend
from relabel.worth.rerun import Rerun, at_once
from relabel.worth.samples import TOKENS
from relabel.worth.sampling import SampledRow, sample_rows, sampled_images
from relabel.worth.sizes import Sizes, SizesReport
from relabel.worth.ways import Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsReport:
    """The outcome of `verify_labels`.

    Attributes:
        teacher: what was run.
        crop_size_hw: (height, width) in pixels to which crops were resized for it.
        is_own_answer: whether it answered for crops by its own head; else by the mean over its map of the crop.
        images: sampled.
        crops: measured.
        seconds: all that it took.
        scores: how far the stored scores are from the re-run's.
        causes: of the maps that are wrong, the most frequent first, a sentence each.
        lines: the table of labels; empty where no image could be compared.
        recommendation: read from it; None likewise.
        sizes: what other image sizes and grids would give; None where it was not asked for, or likewise.
        reading: what a reading brings, and whether one was written.
        findings: what is wrong, ordered by shard and row.
        class_spaces: whether the ground truth is of the labels' classes; where it is not, nothing is compared with it.
    """

    teacher: str
    crop_size_hw: tuple[int, int]
    is_own_answer: bool
    images: int
    crops: int
    seconds: float
    scores: ScoreSummary
    causes: tuple[str, ...]
    lines: tuple[LabelLine, ...]
    recommendation: Recommendation | None
    sizes: SizesReport | None
    reading: ReadingReport
    findings: tuple[Finding, ...]
    class_spaces: ClassSpaces

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@torch_defaults()
def verify_labels(store: str | Path, images: str | ImageSource, options: LabelsOptions | None = None) -> LabelsReport:
    """Run a store's teacher again on some of its images, compare, and measure what the labels of crops are worth.

    Args:
        store: the store's folder or URL; shards that are not published are left out.
        images: what was labelled, as `relabel generate` takes it.
        options: everything else.

    Raises:
        StoreError: not a store, damaged, or without any labelled image.
        SourceError: the images cannot be found.
        TeacherError: the teacher cannot be loaded from what the manifest and the options say.
    """
    options = options or LabelsOptions()
    started = time.perf_counter()
    reader = StoreReader(store, partial=True)
    source = open_source(images, options=options)
    rows = sample_rows(reader, options.count, options.seed)
    if not rows:
        raise StoreError(f"{reader.files.where} holds no labelled image in a published shard: run `relabel generate`")
    rerun = Rerun(reader.manifest, options.rerun)
    spaces = reader.manifest.class_spaces(max(row.label for row in rows))
    if spaces.are_same is False:
        rows = [replace(row, label=-1) for row in rows]
    run = _Run(reader, rerun, options)
    with Progress(
        "running the teacher",
        len(rows),
        unit="images",
        shown=options.show_progress,
        reading=lambda: source.reading,
    ) as progress:
        stream = sampled_images(source, reader, rows, run.check.findings, progress.advance)
        while chunk := list(islice(stream, run.batch_size)):
            run.take(chunk)
            progress.advance(len(chunk))
    judged = run.gathered.judged()
    findings = [*run.check.findings, *(Finding(-1, -1, "", what) for what in rerun.findings())]
    return LabelsReport(
        teacher=rerun.description(),
        crop_size_hw=rerun.crop_size_hw,
        is_own_answer=rerun.is_own_answer,
        images=len(rows),
        crops=run.crops,
        seconds=time.perf_counter() - started,
        scores=run.check.summary(),
        causes=run.check.causes(),
        lines=tuple(run.fidelity.lines()),
        sizes=None if run.sizes is None else run.sizes.report(),
        recommendation=run.recommendation(judged),
        reading=run.gathered.conclude(reader, judged),
        findings=tuple(sorted(findings)),
        class_spaces=spaces,
    )


class _Run:
    """What is gathered image by image."""

    def __init__(self, reader: StoreReader, rerun: Rerun, options: LabelsOptions) -> None:
        record = reader.manifest.scores
        self.batch_size = at_once(record.num_classes, record.grid_hw, options.batch_size)
        self.check = ScoreCheck(reader, rerun)
        self.fidelity = Fidelity(record)
        self.sizes = Sizes(reader.manifest, options) if options.sizes else None
        self.gathered = Gathered(options)
        self.crops = 0
        self._reader, self._rerun, self._options = reader, rerun, options
        self._covered = 0.0

    def take(self, chunk: Sequence[tuple[SampledRow, EncodedImage]]) -> None:
        """Run the teacher on some images and on their crops."""
        decoded = list(self._decoded(chunk))
        if not decoded:
            return
        rows = [row for row, _, _ in decoded]
        fitted = [self._rerun.fitted(pixels, data) for _, pixels, data in decoded]
        logits = self._rerun.maps([torch.stack(view) for view in zip(*(views for views, _ in fitted), strict=True)])
        manifest = self._reader.manifest
        answers = Answers(
            stored=self._reader.read(np.array([row.number for row in rows], np.int64)).maps(manifest.scores),
            logits=logits,
            scores=logits.log_softmax(1),
            footprints=torch.stack([footprint for _, footprint in fitted]),
            truths=torch.tensor([row.label for row in rows]),
        )
        self.check.add(rows, answers, [(pixels.shape[1], pixels.shape[2]) for _, pixels, _ in decoded])
        boxes, on_crops, on_tokens = self._cropped([(row, pixels) for row, pixels, _ in decoded])
        self.fidelity.add(answers, boxes, on_crops)
        if self.sizes is not None:
            self.sizes.add([(pixels, data) for _, pixels, data in decoded], boxes, on_crops)
        self.gathered.add(answers, boxes, on_crops, on_tokens)
        self._covered += float(sum(answers.stored.covered(each).double().sum() for each in boxes.unbind(1)))
        self.crops += len(rows) * self._options.crops

    def recommendation(self, judged: Judged | None) -> Recommendation | None:
        """What the table says; None without one."""
        if not self.crops:
            return None
        record = self._reader.manifest.scores
        wrong = self.check.summary().wrong
        return recommend(self.fidelity.tallies, record, judged, covered=self._covered / self.crops, wrong=wrong)

    def _decoded(self, chunk: Sequence[tuple[SampledRow, EncodedImage]]) -> Iterator[tuple[SampledRow, Tensor, bytes]]:
        exif = self._rerun.ensemble.views[0].exif
        for row, image in chunk:
            try:
                yield row, decode(image.encoded()).seen(exif), image.data
            except ImageError as error:
                self.check.findings.append(row.finding(f"the image was labelled, and cannot be decoded now: {error}"))

    def _cropped(self, images: Sequence[tuple[SampledRow, Tensor]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes (B, n, 4) of random crops of images uint8 (3, H, W), the teacher's answers (B, n, C) on them, and on
        some tokens of each image's first crop (B, C, k), where a reading is to be fitted to them."""
        boxes, answers, tokens = [], [], []
        for row, pixels in images:
            size_hw = (pixels.shape[1], pixels.shape[2])
            crops = random_crops(size_hw, self._options.crops, f"{self._options.seed} {row.number}")
            boxes.append(torch.tensor([Box.from_crop(*crop, size_hw).xyxy for crop in crops]))
            cut = [pixels[:, top : top + height, left : left + width] for top, left, height, width in crops]
            # An image's crops at a time: as many as are asked for may be more than a batch.
            parts = [cut[i : i + self.batch_size] for i in range(0, len(cut), self.batch_size)]
            answers.append(torch.cat([self._rerun.answers(part) for part in parts]))
            if self._options.fit:
                tokens.append(self._rerun.token_answers(cut[0], self.gathered.places, TOKENS))
        return torch.stack(boxes), torch.stack(answers), torch.stack(tokens) if tokens else None
