"""Score maps: what a teacher said of every cell of an image, kept as whole planes of the image's top classes."""

from relabel.score_map.checks import Size
from relabel.score_map.coding import NOT_STORED, OFFSET_STEP, encode_offsets
from relabel.score_map.filling import Fill
from relabel.score_map.score_map import How, ScoreMap

__all__ = ["NOT_STORED", "OFFSET_STEP", "Fill", "How", "ScoreMap", "Size", "encode_offsets"]
