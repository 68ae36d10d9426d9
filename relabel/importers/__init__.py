"""Importing published archives: per-image files of ReLabel and Token Labeling to a store of raw logits."""

from typing import TYPE_CHECKING

from relabel.lazily import lazily

if TYPE_CHECKING:
    from relabel.importers.options import ImportOptions as ImportOptions
    from relabel.importers.options import ImportSummary as ImportSummary
    from relabel.importers.run import import_archive as import_archive
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
