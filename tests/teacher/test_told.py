"""What a file of weights says beside them: how its images were made ready, its model and its classes."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from relabel.errors import InvalidValueError, ManifestMismatchError, TeacherError
from relabel.generate import GenerateOptions, generate
from relabel.store import StoreReader
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.checkpoints import read_checkpoint
from relabel.teacher.weights import randomise

MEAN, STD = (0.2, 0.5, 0.7), (0.5, 0.25, 0.1)
SAYS = {
    "arch": "test_resnet",
    "class_names": ["ant", "bee", "cow"],
    "pretrained_cfg": {
        "mean": list(MEAN), "std": STD, "interpolation": "bilinear", "input_size": (3, 64, 96), "crop_pct": 0.9,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=3)
    randomise(model)
    return model.state_dict()


@pytest.fixture
def own(weights, tmp_path):
    """A checkpoint that says all of itself."""
    torch.save({"student": weights, **SAYS}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def _load(path, **spec):
    return load_teacher(TeacherSpec(checkpoint=path, device="cpu", **spec))


def test_a_checkpoint_is_labeled_with_its_own_statistics_size_and_names(own, weights, tmp_path):
    teacher = _load(own)
    pixels = teacher.preprocessing
    assert (pixels.mean, pixels.std, pixels.interpolation, pixels.image_size_hw) == (MEAN, STD, "bilinear", (64, 96))
    assert (teacher.record.name, teacher.class_names) == ("test_resnet", ("ant", "bee", "cow"))
    seen = []
    teacher.forward.model.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    answer = teacher(images)
    expected = torch.stack([(images[:, c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)], 1)
    torch.testing.assert_close(seen[-1].double(), expected, rtol=0, atol=1e-4)
    # The same weights with the statistics of timm's model say something else.
    torch.save(weights, tmp_path / "bare.pt")
    other = _load(tmp_path / "bare.pt", name="test_resnet", image_size_hw=(64, 96))
    assert other.record == teacher.record
    assert (other(images) - answer).abs().max() > 0.1
    # And with the file's own, said by hand, the same.
    same = _load(tmp_path / "bare.pt", name="test_resnet", image_size_hw=(64, 96), mean=MEAN, std=STD)
    torch.testing.assert_close(same(images), answer, rtol=0, atol=0)


def test_safetensors_say_it_as_json(weights, tmp_path):
    said = {key: json.dumps(value) for key, value in SAYS.items()} | {"arch": "test_resnet"}
    save_file(weights, tmp_path / "a.safetensors", said)
    teacher = _load(tmp_path / "a.safetensors")
    assert (teacher.preprocessing.mean, teacher.record.name) == (MEAN, "test_resnet")


@pytest.mark.parametrize(("source", "which"), [("torchvision:", "std"), ("", "mean")])
def test_other_statistics_are_refused_with_both(source, which, own, tmp_path):
    path, name = own, "test_resnet"
    if source:
        from torchvision import models

        path, name = tmp_path / "tv.pt", "torchvision:shufflenet_v2_x0_5"
        torch.save({"model": models.shufflenet_v2_x0_5(num_classes=3).state_dict(), **SAYS, "arch": "s"}, path)
        assert _load(path, name=name).preprocessing.image_size_hw == (64, 96)
    trained = {"mean": "0.2 0.5 0.7", "std": "0.5 0.25 0.1"}[which]
    with pytest.raises(TeacherError, match=rf"trained with {which} {trained}, and 0.1 0.2 0.3 .* leave --{which} out"):
        _load(path, name=name, **{which: (0.1, 0.2, 0.3)})
    rounded = tuple(value + 4e-4 for value in {"mean": MEAN, "std": STD}[which])
    assert _load(path, name=name, **{which: rounded}).record.weights == "checkpoint"


def test_size_and_interpolation_are_a_choice_and_the_latter_is_told(own, caplog):
    pixels = _load(own, image_size_hw=(96, 96), interpolation="bicubic").preprocessing
    assert (pixels.image_size_hw, pixels.interpolation, pixels.mean) == ((96, 96), "bicubic", MEAN)
    assert "own.pt was trained with bilinear images, and gets bicubic ones" in caplog.text


def test_another_model_than_the_file_says_is_refused(own, weights, tmp_path):
    with pytest.raises(TeacherError, match=r"weights are of test_resnet, and --teacher is test_vit: leave --teacher"):
        _load(own, name="test_vit.r160_in1k")
    torch.save({"student": weights}, tmp_path / "silent.pt")
    with pytest.raises(TeacherError, match=r"silent.pt does not say which model its weights are of: give --teacher"):
        _load(tmp_path / "silent.pt")
    torch.save({"student": weights, "arch": "os:abort"}, tmp_path / "foreign.pt")
    with pytest.raises(TeacherError, match="does not say which model"):
        _load(tmp_path / "foreign.pt")
    with pytest.raises(InvalidValueError, match="give --teacher NAME, or a --checkpoint that says"):
        TeacherSpec()


def test_what_a_model_was_built_with_is_taken_and_nothing_that_opens_a_file(tmp_path):
    model = timm.create_model("test_vit", num_classes=3, depth=1, img_size=96)
    arguments = {
        "depth": 1,
        "num_classes": 7,
        "checkpoint_path": "/etc/passwd",
        "pretrained": True,
        "norm": {"of": "more"},
    }
    size = {"pretrained_cfg": {"input_size": [3, 96, 96]}}
    torch.save({"model": model.state_dict(), "arch": "test_vit", "model_args": arguments, **size}, tmp_path / "vit.pt")
    teacher = _load(tmp_path / "vit.pt")
    assert (teacher.preprocessing.image_size_hw, teacher.grid.size_hw) == ((96, 96), (6, 6))
    assert len(teacher.forward.model.blocks) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"mean": [0.5, 0.5]}, {"mean": ["a", "b", "c"]}, {"mean": 0.5}, {"mean": [0.5, 10**400, 0.5]},
        {"std": [0.2, 0, 0.2]}, {"std": [0.2, float("nan"), 0.2]},
        {"input_size": 64}, {"input_size": "abc"}, {"input_size": [3, 64.5, 64.0]}, {"input_size": [3, -64, 64]},
        {"interpolation": "cubist"}, {"interpolation": 3}, {"crop_pct": "all"}, {"crop_pct": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_of_images_is_refused(config, weights, tmp_path):
    torch.save({**SAYS, "student": weights, "pretrained_cfg": config}, tmp_path / "a.pt")
    with pytest.raises(
        TeacherError, match=f"a.pt says of its images what cannot be used: {next(iter(config))} .*expected"
    ):
        _load(tmp_path / "a.pt")


def test_of_several_weights_one_is_taken_told_and_another_can_be_named(weights, tmp_path, caplog):
    later = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"student": later, "average": weights, "mine": {"state_dict": later}, **SAYS}, tmp_path / "a.pt")
    torch.save({"student": weights, **SAYS}, tmp_path / "b.pt")

    def bias(name):
        return read_checkpoint(tmp_path / name).tensors["fc.bias"]

    assert torch.equal(bias("b.pt"), weights["fc.bias"])
    assert not caplog.records
    assert torch.equal(bias("a.pt"), weights["fc.bias"])
    assert "a.pt holds several weights: average are taken; give " in caplog.text
    assert "a.pt@student for the others" in caplog.text
    assert all(torch.equal(bias(f"a.pt@{part}"), later["fc.bias"]) for part in ("student", "mine"))
    assert len(caplog.records) == 1
    assert _load(tmp_path / "a.pt@average").record == _load(tmp_path / "b.pt").record
    with pytest.raises(TeacherError, match=r"a.pt holds no weights called 'best'; it has student, average, mine, "):
        bias("a.pt@best")
    torch.save({"mine": weights}, tmp_path / "x@y.pt")
    with pytest.raises(TeacherError, match=r"x@y.pt holds no state dict; .* It has mine: say which, as .*x@y.pt@NAME"):
        bias("x@y.pt")


def test_a_store_goes_on_with_the_same_statistics_only(own, weights, tmp_path):
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "photos" / "ant" / "1.png")

    def label(path):
        spec = TeacherSpec(checkpoint=path, device="cpu")
        generate(str(tmp_path / "photos"), tmp_path / "a.zarr", spec, GenerateOptions(show_progress=False))

    label(own)
    manifest = StoreReader(tmp_path / "a.zarr").manifest
    assert (manifest.preprocessing.mean, manifest.class_names) == (MEAN, ("ant", "bee", "cow"))
    label(own)
    changed = {**SAYS["pretrained_cfg"], "std": [0.5, 0.25, 0.2]}
    torch.save({"student": weights, **SAYS, "pretrained_cfg": changed}, tmp_path / "other.pt")
    with pytest.raises(ManifestMismatchError, match=r"std: \[0.5, 0.25, 0.1\] != \[0.5, 0.25, 0.2\]"):
        label(tmp_path / "other.pt")
