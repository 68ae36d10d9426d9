"""From samples to a reading: four numbers and simpler forms, fitted by Newton's method and judged on other images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.reading import Reading
from relabel.worth.samples import Samples

FOLDS = 5
LEAST_IMAGES = 2 * FOLDS
"""A fold of one image has no error."""
ERRORS = 2.0
"""A difference of fewer standard errors is none: chance alone makes one in 20 as large."""
GAIN = 0.01
"""Of the KL: a form that is better by less is not worth its numbers, which must hold for images not seen."""
AS_IS = "as is"
FORMS: dict[str, tuple[int, ...]] = {
    "1 / T": (0,),
    "1 / T by log area": (0, 1),
    "crop + whole image": (0, 2),
    "crop + whole image, both by log area": (0, 1, 2, 3),
}
"""Which of a, b, c and d are fitted; the others stay those of the label as it is. Simpler forms come first."""
_RIDGE = 1e-5
"""Nats a squared unit of a number: what no sample says anything of, as a map without any contrast, stays as it is."""
_STEPS, _ENOUGH = 50, 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class FormLine:
    """A form of reading, held out: each image is read by numbers that the other folds' images were fitted to.

    Attributes:
        form: what it is.
        numbers: a, b, c and d, fitted to all images.
        kl: mean KL in nats of the teacher's own answers from the labels, NaN where no reading may have such numbers.
        difference, error: that KL less the one of labels as they are, and one standard error of it, over images.
        top1, top1_as_is: how often label and teacher name the same class, read and as it is.
        top1_error: one standard error of their difference.
    """

    form: str
    numbers: tuple[float, float, float, float]
    kl: float
    difference: float
    error: float
    top1: float
    top1_as_is: float
    top1_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the forms came to.

    Attributes:
        lines: as is, and each form.
        kept: the form that is kept.
        reading: of it; None for labels as they are.
        images, samples: how many there were.
    """

    lines: tuple[FormLine, ...]
    kept: str
    reading: Reading | None
    images: int
    samples: int

    def line(self, form: str) -> FormLine:
        """That of a form."""
        return next(line for line in self.lines if line.form == form)


class Judged(NamedTuple):
    """A fit, and what the form that it keeps has for each image, (images,) float64, held out."""

    fit: Fit
    kl_each: Tensor


def fit(samples: Samples, seed: int) -> Judged | None:
    """The simplest form that is better than all simpler ones, on images that it was not fitted to.

    Better is: by 2 standard errors of the paired difference over images, and by 1 % of the KL of labels as they are,
    where the teacher's likeliest class is not named less often than by labels as they are, by more than one standard
    error. Forms are tried from the simplest on, each against the one that is kept so far.

    Returns:
        None for fewer images than can be judged, 10.
    """
    numbers = samples.images.unique()
    if len(numbers) < LEAST_IMAGES:
        return None
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed % 2**63))
    fold_of = torch.empty(len(numbers), dtype=torch.int64)
    fold_of[order] = torch.arange(len(numbers)) % FOLDS
    each = torch.searchsorted(numbers, samples.images)
    as_is = _measured(samples, Reading())
    found = {AS_IS: as_is} | {form: _held_out(samples, fold_of[each], which) for form, which in FORMS.items()}
    by_image = {form: _by_image(values, each, len(numbers)) for form, values in found.items()}
    kept = AS_IS
    for form in FORMS:
        mean, error = difference(by_image[kept][0] - by_image[form][0])
        less, top1_error = difference(by_image[AS_IS][1] - by_image[form][1])
        if mean > max(ERRORS * error, GAIN * float(by_image[AS_IS][0].mean())) and less <= top1_error:
            kept = form
    fitted = {AS_IS: Reading().numbers} | {form: newton(samples, which) for form, which in FORMS.items()}
    try:
        reading = None if kept == AS_IS else Reading(*fitted[kept])
    except InvalidValueError:
        # Of all images, and not of four folds: it is at the very edge.
        kept, reading = AS_IS, None
    lines = [_line(form, fitted[form], by_image[form], by_image[AS_IS]) for form in found]
    found_fit = Fit(lines=tuple(lines), kept=kept, reading=reading, images=len(numbers), samples=len(samples))
    return Judged(found_fit, by_image[kept][0])


