"""Teachers out of timm: names, pretrained weights that cannot be had, models that are no teachers, input sizes."""

from __future__ import annotations

import re

import pytest
import timm
import torch

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher

_create = timm.create_model


def _load(name, **spec):
    return load_teacher(TeacherSpec(name=name, device="cpu", **({"random_weights": 0} | spec)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet-18", r"no model 'resnet-18'\. Did you mean .*resnet18"),
        ("ConvNext_Tiny2", r"no model 'ConvNext_Tiny2'\. Did you mean .*convnext_tiny"),
        ("qqqqqqqq", r"no model 'qqqqqqqq'\. A teacher is a timm model name, .* or package.module:function"),
        (" ", r"no model ' '\. A teacher is"),
        ("my_package.make", r"no model 'my_package.make'.* or package.module:function"),
        ("resnet18.a1_in1", r"no weights 'a1_in1' of resnet18\. Did you mean resnet18.a1_in1k"),
    ],
)
def test_an_unknown_name_is_refused_with_names_like_it(name, said):
    with pytest.raises(TeacherError, match=f"timm has {said}"):
        _load(name)


def test_the_tag_of_pretrained_weights_brings_their_preprocessing():
    bicubic, bilinear, halves = (
        _load(name) for name in ("mobilenetv3_small_050.lamb_in1k", "test_resnet.r160_in1k", "test_vit.r160_in1k")
    )
    assert (bicubic.record.name, bicubic.preprocessing.image_size_hw) == ("mobilenetv3_small_050.lamb_in1k", (224, 224))
    assert (bicubic.preprocessing.interpolation, bilinear.preprocessing.interpolation) == ("bicubic", "bilinear")
    assert (bicubic.preprocessing.mean, halves.preprocessing.mean) == ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError("We couldn't connect to the hub\nsecond line"), "OSError: We couldn't connect to the hub"),
        (type("ConnectError", (Exception,), {})("[Errno -2] Name or service not known"), "ConnectError: .*not known"),
        (
            RuntimeError("No pretrained weights exist for resnet18."),
            "RuntimeError: No pretrained weights exist for resnet18",
        ),
        (AssertionError(), "AssertionError"),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "hf-hub:owner/name"])
def test_pretrained_weights_that_cannot_be_had_are_an_error_that_names_the_way_out(name, raised, reason, monkeypatch):
    def create(name, pretrained):
        assert pretrained
        raise raised

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        TeacherError, match=rf"weights of {name} cannot be had: {reason}\. .*--checkpoint FILE"
    ) as error:
        load_teacher(TeacherSpec(name=name, device="cpu"))
    assert "second line" not in str(error.value)


def test_pretrained_weights_are_timms_and_named_so(monkeypatch):
    asked = []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return _create("test_resnet")

    monkeypatch.setattr(timm, "create_model", create)
    teacher = load_teacher(TeacherSpec(name="hf-hub:owner/name", device="cpu"))
    assert asked == [("hf-hub:owner/name", True)]
    assert (teacher.record.name, teacher.record.weights) == ("hf-hub:owner/name", "pretrained")


@pytest.mark.parametrize(
    ("num_classes", "said", "names"),
    [
        (1000, None, ("tench, Tinca tinca", "goldfish, Carassius auratus")),
        (3, None, None),
        (3, ["ant", "bee", "cow"], ("ant", "bee")),
    ],
)
def test_pretrained_weights_name_their_classes_as_their_configuration_or_imagenet_does(
    num_classes, said, names, monkeypatch
):
    overlay = {"label_names": said} if said else None
    model = _create("test_resnet", num_classes=num_classes, pretrained_cfg_overlay=overlay)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: model)
    found = load_teacher(TeacherSpec(name="test_resnet", device="cpu")).class_names
    assert (found and found[:2]) == names


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"num_classes": 0}, "has no classifier"),
        ({"num_classes": 1}, "answers 1 classes; a soft label needs two"),
        ({"in_chans": 1, "pretrained_cfg_overlay": {"input_size": (1, 160, 160)}}, "takes images of 1 channels"),
    ],
)
def test_a_model_that_is_no_teacher_of_photographs_is_refused(arguments, why, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: _create(name, **{**kwargs, **arguments}))
    with pytest.raises(TeacherError, match=f"test_resnet {why}"):
        _load("test_resnet")


