"""What a file of weights is, by its first bytes: a suffix is a name, and a download may be anything."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from relabel.errors import TeacherError

_EXPECTED = "Give a safetensors file, or a torch file that holds nothing but a state dict"
_STARTS = (
    (b"version https://git-lfs", "a git-lfs pointer, which stands for the weights. Run `git lfs pull` where it lies"),
    (b"\x1f\x8b", "compressed with gzip. Unpack it"),
    (b"BZh", "compressed with bzip2. Unpack it"),
    (b"\xfd7zXZ", "compressed with xz. Unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd. Unpack it"),
    (b"GGUF", f"GGUF, weights of another library. {_EXPECTED}"),
    (b"\x89HDF", f"HDF5, as Keras writes it. {_EXPECTED}"),
    (b"\x93NUMPY", f"a numpy array. {_EXPECTED}"),
    (b"TFL3", f"a model of TensorFlow Lite. {_EXPECTED}"),
    (b"<", "a web page or XML, perhaps what a server answered instead of the file. Download it again"),
)


def weights_format(path: Path) -> Literal["safetensors", "torch"]:
    """Which library reads a file.

    Raises:
        TeacherError: neither; says what it is.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(512)
    # A length of 8 bytes, then JSON.
    if start[8:10] == b'{"':
        return "safetensors"
    if start.startswith(b"PK"):
        _check_zip(path)
        return "torch"
    # A pickle of protocol 2 or later, as torch wrote its files before 1.6.
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5":
        return "torch"
    raise TeacherError(f"{path} is no file of weights: it is {_what(start)}")


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise TeacherError(
            f"{path} is cut or damaged: a zip file without its end. Copy or download it again"
        ) from error
    if "data.pkl" not in files:
        raise TeacherError(f"{path} is no file of weights: it is a zip file, and not one of torch's. {_EXPECTED}")
    if "constants.pkl" in files:
        raise TeacherError(
            f"{path} is a TorchScript program. Save its weights alone, the state_dict() of what torch.jit.load returns"
        )


def _what(start: bytes) -> str:
    if not start.strip(b"\0"):
        return "empty, or nothing but zeros: a download that did not end? Copy or download it again"
    for begin, what in _STARTS:
        # TensorFlow Lite's name comes behind an offset; a page may begin with blanks.
        if start.lstrip().startswith(begin) or (begin == b"TFL3" and start[4:8] == begin):
            return what
    if start[257:262] == b"ustar":
        return "a tar. Unpack it"
    if start[:1] == b"\x08":
        return f"a protocol buffer, as ONNX and TensorFlow write models. {_EXPECTED}"
    if start.isascii() and start.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return "text, perhaps what a server answered instead of the file. Download it again"
    return f"of an unknown format. {_EXPECTED}"