def newton(samples: Samples, which: Sequence[int]) -> tuple[float, float, float, float]:
    """a, b, c and d that are nearest to the teacher, of which only some differ from (1, 0, 0, 0).

    The mean KL is convex in them.
    """
    identity = torch.tensor(Reading().numbers, dtype=torch.float64)
    ones, none = torch.ones_like(samples.log_areas), torch.zeros_like(samples.log_areas)
    # (n, 4, 2): what each number adds to the weights of the crop's scores and of the whole image's.
    design = torch.stack(
        [
            torch.stack([ones, samples.log_areas, none, none], dim=1),
            torch.stack([none, none, ones, samples.log_areas], dim=1),
        ],
        dim=2,
    )[:, list(which)]
    theta, at_rest = identity[list(which)].clone(), identity[list(which)]
    scores = torch.stack([samples.pooled, samples.whole], dim=1)
    wanted = torch.einsum("nbs,ns->nb", scores, samples.teacher)
    fixed = torch.stack([ones, none], dim=1) - torch.einsum("nkb,k->nb", design, at_rest)

    def weighed(theta: Tensor) -> Tensor:
        return fixed + torch.einsum("nkb,k->nb", design, theta)

    def loss(theta: Tensor) -> float:
        weights = weighed(theta)
        kl = divergences(samples, weights[:, 0], weights[:, 1]).mean()
        return float(kl + _RIDGE / 2 * (theta - at_rest).square().sum())

    now = loss(theta)
    for _ in range(_STEPS):
        weights = weighed(theta)
        label = log_labels(samples, weights[:, 0], weights[:, 1]).exp() * samples.counts
        mean = torch.einsum("nbs,ns->nb", scores, label)
        spread = torch.einsum("nbs,ncs,ns->nbc", scores, scores, label) - mean[:, :, None] * mean[:, None, :]
        slope = torch.einsum("nkb,nb->k", design, mean - wanted) / len(samples) + _RIDGE * (theta - at_rest)
        bend = torch.einsum("nkb,nbc,nlc->kl", design, spread, design) / len(samples)
        step = torch.linalg.solve(bend + _RIDGE * torch.eye(len(theta), dtype=torch.float64), slope)
        length = 1.0
        while (then := loss(theta - length * step)) > now and length > _ENOUGH:
            length /= 2
        if now - then < _ENOUGH:
            break
        theta, now = theta - length * step, then
    numbers = identity.clone()
    numbers[list(which)] = theta
    a, b, c, d = numbers.tolist()
    return a, b, c, d


def log_labels(samples: Samples, pooled: Tensor, whole: Tensor) -> Tensor:
    """(n, S) the logarithm of what a label gives each class of a column, by the weights (n,) of its two scores."""
    scores = pooled[:, None] * samples.pooled + whole[:, None] * samples.whole
    return scores - (scores + samples.counts.log()).logsumexp(1, keepdim=True)


def divergences(samples: Samples, pooled: Tensor, whole: Tensor) -> Tensor:
    """(n,) KL in nats of the teacher's answers from such labels."""
    return samples.certainty - (samples.teacher * log_labels(samples, pooled, whole)).sum(1)


def _measured(samples: Samples, reading: Reading) -> Tensor:
    """(2, n): KL from the teacher, and whether both name the same class."""
    pooled, whole = reading.weights(samples.log_areas.exp())
    named = log_labels(samples, pooled, whole).masked_fill(samples.counts == 0, -math.inf).argmax(1)
    return torch.stack([divergences(samples, pooled, whole), (named == samples.likeliest).double()])


def _held_out(samples: Samples, folds: Tensor, which: Sequence[int]) -> Tensor:
    """As `_measured`, each sample by a fit to the other folds; NaN where no reading may have such numbers."""
    found = torch.full((2, len(samples)), math.nan, dtype=torch.float64)
    for fold in range(FOLDS):
        try:
            reading = Reading(*newton(samples[folds != fold], which))
        except InvalidValueError:
            return torch.full_like(found, math.nan)
        found[:, folds == fold] = _measured(samples[folds == fold], reading)
    return found


def _by_image(values: Tensor, each: Tensor, images: int) -> Tensor:
    """(2, images): the means of (2, n)."""
    sums = values.new_zeros(2, images).index_add_(1, each, values)
    return sums / each.bincount(minlength=images)


def difference(apart: Tensor) -> tuple[float, float]:
    """The mean of (images,), and its standard error; 0 of a single one, of which nothing is known."""
    return float(apart.mean()), float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0


def _line(form: str, numbers: tuple[float, float, float, float], values: Tensor, as_is: Tensor) -> FormLine:
    less, error = difference(values[0] - as_is[0])
    _, top1_error = difference(values[1] - as_is[1])
    return FormLine(
        form=form,
        numbers=numbers,
        kl=float(values[0].mean()),
        difference=less,
        error=error,
        top1=float(values[1].mean()),
        top1_as_is=float(as_is[1].mean()),
        top1_error=top1_error,
    )
