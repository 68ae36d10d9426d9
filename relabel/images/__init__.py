"""Image sources: folders and webdataset tars to (key, bytes), and bytes to the pixels a teacher sees."""

from relabel.images.decode import DecodedImage as DecodedImage
from relabel.images.decode import ImageFacts as ImageFacts
from relabel.images.decode import decode_and_fit as decode_and_fit
from relabel.images.decode import header_facts as header_facts
from relabel.images.encoded import EncodedImage as EncodedImage
from relabel.images.encoded import ImageSource as ImageSource
from relabel.images.encoded import Listing as Listing
from relabel.images.encoded import SourcePart as SourcePart
from relabel.images.encoded import Span as Span
from relabel.images.encoded import image_hash as image_hash
from relabel.images.source import open_source as open_source
from relabel.images.streams import stopping as stopping
