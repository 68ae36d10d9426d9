"""Teachers out of transformers: folders, processors, checkpoints, other input sizes; nothing is downloaded."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import transformers
from safetensors.torch import save_file

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.sources.transformers import _asked
from relabel.teacher.weights import digest_of, randomise

CLASSES = 7
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {**TOWER, "image_size": 64, "patch_size": 16}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SMALL = {
    "vit": transformers.ViTConfig(**VIT),
    "dinov2": transformers.Dinov2Config(**VIT),
    "convnext": transformers.ConvNextConfig(num_stages=2, **STAGES),
    "resnet": transformers.ResNetConfig(embedding_size=8, **STAGES),
    "swin": transformers.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4),
}
SIZE = {"height": 64, "width": 64}


@pytest.fixture(autouse=True)
def _quiet():
    """transformers draws progress bars and has a state of its own."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture
def made(tmp_path):
    """A small trained classifier, and the folder that it is saved in with its processor."""

    def make(kind="resnet", processor=None, **config):
        torch.manual_seed(3)
        small = SMALL[kind].__class__(**{**SMALL[kind].to_dict(), **({"num_labels": CLASSES} | config)})
        model = transformers.AutoModelForImageClassification.from_config(small)
        randomise(model)
        model.save_pretrained(tmp_path)
        (processor or transformers.ViTImageProcessor(size=SIZE)).save_pretrained(tmp_path)
        return model.eval().requires_grad_(False), tmp_path

    return make


def _load(folder, **spec):
    return load_teacher(TeacherSpec(name=f"transformers:{folder}", device="cpu", **spec))


def _halves(images):
    return (images / 255 - 0.5) / 0.5


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_the_mean_over_the_cells_of_a_linear_head_is_the_models_own_answer(kind, made, photos):
    model, folder = made(kind)
    teacher = _load(folder)
    images = photos(teacher)
    assert (teacher.proof.kind, teacher.num_classes) == ("linear", CLASSES)
    assert (teacher.record.weights, teacher.record.weights_digest) == ("pretrained", digest_of(model))
    torch.testing.assert_close(teacher(images).mean((2, 3)), model(_halves(images)).logits, rtol=1e-4, atol=1e-4)


def test_a_class_token_answers_for_each_locations_token(made, photos):
    model, folder = made("vit")
    teacher = _load(folder)
    images = photos(teacher)
    token = model.vit(_halves(images)).last_hidden_state[:, 1 + 2 * 4 + 3]
    assert (teacher.proof.kind, teacher.grid.size_hw) == ("constant-field", (4, 4))
    torch.testing.assert_close(teacher(images)[:, :, 2, 3], model.classifier(token))


def test_a_head_of_class_token_and_mean_gets_the_location_as_both(made, photos):
    model, folder = made("dinov2")
    teacher = _load(folder)
    images = photos(teacher)
    token = model.dinov2(_halves(images)).last_hidden_state[:, 1 + 2 * 4 + 3]
    torch.testing.assert_close(teacher(images)[:, :, 2, 3], model.classifier(torch.cat([token, token], dim=1)))


def test_a_norm_after_the_pool_sees_one_location(made, photos):
    model, folder = made("convnext")
    teacher = _load(folder)
    images = photos(teacher)
    vector = model.convnext(_halves(images)).last_hidden_state[:, :, 2, 3]
    expected = model.classifier(model.convnext.layernorm(vector))
    torch.testing.assert_close(teacher(images)[:, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("processor", "size_hw", "interpolation"),
    [
        (transformers.ViTImageProcessor(size={"height": 64, "width": 96}), (64, 96), "bilinear"),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 64}), (64, 64), "bicubic"),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 72}, crop_size=SIZE), (64, 64), "bicubic"),
        (transformers.ViTImageProcessor(size=SIZE, do_normalize=False, resample=3), (64, 64), "bicubic"),
        (transformers.MobileViTImageProcessor(crop_size=SIZE), (64, 64), "bicubic"),
        (transformers.EfficientNetImageProcessor(size=SIZE, image_std=[0.4, 0.5, 0.6]), (64, 64), "bicubic"),
    ],
    ids=["height and width", "shortest edge", "crop", "not normalised", "BGR", "normalised twice"],
)
def test_pixels_become_what_the_processor_makes_of_them(processor, size_hw, interpolation, made, photos):
    model, folder = made(processor=processor)
    teacher = _load(folder)
    assert (teacher.preprocessing.image_size_hw, teacher.preprocessing.interpolation) == (size_hw, interpolation)
    images = photos(teacher)
    given = processor(images=list(images), do_resize=False, do_center_crop=False, return_tensors="pt")
    torch.testing.assert_close(teacher(images).mean((2, 3)), model(**given).logits, rtol=1e-4, atol=1e-4)


