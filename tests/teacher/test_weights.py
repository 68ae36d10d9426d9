"""Weights: which files are read, that none is run, and the digest by which a store knows a teacher again."""

from __future__ import annotations

import argparse
import json
import os
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from relabel.errors import InvalidValueError, TeacherError
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.checkpoints import read_checkpoint
from relabel.teacher.weights import digest_of, load_weights, randomise

NAME = "test_resnet"
CLASSES = 7


@pytest.fixture(scope="module")
def weights():
    """A checkpoint of 7 classes whose values float16 holds exactly."""
    torch.manual_seed(3)
    model = timm.create_model(NAME, num_classes=CLASSES)
    randomise(model)
    return {name: tensor.half().to(tensor.dtype) for name, tensor in model.state_dict().items()}


def _prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _old_batch_norms(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _load(path, **spec):
    return load_teacher(TeacherSpec(name=NAME, checkpoint=path, device="cpu", **spec))


WRAPPED = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "optimizer": {"state": {}}},
    "model": lambda w: {"model": w, "lr": 0.1},
    "module": lambda w: {"module": w},
    "averaged before the last": lambda w: {"state_dict_ema": w, "state_dict": {n: t + 1 for n, t in w.items()}},
    "model_ema": lambda w: {"model_ema": _prefixed(w, "module."), "model": {}},
    "data parallel": lambda w: _prefixed(w, "module."),
    "compiled": lambda w: _prefixed(w, "_orig_mod."),
    "compiled, then data parallel": lambda w: _prefixed(w, "module._orig_mod."),
    "data parallel, then compiled": lambda w: _prefixed(w, "_orig_mod.module."),
    "lightning": lambda w: {"state_dict": _prefixed(w, "model.")},
    "torch's average": lambda w: {**_prefixed(w, "module."), "n_averaged": torch.tensor(9)},
    "our own trainer's": lambda w: {"student": w, "average": None, "optimizer": {"state": {}}},
    "our own trainer's average": lambda w: {"student": {n: t + 1 for n, t in w.items()}, "average": w},
    "with a trainer's arguments": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1, opt="sgd")},
    "of batch norms that did not count": _old_batch_norms,
    "in float16": lambda w: {name: t.half() if t.is_floating_point() else t for name, t in w.items()},
    "in float64": lambda w: {name: t.double() if t.is_floating_point() else t for name, t in w.items()},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_checkpoint_is_the_same_teacher_however_it_was_saved(how, weights, tmp_path):
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(WRAPPED[how](weights), tmp_path / "b.pth")
    expected, found = _load(tmp_path / "a.safetensors"), _load(tmp_path / "b.pth")
    assert found.record == expected.record
    images = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
    torch.testing.assert_close(found(images), expected(images), rtol=0, atol=0)


NAMES = [f"class {number}" for number in range(CLASSES)]


@pytest.mark.parametrize(
    ("name", "save", "names"),
    [
        ("a.safetensors", lambda w, path: save_file(w, path, {"class_names": json.dumps(NAMES)}), NAMES),
        ("a.safetensors", lambda w, path: save_file(w, path, {"class_names": "a, b", "format": "pt"}), None),
        ("a.pt", lambda w, path: torch.save({"state_dict": w, "class_names": NAMES}, path), NAMES),
        ("a.pt", lambda w, path: torch.save({"model": w, "classes": tuple(NAMES)}, path), NAMES),
        ("a.pt", lambda w, path: torch.save({"model": w, "classes": CLASSES}, path), None),
        ("a.pt", lambda w, path: torch.save({"model": w, "classes": NAMES[1:]}, path), None),
    ],
    ids=["JSON", "no JSON", "class_names", "classes", "a number", "too few"],
)
def test_a_checkpoint_may_name_its_classes(name, save, names, weights, tmp_path):
    path = tmp_path / name
    save(weights, path)
    assert _load(path).class_names == (names and tuple(names))


def test_a_checkpoints_number_of_classes_is_adopted_and_every_weight_is_its_own(weights, tmp_path):
    save_file(weights, tmp_path / "a.safetensors")
    teacher = _load(tmp_path / "a.safetensors")
    assert (teacher.num_classes, teacher.record.weights) == (CLASSES, "checkpoint")
    loaded = teacher.forward.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_a_checkpoint_of_another_model_is_refused_with_what_is_missing_and_unexpected(tmp_path):
    torch.save(timm.create_model("test_efficientnet", num_classes=5).state_dict(), tmp_path / "other.pt")
    with pytest.raises(TeacherError, match=rf"{NAME}: \d+ missing \(.*\.\.\.\); \d+ unexpected \(conv_stem.*\.\.\.\)"):
        _load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w | {"fc.bias": torch.zeros(CLASSES + 1)}, r"1 of another shape \(fc.bias \(8,\) for \(7,\)\)"),
        (
            lambda w: w | {"conv1.0.weight": w["conv1.0.weight"].to(torch.int8)},
            "1 of another kind .*int8 for .*float32",
        ),
        (lambda w: w | {"fc.bias": torch.empty(CLASSES, device="meta")}, r"1 without numbers \(fc.bias\)"),
        (lambda w: w | {"extra": torch.zeros(1)}, r"1 unexpected \(extra\)"),
        (lambda w: {n: t for n, t in w.items() if n != "fc.bias"}, r"1 missing \(fc.bias\)"),
    ],
)
def test_a_checkpoint_that_differs_in_one_tensor_is_refused(change, what, weights, tmp_path):
    torch.save(change(dict(weights)), tmp_path / "a.pt")
    with pytest.raises(TeacherError, match=f"the checkpoint does not fit {NAME}: {what}"):
        _load(tmp_path / "a.pt")


