"""Image sources: folders and webdataset tars to (key, bytes), and bytes to the pixels a teacher sees."""

from relabel.images.decode import DecodedImage, decode_and_fit, size_hw
from relabel.images.encoded import EncodedImage, ImageSource, Listing, SourcePart, Span, image_hash
from relabel.images.source import open_source

__all__ = [
    "DecodedImage",
    "EncodedImage",
    "ImageSource",
    "Listing",
    "SourcePart",
    "Span",
    "decode_and_fit",
    "image_hash",
    "open_source",
    "size_hw",
]
