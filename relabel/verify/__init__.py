"""Verifying a store: every byte and every promise of the format, also against the images."""

from relabel.verify.options import ShardsOptions
from relabel.verify.repair import Repair
from relabel.verify.shards import ShardsReport, verify_shards

__all__ = ["Repair", "ShardsOptions", "ShardsReport", "verify_shards"]
