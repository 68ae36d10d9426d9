"""The reading of a store: what it is fitted to, gathered batch by batch, and the file that it ends in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relabel.reading import Reading
from relabel.store import StoreReader
from relabel.store.readings import READING, Gain, ReadingRecord, read_reading, write_reading
from relabel.worth.fitting import AS_IS, Fit, Judged, fit
from relabel.worth.options import LabelsOptions
from relabel.worth.samples import Samples, crop_samples, token_places, token_samples
from relabel.worth.ways import Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingReport:
    """What readings bring to a store's labels.

    Attributes:
        image: labels of crops; None for fewer than 10 images.
        tokens: labels of their tokens, likewise; None unless they were asked for.
        written: what became of reading.json, a sentence; empty unless it was asked for.
    """

    image: Fit | None
    tokens: Fit | None
    written: str


class Gathered:
    """Takes batches, and keeps a few hundred numbers a crop."""

    def __init__(self, options: LabelsOptions) -> None:
        self._options = options
        self._crops: list[Samples] = []
        self._tokens: list[Samples] = []
        self._images = 0
        self.places = token_places(options.seed)

    def add(self, answers: Answers, boxes_xyxy: Tensor, on_crops: Tensor, on_tokens: Tensor | None) -> None:
        """Crops (B, n, 4) with the teacher's probabilities of them (B, n, C), and of tokens at `places` of the first of
        each (B, C, k)."""
        stored = answers.stored
        images = torch.arange(self._images, self._images + len(stored))
        self._images += len(stored)
        self._crops.append(crop_samples(stored, boxes_xyxy, on_crops, images))
        if on_tokens is not None:
            self._tokens.append(token_samples(stored, boxes_xyxy[:, 0], on_tokens, images, self.places))

    def judged(self) -> Judged | None:
        """The fit of image labels."""
        return fit(Samples.joined(self._crops), self._options.seed) if self._crops else None

    def conclude(self, reader: StoreReader, judged: Judged | None) -> ReadingReport:
        """Fit token labels, and write what is better than labels as they are, where that was asked for.

        Raises:
            StoreError: the store's folder cannot be written.
        """
        image = None if judged is None else judged.fit
        if not self._options.fit:
            return ReadingReport(image=image, tokens=None, written="")
        on_tokens = fit(Samples.joined(self._tokens), self._options.seed) if self._tokens else None
        tokens = None if on_tokens is None else on_tokens.fit
        reading = Reading() if image is None or image.reading is None else image.reading
        reading = replace(reading, tokens=None if tokens is None else tokens.reading)
        if image is None or reading == Reading():
            return ReadingReport(image=image, tokens=tokens, written=_left(reader, image))
        record = ReadingRecord(
            reading=reading,
            images=image.images,
            crops=image.samples,
            seed=self._options.seed,
            image=_gain(image),
            tokens=None if tokens is None else _gain(tokens),
        )
        write_reading(reader, record)
        written = f"{reader.files.where}/{READING} is written: relabel.open reads labels by it"
        return ReadingReport(image=image, tokens=tokens, written=written)


def _left(reader: StoreReader, image: Fit | None) -> str:
    why = "too few images were measured" if image is None else "no reading is better than labels as they are"
    kept = read_reading(reader) is not None
    return f"{READING} is not written: {why}" + (
        f". The one of an earlier fit stays; delete {reader.files.where}/{READING} for labels as they are" * kept
    )


def _gain(fitted: Fit) -> Gain | None:
    if fitted.kept == AS_IS:
        return None
    line = fitted.line(fitted.kept)
    return Gain(as_is=fitted.line(AS_IS).kl, read=line.kl, error=line.error)
