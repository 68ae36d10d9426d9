"""Offline teacher labels for image training: score maps, their store, and the soft label of any crop."""

from relabel.errors import RelabelError
from relabel.geometry import Box, Footprint, Grid
from relabel.pooling import SparseLabels
from relabel.score_map import ScoreMap

__version__ = "0.1.0"

__all__ = ["Box", "Footprint", "Grid", "RelabelError", "ScoreMap", "SparseLabels", "__version__"]
