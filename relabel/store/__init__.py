"""The store: a zarr v3 group of score maps, written a shard at a time and read a row at a time."""

from relabel.store.create import create_or_open
from relabel.store.layout import FAILED, LABELED, NO_IMAGE
from relabel.store.maps import RowBatch
from relabel.store.metadata import read_manifest
from relabel.store.reader import StoreReader
from relabel.store.remaining import Remaining, remaining
from relabel.store.rows import Row, RowTable
from relabel.store.writer import ShardWriter, StoreWriter

__all__ = [
    "FAILED",
    "LABELED",
    "NO_IMAGE",
    "Remaining",
    "Row",
    "RowBatch",
    "RowTable",
    "ShardWriter",
    "StoreReader",
    "StoreWriter",
    "create_or_open",
    "read_manifest",
    "remaining",
]
