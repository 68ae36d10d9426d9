"""Verifying a store: every byte and every promise of the format, and against the images, keys and hashes."""

from relabel.verify.findings import Finding, ShardsReport
from relabel.verify.shards import verify_shards

__all__ = ["Finding", "ShardsReport", "verify_shards"]
