"""What a program, or the module of a teacher, may have set in its process, and what must not show in a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

_AUTOCAST = ("cpu", "cuda")


@contextmanager
def torch_defaults() -> Iterator[None]:
    """torch as it is when it was just imported: no default type, default device, autocast or lower precision of others.

    Afterwards all that is as it was before, whatever was set meanwhile. What only chooses among kernels stays (threads,
    cuDNN's benchmark and deterministic modes): it moves sums in their last bits, as another machine does.
    """
    with ExitStack() as stack:
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        # Without one, no function of torch is looked at twice.
        stack.callback(torch.set_default_device, device if device.type != "cpu" else None)
        torch.set_default_device(None)
        for kind in _AUTOCAST:
            stack.callback(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
            torch.set_autocast_enabled(kind, False)
        stack.enter_context(float32(cudnn_conv="tf32"))
        yield


@contextmanager
def float32(*, cudnn_conv: str = "ieee") -> Iterator[None]:
    """Multiply and convolve float32 in float32, whatever torch is set to: TF32 alone is 1e-3 away.

    But for cuDNN's convolutions, where they are wanted otherwise ("tf32").
    """
    backends: Any = torch.backends
    switches = [backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.mkldnn.conv]
    before = [switch.fp32_precision for switch in switches]
    try:
        old_switch = torch.get_float32_matmul_precision()
    except RuntimeError:
        # torch refuses to say it where only the newer switches were used; those are put back below.
        old_switch = None
    try:
        # The old switch sets the newer ones of matmul too, and cuBLAS wants the two to agree.
        torch.set_float32_matmul_precision("highest")
        for switch, precision in zip(switches[2:], (cudnn_conv, "ieee"), strict=True):
            switch.fp32_precision = precision
        yield
    finally:
        if old_switch is not None:
            torch.set_float32_matmul_precision(old_switch)
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def same_place() -> Iterator[None]:
    """Afterwards the current folder and the mode of new files are as before: paths of the user's are relative."""
    folder, mask = Path.cwd(), os.umask(0o022)
    os.umask(mask)
    try:
        yield
    finally:
        os.chdir(folder)
        os.umask(mask)
