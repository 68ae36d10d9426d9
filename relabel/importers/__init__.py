"""Importing published archives: per-image files of ReLabel and Token Labeling to a store of raw logits."""

from relabel.importers.options import ImportOptions, ImportSummary
from relabel.importers.run import import_archive

__all__ = ["ImportOptions", "ImportSummary", "import_archive"]