def test_weights_trained_at_another_size_load_at_that_size(tmp_path):
    model = timm.create_model("test_vit", img_size=(96, 128), num_classes=5)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    spec = {"name": "test_vit", "checkpoint": tmp_path / "vit.pt", "device": "cpu"}
    assert load_teacher(TeacherSpec(**spec, image_size_hw=(96, 128))).grid.size_hw == (6, 8)
    with pytest.raises(TeacherError, match=r"pos_embed \(1, 49, 64\) for \(1, 101, 64\).*--image-size"):
        load_teacher(TeacherSpec(**spec))
    with pytest.raises(TeacherError, match="does not fit test_vit at 160 x 128"):
        load_teacher(TeacherSpec(**spec, image_size_hw=(160, 128)))


class _Runs:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.bin"])
@pytest.mark.parametrize("save", [torch.save, lambda held, path: path.write_bytes(pickle.dumps(held, 2))])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(save, name, weights, tmp_path):
    save({"state_dict": weights, "hook": _Runs(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(TeacherError, match=rf"{name} cannot be read as weights alone: it would have to run \S+\. Give"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def _loop():
    itself = {}
    itself["model"] = itself
    return itself


@pytest.mark.parametrize(
    ("name", "write", "why"),
    [
        ("loop.pt", lambda path, w: torch.save(_loop(), path), "holds no state dict"),
        ("list.pt", lambda path, w: torch.save([1, 2], path), "holds no state dict"),
        ("none.pt", lambda path, w: torch.save({"state_dict": {}}, path), "holds no state dict"),
        ("folder", lambda path, _: path.mkdir(), "folder is a folder"),
        ("folder.safetensors", lambda path, _: path.mkdir(), "safetensors is a folder"),
        ("absent.pt", lambda path, _: None, "no such checkpoint: .* is not there"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_with_the_reason(name, write, why, weights, tmp_path):
    write(tmp_path / name, weights)
    with pytest.raises(TeacherError, match=f"{why}.*"):
        read_checkpoint(tmp_path / name)


def test_one_seed_gives_one_teacher_and_another_seed_another():
    first, again, other = (
        load_teacher(TeacherSpec(name=NAME, random_weights=seed, device="cpu")) for seed in (1, 1, 2)
    )
    assert first.record == again.record
    assert first.record.weights_digest != other.record.weights_digest
    assert (first.record.seed, other.record.seed) == (1, 2)
    images = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), other(images))


def test_random_weights_leave_the_callers_random_numbers_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load_teacher(TeacherSpec(name=NAME, random_weights=1, device="cpu"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "mixer_s32_224"])
def test_random_weights_leave_no_head_at_zero(name):
    model = timm.create_model(name)
    assert not model.get_classifier().weight.any()
    randomise(model)
    assert model.get_classifier().weight.std() > 0.05


def test_the_digest_is_of_the_weights_whatever_size_and_precision_they_run_at(taught):
    expected = taught("test_vit").record.weights_digest
    spec = TeacherSpec(
        name="test_vit",
        random_weights=0,
        image_size_hw=(96, 128),
        precision="bfloat16",
        channels_last=True,
        device="cpu",
    )
    assert load_teacher(spec).record.weights_digest == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.weight.data[0, 0].add_(1e-6),
        lambda m: m.register_buffer("more", torch.zeros(1)),
        lambda m: m.double(),
        lambda m: setattr(m, "weight", nn.Parameter(m.weight.reshape(3, 2))),
    ],
)
def test_the_digest_sees_every_value_name_dtype_and_shape(change):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    before = digest_of(model)
    change(model)
    assert digest_of(model) != before


def test_the_digest_takes_every_kind_of_tensor():
    model = nn.Module()
    for i, dtype in enumerate([torch.bool, torch.int64, torch.bfloat16, torch.float16, torch.complex64]):
        model.register_buffer(f"kind{i}", torch.zeros(2, 3).to(dtype))
    model.register_buffer("scalar", torch.tensor(1.0))
    model.register_buffer("empty", torch.zeros(0, 4))
    model.register_buffer("strided", torch.zeros(4, 6).t())
    assert len(digest_of(model)) == 64
    assert digest_of(lambda images: images) == digest_of(nn.Identity()) == ""


def test_loading_says_which_five_of_many_names_differ():
    with pytest.raises(TeacherError, match=r"9 unexpected \(w0, w1, w2, w3, w4, \.\.\.\)"):
        load_weights(nn.Identity(), {f"w{i}": torch.zeros(1) for i in range(9)}, "mine")


@pytest.mark.parametrize(
    "wrong",
    [
        {"random_weights": 1, "checkpoint": "a.pt"},
        {"random_weights": -1},
        {"random_weights": 2**63},
        {"image_size_hw": (0, 224)},
        {"precision": "float8"},
    ],
)
def test_a_spec_without_meaning_is_refused(wrong):
    with pytest.raises(InvalidValueError, match=r"got|not both"):
        TeacherSpec(name=NAME, **wrong)
