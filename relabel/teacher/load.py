"""From a `TeacherSpec` to a proved `Teacher`."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher.blame import first_line
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
    device = _device(spec.device)
    source = timm_candidate if is_timm_name(spec.name) else given_candidate
    found = source(spec, device)
    if not found.proof.localises:
        _log.warning(
            "a change in a corner of a noise image does not show most in that corner of the map of %s: its score maps "
            "may say little of where things are. Look at some before labelling many images",
            spec.name,
        )
    forward = found.forward
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
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # torchrun and srun start a process for each GPU of a machine, and say which of them it is.
        local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        return torch.device("cuda", int(local) % torch.cuda.device_count() if local.isdecimal() else 0)
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("the meta device computes nothing")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(f"no device {name!r} here: {first_line(error)}. Use --device cpu or cuda") from error
    return device
