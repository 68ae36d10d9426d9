"""Verifying a store: every byte and every promise of the format, also against the images."""

from relabel.verify.shards import ShardsReport, verify_shards

__all__ = ["ShardsReport", "verify_shards"]
