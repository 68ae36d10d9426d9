"""Where a teacher runs, and in which precision."""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor, nn

from relabel.errors import TeacherError
from relabel.teacher.blame import first_line
from relabel.teacher.spec import Precision

_log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d)


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one, and "cuda" without a number this process's own.

    Raises:
        TeacherError: there is no such device here.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name in ("auto", "cuda") and torch.cuda.is_available():
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


def device_text(device: torch.device) -> str:
    """What computes, for a person: a GPU's name, or the CPU's widest numbers, on which its last bits depend."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else str(device)


def find_precision(wanted: Precision, device: torch.device) -> Precision:
    """What "auto" stands for: bfloat16 on a GPU that computes in it, float32 elsewhere."""
    if wanted != "auto":
        return wanted
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def cast_once(model: nn.Module, images: Tensor, precision: str) -> None:
    """Cast now the weights that autocast would cast again for every batch, where no answer changes by it.

    Only those of plain linear and convolutional layers, which run in that precision whatever they are given. A model
    may still read them for something else, so its answer to `images` (normalised, (B, 3, h, w)) must stay the same to
    the bit; else they are left as they were.
    """
    dtype = DTYPES[precision]
    if dtype == torch.float32:
        return
    plain = {id(p): p for m in model.modules() if type(m) in _PLAIN for p in m.parameters(recurse=False)}
    for module in model.modules():
        if type(module) not in _PLAIN:
            # Shared with a layer that may need it in float32.
            for parameter in module.parameters(recurse=False):
                plain.pop(id(parameter), None)
    with torch.inference_mode(), torch.autocast(images.device.type, dtype):
        expected = model(images)
    before = [(p, p.data) for p in plain.values() if p.dtype == torch.float32]
    try:
        for parameter, data in before:
            parameter.data = data.to(dtype)
        with torch.inference_mode(), torch.autocast(images.device.type, dtype):
            is_same = torch.equal(model(images), expected)
    except RuntimeError as error:
        # Two dtypes where the model expects one.
        _log.debug("weights cannot be cast: %s", error)
        is_same = False
    if not is_same:
        for parameter, data in before:
            parameter.data = data
