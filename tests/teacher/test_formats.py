"""Files of weights are told by their first bytes, whatever they are called."""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from relabel.errors import TeacherError
from relabel.teacher.checkpoints import read_checkpoint

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


def saved(value: object, *, as_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=as_zip)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return stream.getvalue()


def beside(state: dict[str, Tensor]) -> dict[str, object]:
    """As trainers save it, with numbers of numpy's."""
    return {"model_state_dict": state, "best": np.float64(0.5), "seen": np.int64(3), "curve": np.arange(3)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pth", save(STATE)),
        ("a.safetensors", saved(STATE)),
        ("a.bin", saved(STATE, as_zip=False)),
        ("a.pt", saved(beside(STATE))),
        ("b.pt", saved(beside(STATE), as_zip=False)),
        ("c.pt", saved({"model": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}}})),
        ("d.pt", saved({"state_dict": {"fc.bias": torch.zeros(2)}, "state_dict_ema": STATE})),
    ],
)
def test_weights_are_read_whatever_their_file_is_called_and_holds_beside_them(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    found = read_checkpoint(tmp_path / name).tensors
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\0" * 600, "nothing but zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
        (b"\n <!DOCTYPE html><title>404</title>", "a web page"),
        (b'{"error":"Repository not found"}', "text, perhaps what a server answered"),
        (gzip.compress(saved(STATE)), "compressed with gzip"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x08\x07\x12\x07pytorch", "ONNX and TensorFlow"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (zipped("arr_0.npy"), "a zip file, and not one of torch's"),
        (zipped("net/data.pkl", "net/constants.pkl"), "a TorchScript program"),
        (saved(STATE)[:-100], "cut or damaged"),
        (save(STATE)[:-4], "cannot be read as weights alone"),
        (saved(STATE, as_zip=False)[:-4], "cannot be read as weights alone"),
        (b"\xff" * 600, "unknown format"),
    ],
)
def test_what_is_no_file_of_weights_is_said(data, why, tmp_path):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(TeacherError, match=rf"(?i)a\.pth .*{why}"):
        read_checkpoint(tmp_path / "a.pth")
