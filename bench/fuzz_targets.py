"""What is fuzzed: for each door, good files of every kind, and how a changed one is handed over."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from bench.fuzz_stores import prepare_manifests, prepare_stores, read_manifest, use_store
from bench.mutations import mutated, mutated_json
from relabel.images.decode import decode_and_fit, header_facts
from relabel.images.list import listed_files
from relabel.images.source import open_source
from relabel.importers.files import Files, load
from relabel.manifest import Preprocessing
from relabel.teacher.checkpoints import read_checkpoint
from relabel.teacher.classes import kept_classes


@dataclass(frozen=True, slots=True)
class Target:
    """A door: `prepare` makes good files in a folder; `case` hands a changed one over, and says if it was accepted.

    `case` raises RelabelError where it was refused; anything else that it raises is a finding. `most_bytes` is what it
    may take beyond what the process had: of images more than of all else, for they may have 200 megapixels.
    """

    name: str
    prepare: Callable[[Path], Any]
    case: Callable[[Any, random.Random], bool]
    most_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class _Files:
    """Good contents, and the folder where a bad one is put."""

    folder: Path
    good: tuple[bytes, ...]

    def bad(self, chance: random.Random) -> bytes:
        """One of them, changed."""
        return mutated(chance.choice(self.good), chance, self.good)


def _pixels(seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((40, 30), Image.Resampling.BILINEAR)


def _encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


_IMAGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("L", "JPEG", {}), ("CMYK", "JPEG", {})),
    *(("RGB", "PNG", {}), ("P", "PNG", {}), ("I;16", "PNG", {}), ("RGBA", "PNG", {}), ("1", "PNG", {})),
    *(("RGB", "WEBP", {}), ("RGBA", "WEBP", {"lossless": True}), ("P", "GIF", {}), ("RGB", "BMP", {})),
    *(("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "TIFF", {"compression": "jpeg"})),
    *(("L", "TIFF", {"compression": "tiff_deflate"}), ("1", "TIFF", {"compression": "group4"}), ("RGB", "PPM", {})),
    *(("RGB", "AVIF", {}), ("RGB", "JPEG2000", {})),
)
_VIEWS = [Preprocessing(image_size_hw=(24, 24), mean=(0.5,) * 3, std=(0.5,) * 3, exif="upright")]
_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


def _images(folder: Path) -> _Files:
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [kind for kind in _IMAGES if kind[1] not in _CODECS or features.check(_CODECS[kind[1]])]
    plain = [_encoded(_pixels().convert(mode), fmt, **options) for mode, fmt, options in kinds]
    turned = [_encoded(_pixels(), fmt, exif=exif) for fmt in ("JPEG", "PNG", "WEBP", "TIFF")]
    return _Files(folder, (*plain, *turned))


def _decode(files: _Files, chance: random.Random) -> bool:
    data = files.bad(chance)
    (found,) = decode_and_fit(data, _VIEWS)
    # What the header says is what is decoded.
    if header_facts(data).size_hw != found.facts.size_hw:
        raise AssertionError(f"header {header_facts(data).size_hw}, decoded {found.facts.size_hw}")
    return tuple(found.pixels.shape) == (3, 24, 24)


def _map() -> Tensor:
    ids = torch.stack([torch.randperm(9)[:3] for _ in range(12)], 1).reshape(3, 3, 4)
    return torch.stack([torch.randn(3, 3, 4), ids.float()])


def _saved(value: object, *, is_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def _maps(folder: Path) -> _Files:
    found = _map()
    kinds = [found, found.half(), found.double(), torch._neg_view(-found), found.permute(0, 2, 3, 1)]
    return _Files(folder, tuple(_saved(kind, is_zip=is_zip) for kind in kinds for is_zip in (True, False)))


def _repacked(data: bytes, chance: random.Random) -> bytes:
    """A file of torch.save with a changed member, whose own checksum is right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        wanted = chance.choice([name for name in names if name.endswith("data.pkl")] * 4 + names)
        for name in names:
            content = old.read(name)
            new.writestr(name, mutated(content, chance) if name == wanted else content)
    return stream.getvalue()


def _bad_weights(files: _Files, chance: random.Random) -> bytes:
    data = chance.choice(files.good)
    if data.startswith(b"PK") and chance.random() < 0.6:
        return _repacked(data, chance)
    return mutated(data, chance, files.good)


def _import(files: _Files, chance: random.Random) -> bool:
    (files.folder / "a.pt").write_bytes(_bad_weights(files, chance))
    found = load(Files(str(files.folder), ["a.pt"], 9))
    if not all(np.isfinite(maps).all() for maps in found.maps.values()) or bool(found.maps) == bool(found.reasons[0]):
        raise AssertionError(f"{found.reasons} and {found.maps.keys()}")
    return bool(found.maps)


_STATE = {"conv.weight": torch.randn(4, 3, 2, 2), "conv.bias": torch.randn(4), "steps": torch.tensor(7)}


