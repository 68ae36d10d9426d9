"""Families whose features are no single map: each cell against the model's own head on literal copies, or by hand."""

from __future__ import annotations

import copy
import functools
import itertools
import sys

import pytest
import timm
import torch
from teacher.test_dense import _off
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher.heads.class_attention import WeightedClassAttention
from relabel.teacher.heads.dense import find_layout
from relabel.teacher.heads.door import dense_of
from relabel.teacher.heads.families import _FAMILIES, adapted
from relabel.teacher.proof import MOST_REPEATED, proved
from relabel.teacher.weights import randomise

# Shallow, so that they are fast; every path from features to logits is timm's.
SHALLOW = {
    "cait_xxs24_224": ({"img_size": (48, 80), "depth": 1}, (48, 80)),
    "xcit_nano_12_p16_224": ({"depth": 1}, (48, 80)),
    "xcit_tiny_12_p8_224": ({"depth": 1}, (32, 48)),
    "volo_d1_224": ({"img_size": (48, 80)}, (48, 80)),
    "pit_ti_224": ({"img_size": (96, 64), "depth": [1, 1, 1]}, (96, 64)),
    "pit_ti_distilled_224": ({"img_size": (64, 96), "depth": [1, 1, 1]}, (64, 96)),
    "coat_tiny": ({"img_size": (64, 96), "serial_depths": [1, 1, 1, 1], "parallel_depth": 1}, (64, 96)),
    "coat_lite_tiny": ({"img_size": (64, 96), "serial_depths": [1, 1, 1, 1]}, (64, 96)),
    "crossvit_9_240": ({"depth": [[1, 1, 0]]}, (240, 240)),
    "efficientvim_m1": ({}, (192, 256)),
    "efficientvim_m1_dist": ({}, (256, 192)),
}
CLASS_ATTENTION = {
    "cait_xxs24_224": lambda m: m.blocks,
    "xcit_nano_12_p16_224": lambda m: m.blocks[-1],
    "xcit_tiny_12_p8_224": lambda m: m.blocks[-1],
    "volo_d1_224": lambda m: m.network[-1],
}


@functools.cache
def _model(name):
    kwargs, _ = SHALLOW[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20, **kwargs).eval().requires_grad_(False)
    randomise(model)
    if hasattr(model, "cls_token"):
        # As large as the locations' vectors, so that it matters what it attends to.
        nn.init.normal_(model.cls_token)
    return model


@functools.cache
def _images(name):
    return torch.randn(2, 3, *SHALLOW[name][1], generator=torch.Generator().manual_seed(1))


@functools.cache
def _proved(name):
    model = adapted(_model(name))
    return proved(model, find_layout(model, name, _images(name)), name, _images(name))


class Around(nn.Module):
    """A wrapper as users write them: images are changed before the model, its answer after."""

    def __init__(self, model, after=lambda answer: answer):
        super().__init__()
        self.inner, self.after = model, after
        self.eval()

    def forward(self, images):
        return self.after(self.inner(images * 2 - 1))


def _derived(model):
    derived = copy.copy(model)
    derived.__class__ = type("Mine", (type(model),), {"__module__": "mine"})
    return derived


@torch.inference_mode()
@pytest.mark.parametrize("bring", [lambda model: model, _derived, Around], ids=["itself", "derived", "inside"])
@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_224", "coat_lite_tiny"])
def test_whoever_brings_a_model_of_a_family_gets_its_adapter(name, bring):
    dense, _ = _proved(name)
    given, images = bring(_model(name)), _images(name)
    found, proof = dense_of(given, "mine:net", images)
    expected = dense(images * 2 - 1 if isinstance(given, Around) else images)
    assert _off(found(images), expected) < 1e-5
    assert not proof.repeated


@torch.inference_mode()
@pytest.mark.parametrize(("name", "most"), [("cait_xxs24_224", 256), ("cait_xxs24_224", 5)])
def test_without_its_adapter_class_attention_is_never_given_a_wrong_map(name, most, monkeypatch):
    dense, _ = _proved(name)
    monkeypatch.setattr("relabel.teacher.heads.families._FAMILIES", {})
    monkeypatch.setattr("relabel.teacher.heads.hooked.MOST_REPEATED", most)
    if most == 5:
        with pytest.raises(TeacherError, match=r"mine:net .* its answer is read off class tokens that passed other"):
            dense_of(_model(name), "mine:net", _images(name))
        return
    # A hook finds the map before class attention, and runs that over a whole grid of every location.
    found, proof = dense_of(_model(name), "mine:net", _images(name))
    assert proof.repeated
    assert _off(found(_images(name)), dense(_images(name))) < 1e-5


def test_where_nothing_can_be_proved_the_first_way_says_why(monkeypatch):
    monkeypatch.setattr("relabel.teacher.heads.families._FAMILIES", {})
    with pytest.raises(TeacherError, match="its features are list, not one map or one sequence of tokens"):
        dense_of(_model("coat_tiny"), "mine:net", _images("coat_tiny"))


