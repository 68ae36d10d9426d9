"""From a `TeacherSpec` to a proved `Teacher`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher import torchvision_source, transformers_source
from relabel.teacher.candidate import Candidate, noise_of
from relabel.teacher.classes import KeptClasses, imagenet_ids, imagenet_names, kept_classes
from relabel.teacher.devices import cast_once, find_device, find_precision
from relabel.teacher.given import given_candidate
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.teacher import Teacher
from relabel.teacher.timm_source import is_timm_name, timm_candidate

_log = logging.getLogger(__name__)


def load_teacher(spec: TeacherSpec) -> Teacher:
    """Build, load and prove a teacher.

    Raises:
        TeacherError: unknown name, weights that cannot be had or do not fit, an input size it does not take, or a head
            that cannot be proved; says what to do.
    """
    device = find_device(spec.device)
    spec = replace(spec, precision=find_precision(spec.precision, device))
    if spec.decode == "cuda" and device.type != "cuda":
        raise TeacherError(
            f"a GPU cannot decode for a teacher on {device}: leave --decode cuda out, or give --device cuda"
        )
    found = _source(spec.name)(spec, device)
    if not found.proof.localises:
        _log.warning(
            "a change in a corner of a noise image does not show most in that corner of the map of %s: its score maps "
            "may say little of where things are. Look at some before labelling many images",
            spec.name,
        )
    found = _with_classes(found, spec, device)
    forward = found.forward
    if isinstance(forward, nn.Module):
        cast_once(forward, noise_of(found.preprocessing, device), spec.precision)
    if spec.channels_last and isinstance(forward, nn.Module):
        # torch's stubs lack the overload that takes a memory format alone.
        forward.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(
        forward=torch.compile(forward) if spec.compile else forward,
        num_classes=found.answer.num_classes,
        grid=found.answer.grid,
        preprocessing=found.preprocessing,
        record=found.record,
        proof=found.proof,
        device=device,
        channels_last=spec.channels_last,
        class_names=found.class_names,
    )


def _source(name: str) -> Callable[[TeacherSpec, torch.device], Candidate]:
    if is_timm_name(name):
        return timm_candidate
    if name.startswith(torchvision_source.PREFIX):
        return torchvision_source.torchvision_candidate
    if name.startswith(transformers_source.PREFIX):
        return transformers_source.transformers_candidate
    return given_candidate


def _with_classes(found: Candidate, spec: TeacherSpec, device: torch.device) -> Candidate:
    """The same with the classes that the spec keeps, and with their names where they are known."""
    num_classes = found.answer.num_classes
    is_imagenet = is_timm_name(spec.name) or spec.name.startswith(torchvision_source.PREFIX)
    wordnet_ids = imagenet_ids(num_classes) if is_imagenet else None
    if spec.classes is None:
        # Of weights of one's own timm knows no more than how many classes they have, and those may be any.
        if wordnet_ids is None or found.record.weights != "pretrained" or found.class_names is not None:
            return found
        return replace(found, class_names=imagenet_names(wordnet_ids))
    if wordnet_ids is not None and found.record.weights == "checkpoint":
        _log.warning(
            "the %d classes of the checkpoint of %s are taken to be those of ImageNet with so many, in timm's order",
            num_classes,
            spec.name,
        )
    kept = kept_classes(spec.classes, num_classes, wordnet_ids, spec.name)
    return replace(
        found,
        forward=KeptClasses(found.forward, kept.numbers, device),
        record=replace(found.record, classes=kept.record),
        answer=replace(found.answer, num_classes=len(kept.numbers)),
        class_names=kept.names,
    )
