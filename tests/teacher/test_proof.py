"""The proof of a head: what it must see through."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import AttentionPool2d
from torch import nn

from relabel.ambient import float32
from relabel.errors import TeacherError
from relabel.teacher.heads.dense import DenseClassifier, find_layout
from relabel.teacher.proof import prove

CLASSES = 10


class Honest(nn.Module):
    """A timm-like classifier: a strided convolution, the mean over its 16 x 16 cells, a linear head."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, self.num_features, 16, 16)
        self.head = nn.Linear(self.num_features, CLASSES)

    def forward_features(self, images):
        return self.stem(images)

    def forward_head(self, features):
        return self.head(features.mean((2, 3)))

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


class Summing(Honest):
    def forward_head(self, features):
        return self.head(features.sum((2, 3)))


class FixedSize(Honest):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(self.num_features * 16, CLASSES)

    def forward_head(self, features):
        return self.head(features.flatten(1))


class MorePastItsHead(Honest):
    def forward(self, images):
        return 1.01 * super().forward(images)


class Offset(Honest):
    """Sums, but hides it: an offset common to all classes makes every logit huge."""

    def forward_head(self, features):
        return 500 + self.head(features.mean((2, 3)) * (1 + 1e-3 * features.shape[3]))


class Transposed(Honest):
    def forward_features(self, images):
        return super().forward_features(images).transpose(2, 3)


class NormAfterPool(Honest):
    def forward_head(self, features):
        return self.head(nn.functional.layer_norm(features.mean((2, 3)), (self.num_features,)))


class Faint(NormAfterPool):
    """So faint an answer to noise that every cell is nearly alike, and the norm's curvature does not show."""

    def forward_features(self, images):
        return torch.linspace(-1, 1, self.num_features)[:, None, None] + 1e-4 * super().forward_features(images)


class BatchOfOneHead(Honest):
    def forward_head(self, features):
        return super().forward_head(features)[:1]


class ManyLabels(Honest):
    def forward_head(self, features):
        return super().forward_head(features)[:, :, None]


def _proved(kind, height=64, width=64):
    torch.manual_seed(0)
    model = kind().eval()
    images = torch.randn(2, 3, height, width)
    return prove(DenseClassifier(model, find_layout(model, "mine", images)), "mine", images)


@pytest.mark.parametrize(("kind", "proved"), [(Honest, "linear"), (NormAfterPool, "constant-field")])
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 112), (112, 64)])
def test_an_honest_head_is_proved(kind, proved, size_hw):
    proof = _proved(kind, *size_hw)
    assert (proof.kind, proof.localises) == (proved, True)
    assert proof.constant_error < 1e-6


def test_a_norm_after_the_pool_is_seen_where_the_cells_of_the_noise_are_nearly_alike():
    assert _proved(Faint).kind == "constant-field"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Summing, "with equal features everywhere its dense logits are .* away"),
        (Offset, "with equal features everywhere its dense logits are .* away"),
        (FixedSize, "does not take one location alone: RuntimeError: .*"),
        (BatchOfOneHead, "does not take one location alone|passes its features by"),
        (MorePastItsHead, "a part of its answer passes its features by"),
        (ManyLabels, r"not a classifier: it answers \(2, 10, 1\)"),
    ],
)
def test_a_head_that_cannot_be_proved_is_refused_by_name_with_the_reason(kind, why):
    with pytest.raises(TeacherError, match=f"mine.* {why}"):
        _proved(kind)


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 112), (112, 64)])
def test_a_transposed_layout_is_found(size_hw):
    with pytest.raises(TeacherError, match=r"transposed, flipped|grid of .* for a wide image"):
        _proved(Transposed, *size_hw)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda model: model.stem.weight.data.fill_(float("nan")), "NaN or infinity"),
        (lambda model: model.head.weight.data[3].fill_(float("inf")), "NaN or infinity"),
        (lambda model: model.head.weight.data.zero_(), "the same to every location of every image"),
    ],
)
def test_damaged_weights_are_refused(spoil, why):
    def damaged():
        model = Honest()
        spoil(model)
        return model

    with pytest.raises(TeacherError, match=f"mine answers {why}"):
        _proved(damaged)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224"])
def test_a_linear_head_on_features_with_channels_last_is_proved(name):
    model = timm.create_model(name, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)).eval()
    images = torch.randn(2, 3, 224, 224)
    layout = find_layout(model, name, images)
    assert (layout.layout, layout.grid.size_hw) == ("NHWC", (7, 7))
    assert prove(DenseClassifier(model, layout), name, images).kind == "linear"


def test_attention_that_knows_places_in_the_head_is_refused():
    class Attending(Honest):
        def __init__(self):
            super().__init__()
            self.pool = AttentionPool2d(self.num_features, feat_size=4, num_heads=2)
            nn.init.normal_(self.pool.pos_embed)

        def forward_head(self, features):
            return self.head(self.pool(features))

    with pytest.raises(TeacherError, match=r"mine .* (does not take one location|cannot be proved)"):
        _proved(Attending)


_SWITCHES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
)


@pytest.mark.parametrize("coarse", ["highest", "high", "medium", "new switches"])
def test_a_proof_computes_in_float32_and_leaves_torchs_settings_as_they_were(coarse):
    start, start_old = [s.fp32_precision for s in _SWITCHES], torch.get_float32_matmul_precision()
    try:
        if coarse == "new switches":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision(coarse)
        before = [s.fp32_precision for s in _SWITCHES]
        with float32():
            assert [s.fp32_precision for s in _SWITCHES] == ["ieee"] * 4
            assert torch.get_float32_matmul_precision() == "highest"
        assert [s.fp32_precision for s in _SWITCHES] == before
        if coarse != "new switches":
            assert torch.get_float32_matmul_precision() == coarse
    finally:
        torch.set_float32_matmul_precision(start_old)
        for switch, value in zip(_SWITCHES, start, strict=True):
            switch.fp32_precision = value
