"""Exceptions out of other people's code, a model's or a user's, become errors that say which teacher and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relabel.errors import RelabelError, TeacherError


@contextmanager
def blaming(what: str, way_out: str) -> Iterator[None]:
    """Raise whatever goes wrong inside as a `TeacherError` of three parts: what failed, its reason, what to do."""
    try:
        yield
    except RelabelError:
        raise
    except torch.OutOfMemoryError as error:
        raise TeacherError(
            f"{what}: out of memory ({first_line(error)}). Free the device, or take a smaller teacher or image size"
        ) from error
    except Exception as error:
        raise TeacherError(f"{what}: {first_line(error)}. {way_out}") from error


def first_line(error: BaseException) -> str:
    """The error's kind and the first line of what it says, without a full stop."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}".rstrip(" .:")
