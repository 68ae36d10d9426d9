"""Whether the files of a shard belong together and to their store: told by small reads, for a shard may be large."""

from __future__ import annotations

import errno
import hashlib
import os

from relabel.errors import DamagedStoreError, StoreError
from relabel.manifest import Manifest
from relabel.store.codecs import CRC32C
from relabel.store.descriptors import OpenFile
from relabel.store.digest import ENDS_BYTES
from relabel.store.files import StoreFiles, read_bytes
from relabel.store.layout import ArraySpec, arrays_of

_NOT_ITS_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
"""Errors that say nothing of a file: descriptors or memory ran out, or it is not to be read by this user."""


def check_shard(files: StoreFiles, manifest: Manifest, shard: int) -> None:
    """Look at the length and both ends of every file of a shard, and at what its digest says of them.

    Raises:
        DamagedStoreError: one is missing, cut, or of another shard, run or store; says which, and no more.
        StoreError: one cannot be read for a reason that is not its own.
    """
    arrays = arrays_of(manifest)
    bound = arrays.pop("digest")
    digest = hashlib.sha256(manifest.identity() + shard.to_bytes(8, "little"))
    for spec in arrays.values():
        length, ends = _ends(files, spec, shard)
        digest.update(spec.name.encode() + b"\0" + length.to_bytes(8, "little") + hashlib.sha256(ends).digest())
    found = digest.digest()
    name = f"{bound.name}/{bound.file_name(shard)}"
    try:
        told = CRC32C.content(read_bytes(files, name, bound.most_bytes(1)), bound.row_bytes())
    except (OSError, ValueError) as error:
        raise _broken(name, error) from error
    if bytes(told[-len(found) :]) != found:
        raise DamagedStoreError(
            "its files do not belong together, or not to this shard of this store: one was cut, or is another shard's"
        )


def _ends(files: StoreFiles, spec: ArraySpec, shard: int) -> tuple[int, bytes]:
    name = f"{spec.name}/{spec.file_name(shard)}"
    try:
        file = OpenFile(files.local(name))
        length = os.fstat(file.descriptor).st_size
        ends = file.read(min(ENDS_BYTES, length), 0) + file.read(ENDS_BYTES, max(0, length - ENDS_BYTES))
    except OSError as error:
        raise _broken(name, error) from error
    return length, ends


def _broken(name: str, error: Exception) -> StoreError:
    if isinstance(error, OSError) and error.errno in _NOT_ITS_FAULT:
        return StoreError(f"cannot read {name}: {error.strerror}. Mend that, and run again")
    if isinstance(error, FileNotFoundError):
        return DamagedStoreError(f"{name} is missing")
    return DamagedStoreError(f"{name} is damaged: {getattr(error, 'strerror', None) or error}")
