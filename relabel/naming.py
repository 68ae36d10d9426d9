"""Which names are images', and what webdataset makes of the names in a tar: one rule for sources and for streams."""

from __future__ import annotations

from collections.abc import Iterable

IMAGE_SUFFIXES = frozenset(
    {
        *("avif", "bmp", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    }
)
"""All that can be decoded here: more than torchvision's ImageFolder and webdataset's decoder take, since a label that
nobody asks for costs little, and one that is missing stops a training."""

HIDDEN, NO_SUFFIX, OTHER, LINKS = "hidden files", "files without a suffix", "other files", "links, pipes and devices"
DANGLING, NO_CLASS = "links that lead nowhere", "images outside the class folders"
_LONGEST_SUFFIX = 8
"""Characters: behind a longer one's dot is a part of a name."""


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's, in any case."""
    _, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in IMAGE_SUFFIXES


def key_and_suffix(path: str) -> tuple[str, str]:
    """webdataset's rule: the key ends at the first dot of the last path component; the suffix is in lower case.

    Both are empty where the component begins with a dot, or has none.

    >>> key_and_suffix("./train/cat.seg.PNG")
    ('./train/cat', 'seg.png')
    """
    folder, slash, base = path.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and suffix else ("", "")


def image_suffixes(suffixes: Iterable[str]) -> list[str]:
    """Which of a sample's members, by their suffixes, are its image: one of them, unless the sample is ambiguous.

    >>> image_suffixes(["cls", "seg.png", "jpg"])
    ['jpg']
    """
    images = [suffix for suffix in suffixes if is_image_name(f".{suffix}")]
    # A mask may lie beside its image, x.seg.png beside x.jpg.
    return [suffix for suffix in images if "." not in suffix] or images


def kind_of_file(name: str) -> str:
    """What a file that is no image is counted as: its suffix, as a rule."""
    base = name.rpartition("/")[2]
    stem, _, suffix = base.rpartition(".")
    if base.startswith("."):
        return HIDDEN
    if not stem:
        return NO_SUFFIX
    return f".{suffix.lower()}" if suffix.isalnum() and len(suffix) <= _LONGEST_SUFFIX else OTHER