def _seen(model, images, *modules):
    """What modules answer while the model looks at images."""
    seen = []
    handles = [module.register_forward_hook(lambda _, __, answer: seen.append(answer)) for module in modules]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", SHALLOW)
def test_it_is_proved_on_images_that_are_not_square(name):
    dense, proof = _proved(name)
    assert proof.constant_error < 1e-5
    assert not proof.repeated
    assert proof.kind == ("linear" if "efficientvim" in name else "constant-field")
    # Random states of a whole image, alike at every location, hide where things are.
    assert proof.localises or "efficientvim" in name
    height, width = SHALLOW[name][1]
    assert dense.layout.grid.height * width == dense.layout.grid.width * height


@torch.inference_mode()
@pytest.mark.parametrize("name", CLASS_ATTENTION)
def test_class_attention_to_a_location_is_that_to_as_many_copies_as_there_are_locations(name):
    dense, _ = _proved(name)
    model, images = _model(name), _images(name)
    vectors = _seen(model, images, CLASS_ATTENTION[name](model))[0].reshape(2, *dense.layout.grid.size_hw, -1)
    logits = dense(images)
    count = dense.layout.grid.height * dense.layout.grid.width
    for row, column in [(0, 0), (1, 2), (2, 1)]:
        copies = vectors[:, row, column, None].repeat(1, count, 1)
        own = model.forward_head(model.norm(model.forward_cls(copies)))
        assert _off(logits[:, :, row, column], own) < 1e-5
        # The number of copies matters, else this would show nothing.
        assert _off(model.forward_head(model.norm(model.forward_cls(copies[:, :1]))), own) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("name", CLASS_ATTENTION)
def test_a_model_with_class_attention_stays_as_it_was(name):
    dense, _ = _proved(name)
    model = _model(name)
    assert not any(isinstance(m, WeightedClassAttention) for m in dense.model.modules())
    assert sum(isinstance(m, WeightedClassAttention) for m in dense.modules()) == 2
    # Its weights are shared, not copied.
    assert {id(p) for p in dense.parameters()} == {id(p) for p in model.parameters()}


@torch.inference_mode()
@pytest.mark.parametrize("name", ["pit_ti_224", "pit_ti_distilled_224"])
def test_a_location_of_pit_takes_the_place_of_the_class_tokens(name):
    dense, _ = _proved(name)
    model, images = _model(name), _images(name)
    [(places, _)] = _seen(model, images, model.transformers[-1])
    vectors = model.norm(places.permute(0, 2, 3, 1))
    expected = model.head(vectors)
    if model.head_dist is not None:
        expected = (expected + model.head_dist(vectors)) / 2
    assert _off(dense(images), expected.permute(0, 3, 1, 2)) < 1e-5


def _between(coarse, at, grid_hw):
    """Bilinear between the vectors (B, h, w, D) of a coarser grid, at a cell of a finer one; by hand."""
    weights = []
    for place, size, small in zip(at, grid_hw, coarse.shape[1:3], strict=True):
        where = min(max((place + 0.5) * small / size - 0.5, 0), small - 1)
        low = min(int(where), small - 2)
        weights.append({low: low + 1 - where, low + 1: where - low})
    return sum(
        weights[0][r] * weights[1][c] * coarse[:, r, c] for r, c in itertools.product(weights[0], weights[1])
    )  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("name", ["coat_tiny", "crossvit_9_240"])
@pytest.mark.parametrize("at", [(0, 0), (3, 5), (7, 11)])
def test_every_branch_speaks_at_a_cell_of_the_finest_grid_through_its_own_head(name, at):
    dense, _ = _proved(name)
    model, images = _model(name), _images(name)
    coat = name == "coat_tiny"
    norms, grids = (
        ([model.norm2, model.norm3, model.norm4], [(8, 12), (4, 6), (2, 3)])
        if coat
        else (list(model.norm), [(20, 20), (14, 14)])
    )
    places = [tokens[:, 1:].unflatten(1, hw) for tokens, hw in zip(_seen(model, images, *norms), grids, strict=True)]
    vectors = [_between(branch, at, grids[0]) for branch in places]
    if coat:
        weights = model.aggregate.weight.flatten()
        mixed = sum(w * v for w, v in zip(weights, vectors, strict=True)) + model.aggregate.bias
        expected = model.head(mixed)
    else:
        expected = sum(head(v) for head, v in zip(model.head, vectors, strict=True)) / 2
    assert dense.layout.grid.size_hw == grids[0]
    assert _off(dense(images)[:, :, at[0], at[1]], expected) < 1e-5


def test_a_grid_of_cells_that_are_not_square_is_the_models_own():
    # CrossViT resizes what it is given to its own square.
    assert find_layout(adapted(_model("crossvit_9_240")), "it", torch.zeros(1, 3, 160, 240)).grid.size_hw == (20, 20)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["efficientvim_m1", "efficientvim_m1_dist"])
