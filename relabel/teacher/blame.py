"""Exceptions out of other people's code, a model's or a user's, become errors that say which teacher and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relabel.errors import RelabelError, TeacherError, lacks_memory


@contextmanager
def blaming(what: str, way_out: str, *, spares_memory: bool = False) -> Iterator[None]:
    """Raise whatever goes wrong inside as a `TeacherError` of three parts: what failed, its reason, what to do.

    With `spares_memory` a want of memory goes through, which smaller batches may cure.
    """
    try:
        with _no_success():
            yield
    except RelabelError:
        raise
    except Exception as error:
        if lacks_memory(error):
            if spares_memory:
                raise
            way_out = "Free the device, or take a smaller teacher or image size"
            what = f"{what}: out of memory"
        raise TeacherError(f"{what}: {first_line(error)}. {way_out}") from error


@contextmanager
def _no_success() -> Iterator[None]:
    """A program that ends in the midst of a model has not succeeded, whatever the model's code says.

    An exit that tells of a failure may be a signal handler's of the calling program, and goes on.
    """
    try:
        yield
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
        raise RuntimeError("it ends the program by SystemExit") from error


def first_line(error: BaseException) -> str:
    """The error's kind and the first line of what it says, without a full stop."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}".rstrip(" .:")
