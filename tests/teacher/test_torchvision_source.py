"""Teachers out of torchvision: names, published weights, checkpoints, preprocessing, other input sizes."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision import models
from torchvision.models import ResNet18_Weights, VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.weights import digest_of, randomise


def _load(name, **spec):
    spec = {"image_size_hw": (64, 64)} | spec
    if not {"checkpoint", "random_weights"} & set(spec):
        spec["random_weights"] = 0
    return load_teacher(TeacherSpec(name=f"torchvision:{name}", device="cpu", **spec))


def _pretrained(name, **spec):
    return load_teacher(TeacherSpec(name=f"torchvision:{name}", device="cpu", image_size_hw=(64, 64), **spec))


def _trained(model):
    """With weights that all matter, in eval mode."""
    randomise(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


@pytest.fixture
def saved(tmp_path):
    """A model's weights in a file."""

    def save(model, rename=lambda name: name):
        torch.save({rename(name): tensor for name, tensor in model.state_dict().items()}, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return save


def _normalised(images):
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet-50", r"no classifier 'resnet-50'\. Did you mean .*resnet50.*torchvision:MODEL"),
        ("fcn_resnet50", "no classifier 'fcn_resnet50'"),
        ("qqqqqqqq", r"no classifier 'qqqqqqqq'\. A teacher of torchvision's"),
        ("resnet50.V3", "no weights 'V3' of resnet50; it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
    ],
)
def test_an_unknown_name_is_refused_with_names_like_it(name, said):
    with pytest.raises(TeacherError, match=f"torchvision has {said}"):
        _load(name)


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "squeezenet1_1", "regnet_y_400mf@trunk_output"])
def test_the_mean_over_the_cells_of_a_linear_head_is_the_models_own_answer(name, saved, photos):
    architecture = name.partition("@")[0]
    model = _trained(models.get_model(architecture, num_classes=50))
    teacher = _load(name, checkpoint=saved(model), image_size_hw=(64, 96))
    assert (teacher.proof.kind, teacher.num_classes) == ("linear", 50)
    assert (teacher.record.weights, teacher.record.weights_digest) == ("checkpoint", digest_of(model))
    assert teacher.class_names is None
    images = photos(teacher)
    torch.testing.assert_close(teacher(images).mean((2, 3)), model(_normalised(images)), rtol=1e-4, atol=1e-4)


def test_each_cell_of_a_perceptron_is_what_it_says_of_that_location(saved, photos):
    model = _trained(models.mobilenet_v3_small(num_classes=5))
    teacher = _load("mobilenet_v3_small", checkpoint=saved(model))
    images = photos(teacher)
    vectors = model.features(_normalised(images))
    assert (teacher.proof.kind, teacher.grid.size_hw) == ("constant-field", (2, 2))
    torch.testing.assert_close(teacher(images)[:, :, 1, 0], model.classifier(vectors[:, :, 1, 0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size_hw", "interpolation"),
    [
        ("shufflenet_v2_x0_5", (224, 224), "bilinear"),
        ("efficientnet_b0.IMAGENET1K_V1", (224, 224), "bicubic"),
    ],
)
def test_preprocessing_is_that_of_the_published_weights(name, size_hw, interpolation):
    made = _load(name, image_size_hw=None).preprocessing
    published = models.get_model_weights(name.partition(".")[0])[name.partition(".")[2] or "DEFAULT"].transforms()
    assert (made.image_size_hw, made.interpolation) == (size_hw, interpolation)
    assert [size_hw[0]] == published.crop_size
    assert published.interpolation.value == interpolation
    assert (list(made.mean), list(made.std)) == (published.mean, published.std)


def test_preprocessing_can_be_chosen():
    wanted = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic", "fit": "center", "crop": 0.875}
    made = _load("shufflenet_v2_x0_5", **wanted).preprocessing
    assert {name: getattr(made, name) for name in wanted} == wanted
    assert made.image_size_hw == (64, 64)


def test_pretrained_weights_bring_their_classes_names_and_run_no_code(monkeypatch):
    model = _trained(models.resnet18())
    asked = {}

    def get(self, **how):
        asked.update(how, weights=self)
        return model.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get)
    teacher = _pretrained("resnet18")
    assert (teacher.record.weights, teacher.record.weights_digest) == ("pretrained", digest_of(model))
    assert teacher.class_names[:2] == ("tench", "goldfish")
    assert (asked["weights"], asked["weights_only"]) == (ResNet18_Weights.IMAGENET1K_V1, True)


def test_pretrained_weights_that_cannot_be_had_are_an_error_that_names_their_file(monkeypatch):
    def get(self, **how):
        raise OSError("Name or service not known")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get)
    with pytest.raises(TeacherError, match=r"not known\. Download https://\S+/resnet18-\w+.pth .* as --checkpoint"):
        _pretrained("resnet18")