@pytest.mark.parametrize(
    ("name", "size_hw", "why"),
    [
        ("test_vit", (100, 100), r"100 x 100 pixels: AssertionError: .*divisible by patch size \(16\)"),
        ("convit_tiny", (256, 256), "256 x 256 pixels: AssertionError: .*Its own size is 224 x 224"),
    ],
)
def test_a_size_that_a_model_does_not_take_is_refused_with_its_own(name, size_hw, why):
    with pytest.raises(TeacherError, match=f"{name} does not take images of {why}"):
        _load(name, image_size_hw=size_hw)


def test_what_a_models_head_leaves_out_is_found_by_a_hook(monkeypatch, taught, photos):
    class Louder(timm.models.ResNet):
        def forward(self, images):
            return 2 * super().forward(images)

    def create(name, **kwargs):
        model = _create(name, **kwargs)
        model.__class__ = Louder
        return model

    plain = taught("test_resnet")
    monkeypatch.setattr(timm, "create_model", create)
    torch.testing.assert_close(_load("test_resnet")(photos(plain)), 2 * plain(photos(plain)))


def test_a_model_that_does_not_localise_is_loaded_with_a_warning(caplog):
    assert not _load("levit_128s").proof.localises
    assert "levit_128s: its score maps may say little of where things are" in caplog.text


@pytest.mark.parametrize("device", ["cuda:99", "meta", "gpu"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(TeacherError, match=f"no device '{device}' here: .*Use --device cpu or cuda"):
        load_teacher(TeacherSpec(name="test_resnet", random_weights=0, device=device))


def test_a_loaded_teacher_neither_trains_nor_keeps_gradients(taught, photos):
    teacher = taught("test_efficientnet")
    assert not any(module.training for module in teacher.forward.modules())
    assert not any(parameter.requires_grad for parameter in teacher.forward.parameters())
    logits = teacher(photos(teacher))
    assert logits.is_inference()
    assert torch.equal(logits, teacher(photos(teacher)))


@pytest.mark.parametrize("size_hw", [(162, 160), (160, 162)])
def test_an_input_that_patches_do_not_divide_is_refused(size_hw):
    # Its patches are of 4: at 162 it would never look at the last 2 pixels.
    what = "{} x {} pixels: ValueError: its patches of 4 x 4 pixels do not divide".format(*size_hw)
    with pytest.raises(TeacherError, match=what):
        load_teacher(TeacherSpec(name="test_convnext", random_weights=0, image_size_hw=size_hw, device="cpu"))


def _authors(name):
    """What the authors of ConvNeXt call a weight that timm calls so."""
    for timms, theirs in [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]:
        name = re.sub(timms, theirs, name)
    return name


def test_a_checkpoint_in_its_authors_names_is_the_same_teacher(tmp_path):
    own = timm.create_model("test_convnext", num_classes=7).state_dict()
    torch.save(own, tmp_path / "timm.pt")
    torch.save({"model": {_authors(name): tensor for name, tensor in own.items()}}, tmp_path / "authors.pt")
    timms, theirs = (
        _load("test_convnext", random_weights=None, checkpoint=tmp_path / f"{whose}.pt")
        for whose in ("timm", "authors")
    )
    assert timms.num_classes == theirs.num_classes == 7
    assert timms.record == theirs.record


def test_a_projection_of_clip_is_not_made_into_a_classifier(tmp_path):
    own = timm.create_model("test_convnext").state_dict()
    trunk = {f"visual.trunk.{name}": tensor for name, tensor in own.items() if not name.startswith("head.fc")}
    torch.save({**trunk, "visual.head.proj.weight": torch.randn(512, 64)}, tmp_path / "clip.pt")
    with pytest.raises(TeacherError, match=r"does not fit test_convnext: .*unexpected \(visual\.trunk\.stem"):
        _load("test_convnext", random_weights=None, checkpoint=tmp_path / "clip.pt")


def test_weights_that_timm_cannot_rename_are_refused_by_their_own_names(tmp_path):
    torch.save({"downsample_layers.0.0.weight": torch.zeros(3), "grn.beta": torch.tensor(0.0)}, tmp_path / "a.pt")
    with pytest.raises(TeacherError, match=r"does not fit test_convnext: .*unexpected \(downsample_layers\.0\.0"):
        _load("test_convnext", random_weights=None, checkpoint=tmp_path / "a.pt")


def test_patches_that_divide_what_a_model_makes_of_its_images_are_whole(monkeypatch):
    def create(name, **kwargs):
        return _create(name, dynamic_img_size=True, dynamic_img_pad=True, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    assert _load("test_vit", image_size_hw=(160, 150)).grid.size_hw == (10, 10)


def test_a_folder_is_no_timm_model(tmp_path):
    with pytest.raises(TeacherError, match="One that transformers saved is given as transformers:"):
        _load(str(tmp_path))