def test_hidden_states_speak_for_the_whole_image_and_the_last_map_for_its_cells(name):
    dense, _ = _proved(name)
    model, images = _model(name), _images(name)
    logits = dense(images)
    assert _off(logits.mean((2, 3)), model(images)) < 1e-5
    [last] = _seen(model, images, model.norm[-1])
    cells = last.permute(0, 2, 3, 1)
    away = cells - cells.mean((1, 2), keepdim=True)
    local = torch.softmax(model.weights, 0)[-1] * (away @ model.heads[-1].weight.T)
    if "dist" in name:
        distilled = torch.softmax(model.weights_dist, 0)[-1] * (away @ model.heads_dist[-1].weight.T)
        local = (local + distilled) / 2
    torch.testing.assert_close(
        logits - logits.mean((2, 3), keepdim=True), local.permute(0, 3, 1, 2), rtol=0, atol=1e-5 * float(logits.std())
    )


@torch.inference_mode()
def test_an_attention_pool_that_knows_places_sees_each_location_at_all_of_them(caplog):
    torch.manual_seed(0)
    model = timm.create_model("resnet50_clip", num_classes=20).eval()
    images = torch.randn(2, 3, 64, 96)
    dense, proof = proved(model, find_layout(model, "resnet50_clip", images), "resnet50_clip", images)
    assert (proof.kind, proof.repeated, proof.localises) == ("constant-field", True, True)
    assert "the head of resnet50_clip knows places: it is run 6 times for an image" in caplog.text
    features, logits = model.forward_features(images), dense(images)
    for row, column in itertools.product(range(2), range(3)):
        copies = features[:, :, row, column, None, None].repeat(1, 1, 2, 3)
        assert _off(logits[:, :, row, column], model.head(copies)) < 1e-5
    # One location alone stands at one place only.
    assert _off(model.head(features[:, :, :1, :1]), logits[:, :, 0, 0]) > 1e-4


def test_a_head_that_knows_places_is_refused_where_there_are_too_many_of_them(monkeypatch):
    model = timm.create_model("resnet50_clip", num_classes=20).eval()
    images = torch.randn(1, 3, 64, 96)
    monkeypatch.setattr("relabel.teacher.proof.MOST_REPEATED", 5)
    with pytest.raises(TeacherError, match=r"resnet50_clip .* with equal features everywhere"):
        proved(model, find_layout(model, "resnet50_clip", images), "resnet50_clip", images)
    assert MOST_REPEATED == 256


@torch.inference_mode()
@pytest.mark.parametrize("name", ["volo_d1_224", "pit_ti_224", "coat_tiny", "efficientvim_m1"])
def test_half_precision_differs_by_its_rounding_only(name):
    dense, _ = _proved(name)
    exact = dense(_images(name))
    with torch.autocast("cpu", torch.bfloat16):
        assert _off(dense(_images(name)).float(), exact) < 0.05


class Cait(nn.Module):
    """Of a user's own, by the name of one of timm's."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("test_vit"),
        Cait,
        # Which of the two would answer cannot be told.
        lambda: nn.ModuleList([_model("cait_xxs24_224"), _model("volo_d1_224")]),
    ],
    ids=["another family", "another's class", "two"],
)
def test_what_is_no_model_of_one_family_is_left_alone(make):
    assert adapted(make()) is None


def test_a_wrapper_that_changes_its_models_answer_is_proved_another_way_or_refused(monkeypatch):
    images = _images("cait_xxs24_224")
    given = Around(_model("cait_xxs24_224"), lambda answer: answer * 2)
    expected, _ = dense_of(Around(_model("cait_xxs24_224")), "mine:net", images)
    found, proof = dense_of(given, "mine:net", images)
    assert proof.repeated
    assert _off(found(images), 2 * expected(images)) < 1e-5
    monkeypatch.setattr("relabel.teacher.heads.hooked.MOST_REPEATED", 5)
    with pytest.raises(TeacherError, match=r"mine:net .* a part of its answer passes its features by"):
        dense_of(given, "mine:net", images)


def test_a_place_that_is_named_is_taken_whatever_the_model_is():
    model = timm.create_model("test_resnet").eval()
    dense, _ = dense_of(model, "mine:net", torch.randn(2, 3, 64, 64), "layer4")
    assert dense.model.place == "layer4"


@torch.inference_mode()
def test_class_attention_is_compiled_as_one_graph():
    name = "xcit_nano_12_p16_224"
    dense, _ = _proved(name)
    compiled = torch.compile(dense, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(_images(name)), dense(_images(name)))


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_family_with_lines_of_its_own_is_known_by_the_name_of_timms_class(family):
    # Under another name it would be taken for a plain transformer, whose proof sees nothing wrong.
    assert any(hasattr(module, family) for name, module in sys.modules.items() if name.startswith("timm.models."))
