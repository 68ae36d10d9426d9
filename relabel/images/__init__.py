"""Image sources: folders and webdataset tars to (key, bytes), and bytes to the pixels a teacher sees."""

from relabel.images.decode import DecodedImage, ImageFacts, decode_and_fit, header_facts
from relabel.images.encoded import EncodedImage, ImageSource, Listing, SourcePart, Span, image_hash
from relabel.images.source import open_source

__all__ = [
    "DecodedImage",
    "EncodedImage",
    "ImageFacts",
    "ImageSource",
    "Listing",
    "SourcePart",
    "Span",
    "decode_and_fit",
    "header_facts",
    "image_hash",
    "open_source",
]
