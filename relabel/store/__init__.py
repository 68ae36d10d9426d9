"""The store: a zarr v3 group of score maps, written a shard at a time and read a row at a time."""

from relabel.store.layout import FAILED, LABELLED, NO_IMAGE
from relabel.store.reader import StoreReader
from relabel.store.rows import RowBatch, RowTable
from relabel.store.writer import ShardWriter, StoreWriter, create_or_open

__all__ = [
    "FAILED",
    "LABELLED",
    "NO_IMAGE",
    "RowBatch",
    "RowTable",
    "ShardWriter",
    "StoreReader",
    "StoreWriter",
    "create_or_open",
]
