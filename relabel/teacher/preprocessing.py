"""What a teacher's images go through: the model's own values, where the spec does not say otherwise."""

from __future__ import annotations

from dataclasses import replace

from relabel.manifest import Preprocessing
from relabel.teacher.spec import TeacherSpec


def chosen(spec: TeacherSpec, own: Preprocessing) -> Preprocessing:
    """A model's own preprocessing with what the spec asks for; an unsaid crop is the whole centred crop.

    Raises:
        InvalidValueError: a crop without fit "center", or values without meaning.
    """
    return replace(
        own,
        image_size_hw=spec.image_size_hw or own.image_size_hw,
        mean=spec.mean or own.mean,
        std=spec.std or own.std,
        interpolation=spec.interpolation or own.interpolation,
        fit=spec.fit,
        crop=1.0 if spec.crop is None else spec.crop,
        decode=spec.decode,
    )
