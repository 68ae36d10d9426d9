"""Verifying a store: every byte and every promise of the format, also against the images."""

from typing import TYPE_CHECKING

from relabel.lazily import lazily

if TYPE_CHECKING:
    from relabel.verify.options import ShardsOptions as ShardsOptions
    from relabel.verify.repair import Repair as Repair
    from relabel.verify.shards import ShardsReport as ShardsReport
    from relabel.verify.shards import verify_shards as verify_shards
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