def test_published_weights_whose_layers_were_renamed_since_are_read(saved):
    model = _trained(models.densenet121(num_classes=5))

    def old(name):
        return re.sub(r"(denselayer\d+\.(norm|relu|conv))([12])\.", r"\1.\3.", name)

    assert _load("densenet121", checkpoint=saved(model, old)).record.weights_digest == digest_of(model)


def test_the_classifiers_that_only_training_asks_are_left_out(saved, photos):
    model = _trained(models.googlenet(num_classes=5, aux_logits=True, transform_input=True, init_weights=False))
    teacher = _load("googlenet", checkpoint=saved(model))
    # Random weights hardly show it.
    assert teacher.forward.model.model.transform_input
    images = photos(teacher)
    torch.testing.assert_close(teacher(images).mean((2, 3)), model(_normalised(images)), rtol=1e-4, atol=1e-4)


@pytest.fixture
def small_transformers(monkeypatch):
    """Vision transformers of torchvision's become small ones."""
    get = models.get_model

    def small(name, weights=None, image_size=64, num_classes=1000):
        return VisionTransformer(image_size, 16, 2, 2, 16, 32, num_classes=num_classes)

    monkeypatch.setattr(models, "get_model", lambda name, **how: (small if "vit" in name else get)(name, **how))
    return small


def _as_published(name):
    return name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")


def test_a_transformers_weights_are_one_teacher_at_every_size(small_transformers, saved, photos):
    model = _trained(small_transformers("vit", image_size=96, num_classes=5))
    path = saved(model, _as_published)
    own, other = (_load("vit_b_16", checkpoint=path, image_size_hw=size_hw) for size_hw in ((96, 96), (128, 128)))
    assert own.record.weights_digest == other.record.weights_digest == digest_of(model)
    assert (own.grid.size_hw, other.grid.size_hw) == ((6, 6), (8, 8))
    larger = small_transformers("vit", image_size=128, num_classes=5).eval()
    larger.load_state_dict(interpolate_embeddings(128, 16, model.state_dict()))
    for teacher, expected in ((own, model), (other, larger)):
        images = _normalised(photos(teacher))
        tokens = torch.cat([expected.class_token.expand(2, -1, -1), expected.conv_proj(images).flatten(2).mT], dim=1)
        vector = expected.encoder(tokens)[:, 1 + teacher.grid.width]
        torch.testing.assert_close(teacher(photos(teacher))[:, :, 1, 0], expected.heads(vector))


@pytest.mark.parametrize("size_hw", [(64, 96), (72, 72)])
def test_a_transformer_refuses_sizes_that_its_embeddings_cannot_be_resampled_to(size_hw, small_transformers):
    with pytest.raises(TeacherError, match=r"takes square images of whole patches of 16 pixels; got --image-size"):
        _load("vit_b_16", image_size_hw=size_hw)


def test_a_size_that_a_model_does_not_take_is_an_error_that_names_its_own():
    with pytest.raises(TeacherError, match=r"inception_v3 does not take images of 64 x 64 .*own size is 299 x 299"):
        _load("inception_v3")