def _checkpoints(folder: Path) -> _Files:
    wrapped = {"state_dict": _STATE, "epoch": 3, "best": np.float64(0.5), "class_names": ["a", "b"]}
    prefixed = {f"module.{name}": tensor for name, tensor in _STATE.items()}
    values = (_STATE, wrapped, {"model_ema": prefixed, "model": {}}, {1: _STATE["conv.bias"], "a": {"b": 2}})
    return _Files(folder, tuple(_saved(value, is_zip=is_zip) for value in values for is_zip in (True, False)))


def _read_weights(files: _Files, data: bytes) -> bool:
    (files.folder / "weights.pth").write_bytes(data)
    found = read_checkpoint(files.folder / "weights.pth")
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.tensors.items())


def _checkpoint(files: _Files, chance: random.Random) -> bool:
    return _read_weights(files, _bad_weights(files, chance))


def _safetensors(folder: Path) -> _Files:
    from safetensors.torch import save

    return _Files(folder, (save(_STATE), save(_STATE, {"class_names": '["a", "b"]', "format": "pt"})))


def _safetensor(files: _Files, chance: random.Random) -> bool:
    data = chance.choice(files.good)
    if chance.random() < 0.5:
        return _read_weights(files, mutated(data, chance, files.good))
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(mutated_json(json.loads(data[8 : 8 + size]), chance)).encode()
    return _read_weights(files, len(header).to_bytes(8, "little") + header + data[8 + size :])


def _lists(folder: Path) -> _Files:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(_encoded(_pixels(number), "PNG"))
    return _Files(folder, (b"0.png\n1.png\n2.png\n", b"0.png\tcat\n1.png\tdog\n", b"0.png\t0\n1.png\t-1\n2.png\t5\n"))


def _list(files: _Files, chance: random.Random) -> bool:
    path = files.folder / "list.txt"
    path.write_bytes(files.bad(chance))
    found = listed_files(path, files.folder, 1, lambda _: None)
    source = open_source(str(files.folder), path)
    listing = source.listing(2, workers=1, progress=lambda _: None)
    for part in source.spans(None):
        for span in part:
            list(source.read(*span))
    return bool(listing) and len(found.keys) > 0


def _class_files(folder: Path) -> _Files:
    return _Files(
        folder, (b"0 cat\n3\tdog, hound\n7\n", b"n01440764 tench\nn01443537 goldfish\n", "1 \u00fc\n2 b\n".encode())
    )


def _classes(files: _Files, chance: random.Random) -> bool:
    path = files.folder / "classes.txt"
    path.write_bytes(files.bad(chance))
    found = kept_classes(str(path), 10, ("n01440764", "n01443537"), None, "a teacher")
    return len(found.numbers) == found.record.count


def _tar(kind: int, members: int = 3) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for number in range(members):
            name = f"{'folder/' * (12 if number == 2 else 0)}{number:03}"
            for suffix, data in (("png", _encoded(_pixels(number), "PNG")), ("cls", str(number).encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                if kind == tarfile.PAX_FORMAT:
                    info.pax_headers = {"comment": "c" * 20, "mtime": "1.5"}
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _tars(folder: Path) -> _Files:
    return _Files(folder, tuple(map(_tar, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))))


def _bad_tar(files: _Files, chance: random.Random) -> bytes:
    data = bytearray(chance.choice(files.good))
    if chance.random() < 0.4:
        return files.bad(chance)
    # A header that says something else, with a checksum that is right.
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for at in chance.sample(headers, chance.choice((1, 1, 2))):
        start, size = chance.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
        field = mutated(bytes(data[at + start : at + start + size]), chance)[:size].ljust(size, b"\0")
        if chance.random() < 0.3:
            field = (b"%o" % chance.choice((0, 1, 511, 2**31, 2**33 - 1)))[:size].rjust(size, b"0")
        data[at + start : at + start + size] = field
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 512]) % 0o1000000)
    return bytes(data)


def _source(files: _Files, chance: random.Random) -> bool:
    path = files.folder / "a.tar"
    path.write_bytes(_bad_tar(files, chance))
    source = open_source(str(path))
    listing = source.listing(None, workers=1, progress=lambda _: None)
    for part in source.spans(None):
        for span in part:
            for image in source.read(*span):
                if not image.error and chance.random() < 0.2:
                    decode_and_fit(image.data, _VIEWS)
    return bool(listing)


TARGETS = {
    target.name: target
    for target in (
        Target("manifest", prepare_manifests, read_manifest),
        Target("store", prepare_stores, use_store),
        Target("image", _images, _decode, 5 << 29),
        Target("import", _maps, _import),
        Target("checkpoint", _checkpoints, _checkpoint),
        Target("safetensors", _safetensors, _safetensor),
        Target("list", _lists, _list),
        Target("classes", _class_files, _classes),
        Target("tar", _tars, _source, 5 << 29),
    )
}
"""By name."""
