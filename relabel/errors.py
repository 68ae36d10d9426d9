"""The errors a user can act on: each says what came, what was expected and what to do."""


class RelabelError(Exception):
    """Base of every error that relabel raises on purpose."""


class InvalidValueError(RelabelError, ValueError):
    """A value that has no meaning here: a wrong shape, an empty box, an unknown option."""


class SourceError(RelabelError):
    """The image source as a whole cannot be used: nothing found, a damaged tar, duplicate keys."""


class ImageError(RelabelError):
    """One image cannot be decoded; `generate` records it as a failed row and goes on."""


class TeacherError(RelabelError):
    """A teacher that cannot be built, loaded or proved."""


class StoreError(RelabelError):
    """A store that cannot be opened, written or trusted."""


class StoreBusyError(StoreError):
    """Another process is writing the same shard at this moment."""


class DamagedStoreError(StoreError):
    """A file of the store is missing, cut or changed."""


class ReplacedStoreError(StoreError):
    """The store was replaced, or a shard labelled again, or either is gone, under an open reader: open it again."""


class ManifestMismatchError(StoreError):
    """The store was made by another teacher, other preprocessing or other images."""


class LabelError(RelabelError):
    """A label was asked for that the store does not have: an unknown key, a failed image, an uncovered box."""


_NO_MEMORY = (
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("can't allocate memory", "not enough memory", "out of memory"),
)
"""What the libraries below torch, its allocators and CUDA say when memory runs out."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is a want of memory, the machine's or a device's: a passing state, and no fault of the data."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
