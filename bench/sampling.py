"""Images of a source at random, the same ones for a seed."""

from __future__ import annotations

import random

from relabel.images import EncodedImage, open_source
from relabel.progress import Progress


def sample(images: str, count: int, seed: int) -> list[EncodedImage]:
    """`count` images of a source at random, or all if it has fewer."""
    source = open_source(images)
    with Progress("listing images", None, unit="images") as progress:
        listing = source.listing(workers=2, progress=progress.advance)
    places = [(part.name, i) for part in listing for i in range(len(part.keys))]
    chosen = sorted(random.Random(seed).sample(places, min(count, len(places))))
    wanted: dict[str, list[int]] = {}
    for name, index in chosen:
        wanted.setdefault(name, []).append(index)
    found: list[EncodedImage] = []
    for part in listing:
        if indices := set(wanted.get(part.name, ())):
            found += [image for i, image in enumerate(source.read(part.name, 0, len(part.keys))) if i in indices]
    return found
