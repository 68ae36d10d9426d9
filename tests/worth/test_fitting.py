"""Fitting a reading: samples say what pooling does, folds share no image, and only what is better is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relabel import Reading, ScoreMap
from relabel.worth import fitting
from relabel.worth.fidelity import divergence
from relabel.worth.fitting import AS_IS, FORMS, Fit, fit
from relabel.worth.samples import Samples, crop_samples, token_places, token_samples

_IMAGES, _CROPS, _CLASSES = 40, 3, 12


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _maps(planes: int = 4, profile: int = 3, images: int = _IMAGES) -> ScoreMap:
    cells, whole = (torch.randn(images, _CLASSES, n, n, generator=_rng(n)) * 2 for n in (6, 1))
    logits = cells + whole
    return ScoreMap.from_logits(logits, planes=planes, profile=profile).coded()


def _boxes(images: int = _IMAGES) -> torch.Tensor:
    sides = torch.rand(images, _CROPS, 2, generator=_rng(2)) * 0.7 + 0.3
    start = torch.rand(images, _CROPS, 2, generator=_rng(3)) * (1 - sides)
    return torch.cat([start, start + sides], dim=2)


def _taught(reading: Reading, noise: float = 0.05, planes: int = 4) -> Samples:
    """Crops of which the teacher says, but for some noise, what a reading of the maps says."""
    maps, boxes = _maps(planes), _boxes()
    labels = torch.stack([replace(maps, reading=reading).pool(each) for each in boxes.unbind(1)], dim=1)
    teacher = (labels.log() + torch.randn(labels.shape, generator=_rng(4)) * noise).softmax(2)
    return crop_samples(maps, boxes, teacher, torch.arange(_IMAGES))


def _fit(samples: Samples) -> Fit:
    judged = fit(samples, seed=0)
    assert judged is not None
    return judged.fit


@pytest.mark.parametrize("planes", [4, _CLASSES])
def test_a_sample_says_what_pooling_with_a_reading_does(planes: int) -> None:
    reading = Reading(1.4, 0.2, 0.3, -0.1, tokens=Reading(0.7, 0.0, 0.2))
    maps, boxes = _maps(planes, 0 if planes == _CLASSES else 3, 3), _boxes(3)
    read, ids = replace(maps, reading=reading), torch.arange(3)
    teacher = torch.rand(3, _CROPS, _CLASSES, generator=_rng(5))
    teacher = teacher / teacher.sum(2, keepdim=True)
    samples = crop_samples(maps, boxes, teacher, ids)
    got = fitting.divergences(samples, *reading.weights(samples.log_areas.exp()))
    both = list(zip(teacher.unbind(1), boxes.unbind(1), strict=True))
    wanted = torch.cat([divergence(p, read.pool(box)) for p, box in both])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    places = token_places(0)
    on_tokens = teacher[:, 0, :, None].expand(-1, -1, len(places))
    samples = token_samples(maps, boxes[:, 0], on_tokens, ids, places)
    got = fitting.divergences(samples, *reading.tokens.weights(samples.log_areas.exp()))
    tokens = read.pool(boxes[:, 0], 14).flatten(2)[:, :, places].unbind(2)
    wanted = torch.cat([divergence(teacher[:, 0], label) for label in tokens])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "form"),
    [
        ((0.6, 0, 0, 0), "1 / T"),
        ((1.5, 0.3, 0, 0), "1 / T by log area"),
        ((0.7, 0, 0.5, 0), "crop + whole image"),
        ((1.0, 0.2, 0.5, 0.3), "crop + whole image, both by log area"),
    ],
)
def test_the_simplest_form_that_explains_the_teacher_is_kept_with_its_numbers(numbers, form) -> None:
    found = _fit(_taught(Reading(*numbers)))
    assert found.kept == form
    assert found.reading.numbers == pytest.approx(numbers, abs=0.08)
    line = found.line(form)
    assert line.difference < -2 * line.error
    assert line.kl == pytest.approx(found.line(AS_IS).kl + line.difference)


def test_what_is_no_better_than_its_error_is_not_kept() -> None:
    found = _fit(_taught(Reading(), noise=0.5))
    assert (found.kept, found.reading) == (AS_IS, None)


def test_fewer_images_than_can_be_judged_have_no_fit() -> None:
    samples = _taught(Reading(0.5))
    assert fit(samples[samples.images < 9], seed=0) is None
    assert fit(samples[samples.images < 10], seed=0) is not None


def test_no_image_is_read_by_numbers_that_were_fitted_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, fitted, measured = _taught(Reading(0.6)), [], []
    newton, measure = fitting.newton, fitting._measured

    def spied(some: Samples, which: tuple[int, ...]) -> tuple[float, float, float, float]:
        fitted.append(set(some.images.tolist()))
        return newton(some, which)

    def measuring(some: Samples, reading: Reading) -> torch.Tensor:
        measured.append(set(some.images.tolist()))
        return measure(some, reading)

    monkeypatch.setattr(fitting, "newton", spied)
    monkeypatch.setattr(fitting, "_measured", measuring)
    _fit(samples)
    # The first is of labels as they are, and the last fits, one a form, are of all images.
    measured, fitted = measured[1:], fitted[: -len(FORMS)]
    everything = set(range(_IMAGES))
    assert len(fitted) == len(measured) == len(FORMS) * fitting.FOLDS
    for fold, (of, on) in enumerate(zip(fitted, measured, strict=True)):
        assert (of | on, of & on) == (everything, set())
        assert len(on) == _IMAGES // fitting.FOLDS, fold


def test_one_seed_is_one_fit() -> None:
    samples = _taught(Reading(1.5, 0.3))
    assert _fit(samples) == _fit(samples)
