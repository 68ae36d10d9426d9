"""Dense logits: what the one-cell method answers, against each head worked out by hand and the model's own answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher.heads.dense import find_layout

HEADS = {
    "efficientvit_b0": (64, 96),
    "inception_next_atto": (64, 96),
    "hgnetv2_b0": (64, 96),
    "swiftformer_xs": (64, 96),
    "starnet_s050": (96, 64),
    "mobilenetv4_conv_small_035": (96, 64),
    "ghostnet_050": (64, 96),
    "fastvit_t8": (64, 96),
    "repvit_m1": (64, 96),
    "pvt_v2_b0": (64, 96),
    "gmlp_ti16_224": None,
    "levit_128s": None,
    "convit_tiny": None,
}
"""Heads that are no head of the models below: convolutions, MLPs, several classifiers, norms of a batch."""

LINEAR = ["test_resnet", "test_efficientnet", "test_nfnet", "test_byobnet", "test_coatnet"]
PREFIX = {"test_vit": 1, "test_vit2": 1, "test_vit3": 1, "test_vit_relpos": 0, "deit_tiny_distilled_patch16_224": 2}
MAPS = ["test_convnext", "test_mambaout", "mobilenetv3_small_050"]


def _linear(vectors, layer):
    return vectors @ layer.weight.double().flatten(1).T + layer.bias.double()


def _layer_norm(vectors, norm):
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double() + norm.bias


def _attention_pool(vectors, pool):
    # Every slot holds the same vector, so that whatever the attention weights are, the values' mean is that vector's.
    values = _linear(vectors, pool.kv)[..., vectors.shape[-1] :]
    pooled = _linear(values, pool.proj)
    hidden = nn.functional.gelu(_linear(_layer_norm(pooled, pool.norm), pool.mlp.fc1))
    return pooled + _linear(hidden, pool.mlp.fc2)


BY_HAND = {
    "test_resnet": lambda m, v: _linear(v, m.fc),
    "test_efficientnet": lambda m, v: _linear(v, m.classifier),
    "test_nfnet": lambda m, v: _linear(v, m.head.fc),
    "test_convnext": lambda m, v: _linear(_layer_norm(v, m.head.norm), m.head.fc),
    "test_mambaout": lambda m, v: _linear(
        nn.functional.gelu(_linear(_layer_norm(v, m.head.norm), m.head.pre_logits.fc)), m.head.fc
    ),
    "mobilenetv3_small_050": lambda m, v: _linear(nn.functional.hardswish(_linear(v, m.conv_head)), m.classifier),
    "test_vit": lambda m, v: _linear(v, m.head),
    "test_vit2": lambda m, v: _linear(_layer_norm(v, m.fc_norm), m.head),
    "test_vit3": lambda m, v: _linear(_attention_pool(v, m.attn_pool), m.head),
    "test_vit_relpos": lambda m, v: _linear(_layer_norm(v, m.fc_norm), m.head),
    "deit_tiny_distilled_patch16_224": lambda m, v: (_linear(v, m.head) + _linear(v, m.head_dist)) / 2,
}


def _vectors(name, features, grid_hw):
    """Each location's vector (B, H, W, D), float64."""
    if name in PREFIX:
        return features[:, PREFIX[name] :].unflatten(1, grid_hw).double()
    return (features if name == "test_mambaout" else features.permute(0, 2, 3, 1)).double()


def _off(found, expected):
    return float((found - expected).abs().max() / (expected - expected.mean(1, keepdim=True)).abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("name", BY_HAND)
def test_each_cell_is_the_heads_own_sum_of_that_locations_vector(name, taught, photos):
    teacher = taught(name)
    images = photos(teacher)
    model = teacher.forward.model
    vectors = _vectors(name, model.forward_features(teacher.normalised(images)), teacher.grid.size_hw)
    assert _off(teacher(images), BY_HAND[name](model, vectors).permute(0, 3, 1, 2)) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "size_hw"),
    [*((name, None) for name in LINEAR), ("test_resnet", (96, 160)), ("test_efficientnet", (160, 96))],
)
def test_the_mean_over_the_cells_is_a_linear_models_own_answer(name, size_hw, taught, photos):
    teacher = taught(name, size_hw)
    images = photos(teacher)
    assert _off(teacher(images).mean((2, 3)), teacher.forward.model(teacher.normalised(images))) < 1e-4
    assert teacher.proof.kind == teacher.record.head == "linear"


@torch.inference_mode()
@pytest.mark.parametrize(("name", "size_hw"), HEADS.items())
def test_each_cell_is_the_models_own_answer_to_literal_copies_of_its_vector(name, size_hw, taught, photos):
    teacher = taught(name, size_hw)
    model, (height, width) = teacher.forward.model, teacher.grid.size_hw
    images = photos(teacher)
    features = model.forward_features(teacher.normalised(images))
    logits = teacher(images)
    tokens = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features[:, -height * width :]
    for row, column in [(0, 0), (height - 1, 0), (0, width - 1)]:
        vectors = tokens[:, row * width + column]
        if features.ndim == 4:
            copies = vectors[:, :, None, None].repeat(1, 1, height, width)
        else:
            copies = vectors[:, None].repeat(1, features.shape[1], 1)
        assert _off(logits[:, :, row, column], model.forward_head(copies)) < 1e-4


@pytest.mark.parametrize("name", [*MAPS, *PREFIX])
def test_a_head_that_is_not_linear_is_not_called_so(name, taught):
    assert taught(name).proof.kind == "constant-field"


@pytest.mark.parametrize(
    ("name", "size_hw", "grid_hw"),
    [
        ("test_resnet", None, (5, 5)),
        ("test_resnet", (64, 160), (2, 5)),
        ("test_resnet", (160, 64), (5, 2)),
        ("test_resnet", (32, 32), (1, 1)),
        ("test_convnext", (160, 96), (5, 3)),
        ("test_mambaout", (96, 160), (3, 5)),
        ("test_vit", (96, 160), (6, 10)),
        ("test_vit2", (160, 96), (10, 6)),
        ("test_vit3", (208, 144), (13, 9)),
    ],
)
def test_square_wide_and_tall_images_give_the_grid_of_their_shape(name, size_hw, grid_hw, taught, photos):
    teacher = taught(name, size_hw)
    assert teacher.grid.size_hw == grid_hw
    assert teacher(photos(teacher)).shape == (2, 1000, *grid_hw)
    assert teacher.proof.localises


@pytest.mark.parametrize(
    ("features", "why"),
    [
        ([torch.zeros(1, 8, 4, 4)], "its features are list, not one map or one sequence of tokens"),
        (torch.zeros(1, 8), r"its features are \(1, 8\), not one map"),
        (torch.zeros(1, 17, 8), "its 17 tokens are not 0 prefix tokens and a grid of None"),
    ],
)
def test_features_that_are_not_understood_are_refused_by_name_with_a_way_out(features, why):
    class Other(nn.Module):
        num_features = 8

        def forward_features(self, images):
            return features

    with pytest.raises(TeacherError, match=f"mine cannot be used as a teacher: {why}.* package.module:function"):
        find_layout(Other(), "mine", torch.randn(1, 3, 64, 64))
