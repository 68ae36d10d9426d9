"""Trying out a step that is not known: does it show what a guess says?"""

from __future__ import annotations

from typing import Any

from relabel.geometry.views import View
from relabel.tracking.handling import Part, Shown


def told(step: Any, image: Any) -> tuple[Any, Shown]:
    """The handler of a step that may itself return ``(image, relabel.View)``, and else moves no pixel."""
    output = step(image)
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], View):
        return output
    return output, None


def disproof(parts: tuple[Part, ...], name: str) -> str | None:
    """Why the last of some steps does not show what its handler says; None if it does."""
    del parts, name
    return "it is not known"
