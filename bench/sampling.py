"""Images of a source at random, the same ones for a seed."""

from __future__ import annotations

import random
from typing import NoReturn

from relabel.errors import SourceError
from relabel.images import EncodedImage, open_source
from relabel.progress import Progress


def sample(images: str, count: int, seed: int) -> list[EncodedImage]:
    """`count` images of a source at random, or all if it has fewer."""
    source = open_source(images)
    with Progress("listing images", None, unit="images") as progress:
        listing = source.listing(None, workers=2, progress=progress.advance)
    keys = [(key, part.name) for part in listing.parts for key in part.keys]
    chosen = sorted(random.Random(seed).sample(range(len(keys)), min(count, len(keys))))
    return list(source.find(dict(keys[i] for i in chosen), _refuse))


def _refuse(error: SourceError) -> NoReturn:
    raise error