def test_mean_and_std_are_in_the_order_of_the_images_channels_not_of_the_models():
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.1, 0.4, 0.9), (0.2, 0.3, 0.5)))

    def processor(images, **_):
        return {"pixel_values": (torch.stack(images).flip(1) / 255 - mean) / std}

    found_mean, found_std, is_bgr = _asked(processor)
    assert (found_mean, found_std) == (pytest.approx((0.9, 0.4, 0.1)), pytest.approx((0.5, 0.3, 0.2)))
    assert is_bgr


def test_a_mean_that_a_processor_says_is_taken_to_the_digit(made):
    _, folder = made(processor=transformers.CLIPImageProcessor(crop_size=SIZE))
    made_of = _load(folder).preprocessing
    assert made_of.mean == (0.48145466, 0.4578275, 0.40821073)
    assert made_of.std == (0.26862954, 0.26130258, 0.27577711)


def test_a_folder_without_a_processor_needs_mean_and_std(made):
    _, folder = made()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(TeacherError, match=r"is not known: .*preprocessor_config\.json, or give --mean and --std"):
        _load(folder)
    assert _load(folder, mean=(0.5,) * 3, std=(0.5,) * 3, image_size_hw=(64, 64)).preprocessing.mean == (0.5,) * 3
    assert _load(folder, random_weights=0, image_size_hw=(64, 64)).preprocessing.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("size_hw", [(64, 96), (128, 128)])
def test_a_transformer_takes_other_sizes_where_its_embeddings_can_be_resampled(size_hw, made, photos):
    model, folder = made("vit")
    teacher = _load(folder, image_size_hw=size_hw)
    assert teacher.grid.size_hw == (size_hw[0] // 16, size_hw[1] // 16)
    images = photos(teacher)
    tokens = model.vit(_halves(images), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(teacher(images)[:, :, 1, 0], model.classifier(tokens[:, 1 + teacher.grid.width]))


def test_class_names_are_those_of_its_configuration(made):
    _, folder = made(id2label={str(number): f"class {number}" for number in range(CLASSES)})
    assert _load(folder).class_names == tuple(f"class {number}" for number in range(CLASSES))
    assert _load(folder, random_weights=0).class_names is None
    _, folder = made()
    assert _load(folder).class_names is None


def test_random_weights_need_a_configuration_only(tmp_path):
    SMALL["resnet"].save_pretrained(tmp_path)
    assert _load(tmp_path, random_weights=1, image_size_hw=(64, 64)).record.seed == 1


def test_a_checkpoint_may_have_other_classes(made, tmp_path, photos):
    _, folder = made()
    torch.manual_seed(4)
    other = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, num_labels=9, **STAGES)
    ).eval()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    teacher = _load(folder, checkpoint=tmp_path / "other.safetensors")
    assert (teacher.num_classes, teacher.record.weights) == (9, "checkpoint")
    assert teacher.record.weights_digest == digest_of(other)


def test_weights_without_a_classifier_are_refused(made):
    model, folder = made()
    model.resnet.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ResNetForImageClassification"]}))
    with pytest.raises(TeacherError, match=r"lack classifier\.1\.bias, classifier\.1\.weight.*not trained to classify"):
        _load(folder)


def test_a_place_can_be_named(made):
    _, folder = made()
    found, named = _load(folder), load_teacher(TeacherSpec(name=f"transformers:{folder}@resnet.encoder", device="cpu"))
    assert (named.forward.model.place, named.proof.kind) == ("resnet.encoder", "linear")
    assert found.record.weights_digest == named.record.weights_digest


def test_a_folder_whose_name_has_an_at_sign_is_a_folder(made, tmp_path):
    model, _ = made()
    folder = tmp_path / "me@home"
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size=SIZE).save_pretrained(folder)
    assert _load(folder).num_classes == CLASSES


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    with pytest.raises(TeacherError, match=r"configuration of .* cannot be had: ValueError: .*contains custom code"):
        _load(tmp_path, random_weights=0)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (transformers.GPT2Config(n_layer=1), "transformers cannot build an image classifier of .*Unrecognized config"),
        (transformers.ImageGPTConfig(n_layer=1, n_embd=16, n_head=2), "takes input_ids, not images alone"),
    ],
)
def test_a_model_that_is_no_image_classifier_is_refused(config, why, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match=why):
        _load(tmp_path, random_weights=0)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"configuration of transformers:.*/nowhere cannot be had: .*config\.json"):
        _load(tmp_path / "nowhere")


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TeacherError, match=r"pip install '\.\[transformers\]' in the clone"):
        _load("owner/name")
