"""Any classifier made dense at one of its submodules: each cell is answered by the rest of the model alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.teacher.heads.dense import FeatureLayout
from relabel.teacher.heads.hooked import dense_by_hook
from relabel.teacher.heads.places import layout_of

DEPTH, CLASSES = 6, 4


class Small(nn.Module):
    """A body of stride 8 and a head; dropout would show outside eval mode."""

    def __init__(self, head, body=None):
        super().__init__()
        self.body = body or nn.Conv2d(3, DEPTH, 8, 8)
        self.head = head
        self.eval().requires_grad_(False)

    def forward(self, images):
        return self.head(self.body(images))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def _linear():
    return nn.Linear(DEPTH, CLASSES)


def _pooled(*after):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *after)


class Writing(nn.Module):
    """Changes the map that it is given, outside any submodule."""

    def __init__(self, rest):
        super().__init__()
        self.rest = rest

    def forward(self, features):
        return self.rest(features.mul_(2))


HEADS = {
    "linear": (lambda: _pooled(nn.Dropout(0.5), _linear()), "linear"),
    "norm and perceptron": (
        lambda: _pooled(nn.LayerNorm(DEPTH), nn.Linear(DEPTH, 9), nn.GELU(), nn.Linear(9, CLASSES)),
        "constant-field",
    ),
    "writes into its input": (lambda: Writing(_pooled(_linear())), "linear"),
    "flattens what it pools to 2 x 2": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * DEPTH, CLASSES)),
        "constant-field",
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_each_cell_is_what_the_rest_of_the_model_says_of_its_vector(head, images):
    make, kind = HEADS[head]
    torch.manual_seed(1)
    model = Small(make())
    own = model(images)
    dense, proof = dense_by_hook(model, "small", images)
    assert (proof.kind, proof.repeated, dense.layout.grid) == (kind, False, Grid(4, 6))
    logits = dense(images)
    features = model.body(images)
    assert dense.model.place == "body"
    for row, column in ((0, 0), (3, 1), (1, 5)):
        vector = features[:, :, row, column, None, None].clone()
        torch.testing.assert_close(logits[:, :, row, column], model.head(vector))
    if kind == "linear":
        torch.testing.assert_close(logits.mean((2, 3)), own)
    torch.testing.assert_close(model(images), own)


def test_it_can_be_traced_by_the_compiler(images):
    dense, _ = dense_by_hook(Small(_pooled(nn.LayerNorm(DEPTH), _linear())), "small", images)
    expected = dense(images)
    # Tracing is what a hook could break; the compiler behind it is torch's and takes its time.
    torch.testing.assert_close(torch.compile(dense, backend="eager")(images), expected)


def test_a_head_that_knows_places_is_run_over_a_whole_grid_of_each_location(images, caplog):
    torch.manual_seed(1)
    model = Small(nn.Sequential(nn.Flatten(), nn.Linear(DEPTH * 24, CLASSES)))
    dense, proof = dense_by_hook(model, "small", images)
    assert proof.repeated
    assert "what follows body in small knows places: it is run 24 times" in caplog.text
    everywhere = model.body(images)[:, :, 2, 3, None, None].expand(-1, -1, 4, 6)
    torch.testing.assert_close(dense(images)[:, :, 2, 3], model.head(everywhere))


def test_such_a_head_of_too_many_cells_is_refused():
    model = Small(nn.Sequential(nn.Flatten(), nn.Linear(DEPTH * 1024, CLASSES)), nn.Conv2d(3, DEPTH, 1))
    with pytest.raises(TeacherError, match=r"does not take one location alone: RuntimeError: .*6144"):
        dense_by_hook(model, "small", torch.randn(2, 3, 32, 32))


def test_the_class_token_of_a_transformer_sees_the_location_in_every_slot(images):
    torch.manual_seed(1)
    model = VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=CLASSES).eval().requires_grad_(False)
    nn.init.normal_(model.heads.head.weight)
    images = images[:, :, :16, :16]
    dense, proof = dense_by_hook(model, "a transformer", images)
    assert (proof.kind, dense.layout) == ("constant-field", FeatureLayout("NLC", Grid(4, 4), 1))
    tokens = model.encoder(
        torch.cat([model.class_token.expand(2, -1, -1), model.conv_proj(images).flatten(2).mT], dim=1)
    )
    torch.testing.assert_close(dense(images)[:, :, 1, 2], model.heads(tokens[:, 1 + 4 + 2]))


class Branching(Small):
    """A map that nobody reads is put out last, and one that a residual passes by before."""

    def __init__(self):
        super().__init__(_pooled(_linear()))
        self.block = nn.Conv2d(DEPTH, DEPTH, 3, padding=1)
        self.sum = nn.Identity()
        self.unread = nn.Conv2d(DEPTH, DEPTH, 1)

    def forward(self, images):
        stem = self.body(images)
        features = self.sum(stem + self.block(stem))
        self.unread(features)
        return self.head(features)


def test_the_last_place_that_all_of_the_answer_passes_is_found(images):
    torch.manual_seed(1)
    model = Branching()
    dense, proof = dense_by_hook(model, "branching", images)
    assert (dense.model.place, proof.kind) == ("sum", "linear")


@pytest.mark.parametrize("place", ["block", "unread"])
def test_a_place_that_the_answer_passes_by_is_refused_and_leaves_no_hook(place, images):
    model = Branching()
    with pytest.raises(TeacherError, match=rf"tried at {place}\. At {place}: .*passes its features by.*@SUBMODULE"):
        dense_by_hook(model, "branching", images, place)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("boddy", "'boddy' is none of its submodules. Maps are put out by unread, body"),
        ("head.2", "'head.2' puts out no feature map, or is run more than once. Maps are put out by unread"),
    ],
)
def test_a_place_that_puts_out_no_map_is_refused_with_those_that_do(place, why, images):
    with pytest.raises(TeacherError, match=why):
        dense_by_hook(Branching(), "branching", images, place)


def test_a_submodule_that_is_run_twice_is_no_place(images):
    class Twice(Small):
        def forward(self, images):
            relu = nn.functional.relu
            return self.head(relu(self.act(relu(self.act(self.body(images))))))

    model = Twice(_pooled(_linear()))
    model.act = nn.ReLU()
    dense, _ = dense_by_hook(model, "twice", images)
    assert dense.model.place == "body"


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, 3), lambda x: [x], lambda x: {"last_hidden_state": x, "other": None}],
    ids=["tuple", "list", "dict"],
)
def test_the_first_of_several_outputs_is_the_map(wrap, images):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(3, DEPTH, 8, 8)])

        def forward(self, images):
            return wrap(self.layers[0](images) * 2)

    class First(Small):
        def forward(self, images):
            found = self.body(images)
            return self.head(found["last_hidden_state"] if isinstance(found, dict) else found[0])

    dense, proof = dense_by_hook(First(_pooled(_linear()), Several()), "several", images)
    assert (dense.model.place, proof.kind) == ("body", "linear")


def test_a_model_without_a_map_is_refused(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, CLASSES)).eval()
    with pytest.raises(TeacherError, match="none of its submodules puts out a feature map, or tokens"):
        dense_by_hook(model, "flat", images)


@pytest.mark.parametrize(
    ("shape", "size_hw", "layout"),
    [
        ((2, 8, 4, 6), (32, 48), FeatureLayout("NCHW", Grid(4, 6))),
        ((2, 4, 6, 8), (32, 48), FeatureLayout("NHWC", Grid(4, 6))),
        ((2, 7, 7, 7), (224, 224), FeatureLayout("NCHW", Grid(7, 7))),
        ((2, 8, 3, 5), (33, 50), FeatureLayout("NCHW", Grid(3, 5))),
        ((2, 8, 1, 1), (32, 32), None),
        ((2, 8, 6, 4), (16, 64), None),
        ((1, 8, 4, 4), (32, 32), None),
        ((2, 16, 8), (32, 32), FeatureLayout("NLC", Grid(4, 4))),
        ((2, 201, 8), (224, 224), FeatureLayout("NLC", Grid(14, 14), 5)),
        ((2, 25, 8), (32, 48), FeatureLayout("NLC", Grid(4, 6), 1)),
        ((2, 18, 8), (33, 33), None),
        ((2, 8), (32, 32), None),
    ],
)
def test_a_layout_is_told_by_the_aspect_ratio_of_the_images(shape, size_hw, layout):
    assert layout_of(torch.zeros(shape), torch.zeros(2, 3, *size_hw)) == layout


def test_integers_are_no_features():
    assert layout_of(torch.zeros(2, 8, 4, 4, dtype=torch.long), torch.zeros(2, 3, 32, 32)) is None
