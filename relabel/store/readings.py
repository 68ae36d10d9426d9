"""`reading.json`: how the labels of a store are read, beside its arrays and no part of what it is."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from relabel.errors import DamagedStoreError, InvalidValueError, StoreError
from relabel.manifest.reading import plain, read
from relabel.paths import expanded
from relabel.reading import Reading
from relabel.store.disk import disk_errors, make_way, sync
from relabel.store.files import StoreFiles, drafted, read_bytes
from relabel.store.reader import StoreReader

READING = "reading.json"
FORMAT = 1
_MOST_BYTES = 1 << 16
"""A tenth of it is taken."""
_WAY_OUT = (
    "`relabel verify labels STORE --fit` makes it anew; without the file, or with relabel.open(store, reading=None), "
    "labels are as they are"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean KL in nats of the teacher's own answers from labels as they are, from those that are read, on images that
    were not fitted to, and one standard error of the difference."""

    as_is: float
    read: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRecord:
    """What reading.json holds.

    Attributes:
        reading: how labels are read.
        images, crops, seed: what it was fitted to.
        image, tokens: what it brings to labels of crops and of their tokens; None where they stay as they are.
    """

    reading: Reading
    images: int
    crops: int
    seed: int
    image: Gain | None = None
    tokens: Gain | None = None


def stored_reading(reader: StoreReader) -> Reading | None:
    """How a store's labels are read, and says so once; None where it has no reading.json.

    Raises:
        DamagedStoreError: the file is of another store, was changed, or cannot be read.
        StoreError: a URL does not answer.
    """
    record = read_reading(reader)
    if record is None:
        return None
    _tell(reader.files.where, record)
    return record.reading


def read_reading(reader: StoreReader) -> ReadingRecord | None:
    """As `stored_reading`, all that the file holds, and says nothing."""
    content = _content(reader.files)
    if content is None:
        return None
    where = f"{reader.files.where}/{READING}"
    try:
        told: Any = json.loads(content)
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise InvalidValueError(f"this version reads format {FORMAT}, an object that says so")
        if told.get("identity") != reader.identity.hex():
            raise InvalidValueError("it is of another store, and one's reading is worth nothing to another's labels")
        body = {name: value for name, value in told.items() if name not in ("format", "identity", "digest")}
        record: ReadingRecord = read(ReadingRecord, body, READING)
        if told.get("digest") != _digest(reader.identity, record):
            raise InvalidValueError("its digest is not that of its numbers: it was changed by hand, or is damaged")
    # Deep JSON exhausts the stack; numbers of a thousand digits are beyond what floats can be.
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise DamagedStoreError(f"{where} cannot be used: {error}. {_WAY_OUT}") from error
    return record


def write_reading(reader: StoreReader, record: ReadingRecord) -> None:
    """Put reading.json into a store's folder, whole, in place of another.

    Raises:
        StoreError: the store is behind a URL, or the folder cannot be written.
    """
    if reader.files.cache is not None:
        raise StoreError(
            f"{reader.files.where} is a URL, and {READING} is written into folders only: fit a copy of the store, and "
            "put its reading.json there"
        )
    path = expanded(reader.files.where) / READING
    text = json.dumps(_told(reader.identity, record), indent=1, allow_nan=False) + "\n"
    with disk_errors(path.parent), drafted(path) as draft:
        make_way(path)
        draft.write_text(text)
        # As of any file, not this user's alone, as a draft is.
        draft.chmod(0o644)
        sync(draft)
    sync(path.parent)


def _told(identity: bytes, record: ReadingRecord) -> dict[str, Any]:
    head = {"format": FORMAT, "identity": identity.hex()}
    return {**head, **plain(record), "digest": _digest(identity, record)}


def _digest(identity: bytes, record: ReadingRecord) -> str:
    """The sha256 of the manifest's identity and the record as JSON: keys sorted, no blanks, ASCII only."""
    canonical = json.dumps(plain(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(identity + canonical.encode()).hexdigest()


def _content(files: StoreFiles) -> bytes | None:
    """The bytes of the file; of a URL those that are there now, not a copy of some earlier day."""
    if files.cache is not None:
        files.refresh([[READING]], _MOST_BYTES)
        if not (files.cache / READING).exists():
            return None
    try:
        return read_bytes(files, READING, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedStoreError(
            f"{files.where}/{READING} cannot be read: {error.strerror or error}. {_WAY_OUT}"
        ) from error


@functools.cache
def _tell(where: str, record: ReadingRecord) -> None:
    gains = {"labels": record.image, "token labels": record.tokens}
    text = ", ".join(f"{what} {g.as_is:.3f} -> {g.read:.3f} nats" for what, g in gains.items() if g is not None)
    _log.warning(
        "%s: labels are read as its %s says, fitted to %d images (KL from the teacher on crops: %s); "
        "relabel.open(store, reading=None) leaves them as they are",
        *(where, READING, record.images, text),
    )
