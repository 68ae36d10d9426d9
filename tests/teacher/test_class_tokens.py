"""Class tokens that are of another kind than the locations: what stands in their slot means nothing to the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.geometry import Grid
from relabel.teacher.heads.class_tokens import reads_strange_tokens
from relabel.teacher.heads.dense import DenseClassifier, FeatureLayout
from relabel.teacher.heads.door import dense_of
from relabel.teacher.heads.hooked import dense_by_hook

DEPTH, CLASSES, CELLS = 8, 5, 6
LAYOUT = FeatureLayout("NLC", Grid(2, 3), 1)


class Attending(nn.Module):
    """One block: the tokens from `start` on attend to those that `reads` keeps, and pass a layer."""

    def __init__(self, is_class_only):
        super().__init__()
        self.attention = nn.MultiheadAttention(DEPTH, 2, batch_first=True)
        self.layer = nn.Linear(DEPTH, DEPTH)
        self.is_class_only = is_class_only

    def forward(self, tokens):
        own = tokens[:, :1] if self.is_class_only else tokens
        own = own + self.attention(own, tokens, tokens, need_weights=False)[0]
        own = own + self.layer(own)
        return torch.cat([own, tokens[:, 1:]], dim=1) if self.is_class_only else own


class Transformer(nn.Module):
    """Tokens of 8 x 8 pixels and a class token through blocks, norm and a layer that reads some of them."""

    def __init__(self, blocks, reads=lambda tokens: tokens[:, 0]):
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv2d(3, DEPTH, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, DEPTH))
        self.start = nn.Identity()
        self.blocks = nn.Sequential(*map(Attending, blocks))
        self.norm, self.head, self.reads = nn.LayerNorm(DEPTH), nn.Linear(DEPTH, CLASSES), reads
        self.eval().requires_grad_(False)

    def forward_features(self, images):
        tokens = self.embed(images).flatten(2).mT
        tokens = self.start(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1))
        return self.norm(self.blocks(tokens))

    def forward_head(self, tokens):
        return self.head(self.reads(tokens))

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "is_strange"),
    [
        (Transformer([False, False]), False),
        (Transformer([False]), False),
        (Transformer([True]), True),
        (Transformer([False, True, True]), True),
        # It passes what the locations pass, but they never reach it.
        (Transformer([]), True),
        # What class attention makes of the class token is of no matter where nobody reads it.
        (Transformer([False, True], lambda tokens: tokens[:, 1:].mean(1)), False),
        (Transformer([False, True], lambda tokens: tokens.mean(1)), True),
    ],
    ids=["plain", "one block", "class attention", "at the end", "nothing", "locations read", "all read"],
)
def test_class_tokens_are_strange_where_they_pass_other_layers_than_the_locations(model, is_strange):
    assert reads_strange_tokens(DenseClassifier(model, LAYOUT), IMAGES) == is_strange


def test_a_map_without_class_tokens_has_no_strange_ones():
    model = Transformer([True])
    assert not reads_strange_tokens(DenseClassifier(model, FeatureLayout("NLC", Grid(2, 3), 0)), IMAGES)


@pytest.mark.parametrize(("blocks", "place"), [([False, True], "blocks.0"), ([True], "embed")])
def test_class_attention_of_ones_own_is_found_by_a_hook_before_it(blocks, place):
    model = Transformer(blocks)
    dense, proof = dense_by_hook(model, "mine", IMAGES)
    # Its own class token attends to as many copies of a location as there are; a location's own in its stead to itself.
    assert (dense.model.place, proof.repeated) == (place, place == "embed")
    tokens = torch.cat([model.token.expand(2, -1, -1), model.embed(IMAGES).flatten(2).mT], dim=1)
    tokens = tokens if place == "embed" else model.blocks[0](tokens)
    copies = torch.cat([tokens[:, :1] if place == "embed" else tokens[:, 5:6], *[tokens[:, 5:6]] * CELLS], dim=1)
    expected = model.forward_head(model.norm(model.blocks[-1](copies)))
    torch.testing.assert_close(dense(IMAGES)[:, :, 1, 1], expected)


def test_class_attention_to_too_many_locations_is_refused(monkeypatch):
    monkeypatch.setattr("relabel.teacher.heads.hooked.MOST_REPEATED", CELLS - 1)
    with pytest.raises(TeacherError, match="class tokens that passed other layers than the locations"):
        dense_by_hook(Transformer([True]), "mine", IMAGES)


@pytest.mark.parametrize(
    ("reads", "is_told"), [(lambda tokens: tokens[:, 0], True), (lambda t: t[:, 1:].mean(1), False)]
)
def test_a_map_whose_mean_hardly_says_what_the_model_says_is_told_of(reads, is_told, caplog):
    model = Transformer([False], reads)
    model.token.data *= 3
    dense, proof = dense_of(model, "mine", IMAGES)
    own, mean = model(IMAGES), dense(IMAGES).mean((2, 3))
    assert proof.agreement == pytest.approx(min(np.corrcoef(a, b)[0, 1] for a, b in zip(own, mean, strict=True)))
    assert (proof.agreement < 0.5) == is_told
    assert (
        f"of mine hardly says what the model itself says of noise (correlation over the classes {proof.agreement:.2f})"
        in caplog.text
    ) == is_told
