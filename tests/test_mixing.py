"""CutMix, Mixup and MixToken: what an image shows is what its labels say, and MixToken exactly as published."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import random_labels

from relabel.errors import InvalidValueError
from relabel.labels import MixedLabels, SparseLabels
from relabel.mixing import CutMix, MixToken, Mixup, TokenBox

DATA = Path(__file__).parent / "data"
CLASSES = 12


def numbered(batch, size_hw, *, dtype=torch.float32):
    """Images whose every pixel is the image's number: 0, 1, ..."""
    return torch.arange(batch).reshape(-1, 1, 1, 1).expand(batch, 3, *size_hw).to(dtype).contiguous()


def assert_mixed(plain, kept, *found):
    """Dense labels are each mixed with the one from the other end by the share kept: (B,), or (B, h, w) of tokens."""
    labels = plain.dense().double().numpy()
    kept = np.expand_dims(kept.reshape(*kept.shape, *(1,) * (labels.ndim - 1 - kept.ndim)), 1)
    expected = torch.from_numpy(kept * labels + (1 - kept) * labels[::-1])
    for dense in found:
        torch.testing.assert_close(dense.double(), expected, atol=1e-6, rtol=0)


@st.composite
def batches(draw):
    """A batch's sizes: images, pixels, tokens, and how to draw."""
    sizes = [draw(st.integers(1, most)) for most in (6, 30, 30, 5, 5)]
    return (
        sizes[0],
        tuple(sizes[1:3]),
        tuple(sizes[3:]),
        draw(st.sampled_from(["batch", "each"])),
        draw(st.integers(0, 2**32)),
    )


@given(batches())
@settings(max_examples=60, deadline=None)
def test_cutmix_labels_say_what_the_pixels_show(case):
    batch, image_hw, grid_hw, how, seed = case
    images = numbered(batch, image_hw)
    image_labels = random_labels(batch, 4, CLASSES, seed=seed)
    token_labels = random_labels(batch, 4, CLASSES, grid_hw, seed=seed + 1)
    everywhere = image_labels.dense()[:, :, None, None].expand(-1, -1, *grid_hw)
    mixed, *found = CutMix(draw=how, seed=seed)(
        images, image_labels, token_labels, image_labels.dense(), token_labels.dense(), everywhere
    )
    assert isinstance(found[0], MixedLabels)
    assert isinstance(found[1], MixedLabels)
    # An image in the middle is its own partner, and any share of it is the same.
    inside = (mixed != images)[:, 0].numpy()
    assert torch.equal(mixed, torch.where(torch.from_numpy(inside)[:, None], images.flip(0), images))
    image_kept = 1 - inside.mean((1, 2))
    token_kept = np.stack([oracle.kept_share(mask, grid_hw) for mask in inside])
    for sparse, dense, kept, plain in (
        (found[0], found[2], image_kept, image_labels),
        (found[1], found[3], token_kept, token_labels),
    ):
        assert_mixed(plain, kept, sparse.dense(), dense)
        torch.testing.assert_close(dense.sum(1), torch.ones_like(dense[:, 0]))
    torch.testing.assert_close(found[4].mean((2, 3)), found[2], atol=1e-6, rtol=0)


@given(batches())
@settings(max_examples=30, deadline=None)
def test_mixup_labels_say_what_the_pixels_show(case):
    batch, image_hw, grid_hw, how, seed = case
    images = numbered(batch, image_hw)
    image_labels = random_labels(batch, 4, CLASSES, seed=seed)
    token_labels = random_labels(batch, 4, CLASSES, grid_hw, seed=seed + 1)
    mixed, *found = Mixup(draw=how, seed=seed)(
        images, image_labels, token_labels, image_labels.dense(), token_labels.dense()
    )
    apart = np.where(np.arange(batch)[::-1] == np.arange(batch), 1, np.arange(batch)[::-1] - np.arange(batch))
    kept = 1 - (mixed - images)[:, 0, 0, 0].double().numpy() / apart
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))
    for sparse, dense, plain in ((found[0], found[2], image_labels), (found[1], found[3], token_labels)):
        assert_mixed(plain, kept, sparse.dense(), dense)


def test_a_token_inside_the_box_has_exactly_the_label_of_what_it_shows():
    """No blend of two labels: 0 and 1 are exact, in whichever dtype."""
    labels = random_labels(4, 5, CLASSES, (8, 8))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        dense = labels.dense().to(dtype)
        mixed, found, sparse = CutMix(seed=3)(numbered(4, (64, 64)), dense, labels)
        inside = (mixed != numbered(4, (64, 64)))[:, 0].reshape(4, 8, 8, 8, 8)
        whole, none = inside.all(4).all(2), ~inside.any(4).any(2)
        assert whole.any()
        assert none.any()
        assert not (whole | none).all()
        assert torch.equal(found.movedim(1, 3)[whole], dense.flip(0).movedim(1, 3)[whole])
        assert torch.equal(found.movedim(1, 3)[none], dense.movedim(1, 3)[none])
        assert set(sparse.share[whole].tolist() + sparse.share[none].tolist()) == {0.0, 1.0}


def test_one_box_for_the_batch_or_one_for_each_image():
    images = numbered(64, (32, 32))
    for mixer, different in ((CutMix, {"batch": 1, "each": 60}), (Mixup, {"batch": 1, "each": 60})):
        for how, least in different.items():
            mixed = mixer(draw=how, seed=0)(images)[0]
            what = (mixed - images) / (images.flip(0) - images)  # of the partner, in each pixel
            count = len({tuple(row) for row in (what[:, 0].flatten(1) * 1e4).round().int().tolist()})
            assert count == 1 if how == "batch" else count >= least
            assert count <= 64


def test_shares_are_of_the_beta_distribution_and_boxes_of_their_area():
    """Before it is clipped, a box has the side sqrt(1 - lam); one whose centre is free loses a part of itself."""
    images, labels = numbered(4000, (64, 48)), torch.eye(2).repeat(2000, 1)
    kept = Mixup(draw="each", seed=0)(images[:, :, :1, :1], labels)[1].amax(1).double()
    # Of a uniform lam the larger part has mean 3/4 and variance 1/48.
    assert float(kept.mean()) == pytest.approx(0.75, abs=0.01)
    assert float(kept.var()) == pytest.approx(1 / 48, abs=0.002)
    narrow = Mixup(alpha=1e6, draw="each", seed=0)(images[:, :, :1, :1], labels)[1]
    torch.testing.assert_close(narrow, torch.full_like(narrow, 0.5), atol=0.01, rtol=0)
    inside = CutMix(alpha=1e6, draw="each", seed=0)(images)[0][:, 0] != images[:, 0]
    rows, cols = inside.any(2), inside.any(1)
    assert int(rows.sum(1).max()) == 44  # 64 * sqrt(1/2) = 45.25, and half of 45 on either side of the centre
    assert int(cols.sum(1).max()) == 32  # 48 * sqrt(1/2) = 33.9
    assert torch.equal(rows[:, :, None] & cols[:, None, :], inside)
    # Centres are uniform: 44 of 64 cover a row in the middle, and about half as many the rows at the border.
    assert float(rows.double().mean(0)[32]) == pytest.approx(44 / 64, abs=0.03)
    assert float(rows.double().mean(0)[0]) == pytest.approx(23 / 64, abs=0.03)
    assert float(rows.double().mean(0)[63]) == pytest.approx(22 / 64, abs=0.03)


@pytest.mark.parametrize("mixer", [CutMix, Mixup])
def test_a_batch_is_mixed_as_often_as_asked(mixer):
    images, labels = numbered(2, (16, 16)), random_labels(2, 3, CLASSES)
    never, often = mixer(probability=0, seed=0), mixer(probability=0.3, alpha=1e6, seed=0)
    found = never(images, labels)
    assert found[0] is images
    assert found[1] is labels
    count = sum(isinstance(often(images, labels)[1], MixedLabels) for _ in range(500))
    assert count == pytest.approx(150, abs=35)


@pytest.mark.parametrize("make", [CutMix, Mixup, MixToken])
def test_random_numbers_are_ones_own_or_torchs(make):
    def result(mixer):
        if make is MixToken:
            return torch.stack([mixer.draw((9, 9)).mask.float() for _ in range(3)])
        return torch.stack([mixer(numbered(4, (32, 32)))[0] for _ in range(3)])

    before = torch.get_rng_state()
    first = result(make(seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(result(make(seed=1)), first)
    assert torch.equal(result(make(seed=torch.Generator().manual_seed(1))), first)
    assert not torch.equal(result(make(seed=2)), first)
    torch.manual_seed(1)
    assert torch.equal(result(make()), first)
    half_way = make(seed=1)
    half_way.draw((1, 1)) if make is MixToken else half_way(numbered(2, (4, 4)))
    resumed = pickle.loads(pickle.dumps(half_way))
    assert torch.equal(result(resumed), result(copy.deepcopy(half_way)))
    assert repr(resumed).startswith(f"{make.__name__}(alpha=1.0")


@pytest.mark.parametrize("mixer", [CutMix(seed=0), Mixup(seed=0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float64])
def test_images_keep_their_dtype_and_memory_format(mixer, dtype):
    images = (torch.rand(4, 3, 16, 16) * 255).to(dtype).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    mixed, labels = mixer(images, torch.eye(4))
    assert mixed.dtype == dtype
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    assert not torch.equal(mixed, images)
    if isinstance(mixer, Mixup):
        share = labels[0, 0].double()
        expected = share * before.double() + (1 - share) * before.double().flip(0)
        torch.testing.assert_close(mixed.double(), expected, atol=0.51 if dtype == torch.uint8 else 1e-4, rtol=4e-3)


def test_mixing_on_a_device_is_mixing_on_the_cpu_and_waits_for_nothing(device):
    images = numbered(4, (24, 24))
    labels = random_labels(4, 3, CLASSES), random_labels(4, 3, CLASSES, (3, 3))
    labels = *labels, *(each.dense() for each in labels)
    for make in (CutMix, Mixup):
        expected = make(draw="each", seed=0)(images, *labels)
        there = [each.to(device) for each in (images, *labels)]
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            found = make(draw="each", seed=0)(*there)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        for one, other in zip(found, expected, strict=True):
            one, other = (each.dense() if isinstance(each, MixedLabels) else each for each in (one, other))
            assert one.device.type == device.type
            torch.testing.assert_close(one.cpu(), other)


def test_a_batch_of_one_or_none():
    for mixer in (CutMix(seed=0), Mixup(seed=0)):
        image, label = mixer(numbered(1, (4, 4)), torch.ones(1, 2) / 2)
        torch.testing.assert_close(image, numbered(1, (4, 4)))
        torch.testing.assert_close(label, torch.ones(1, 2) / 2)
        assert mixer(torch.zeros(0, 3, 4, 4), torch.zeros(0, 5))[1].shape == (0, 5)


@pytest.mark.parametrize("mixer", [CutMix(seed=0), Mixup(seed=0)])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"got \(2,\) of torch.int64. From class ids: F.one_hot"),
        (torch.eye(2).long(), "floating soft labels"),
        (torch.zeros(2, 5, 4), r"\(B, C, h, w\) of tokens; got \(2, 5, 4\)"),
        (torch.zeros(3, 5), "2 images need as many labels; got 3"),
        (random_labels(3, 2, 5), "2 images need as many labels; got 3"),
        (CutMix(seed=0)(torch.zeros(2, 3, 4, 4), random_labels(2, 2, 5))[1], "mixed already"),
        ([0, 1], "got list"),
    ],
)
def test_labels_that_cannot_be_mixed_are_refused(mixer, labels, message):
    with pytest.raises(InvalidValueError, match=message):
        mixer(torch.zeros(2, 3, 4, 4), labels)


@pytest.mark.parametrize("images", [torch.zeros(3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(InvalidValueError, match="uint8 or floating; got"):
        CutMix()(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"probability": 1.1}, "probability"),
        ({"draw": "pair"}, "draw must be 'batch'"),
    ],
)
def test_settings_without_meaning_are_refused(options, message):
    for make in (CutMix, Mixup):
        with pytest.raises(InvalidValueError, match=message):
            make(**options)
    with pytest.raises(InvalidValueError, match="alpha"):
        MixToken(alpha=-1)


def test_mixtoken_is_exactly_as_published():
    with np.load(DATA / "mixtoken.npz") as stored:
        top, left, bottom, right = stored["box"].tolist()
        box = TokenBox.at(rows=(top, bottom), cols=(left, right), grid_hw=(14, 14))
        tokens = torch.from_numpy(stored["tokens"]).flatten(2).transpose(1, 2)
        mixed = box.paste(tokens)
        assert torch.equal(mixed, torch.from_numpy(stored["mixed"]))
        assert torch.equal(box.paste(mixed), torch.from_numpy(stored["restored"]))
        assert box.share == float(stored["lam"])


@given(batches())
@settings(max_examples=60, deadline=None)
def test_mixtoken_shows_the_share_that_its_labels_say_and_twice_is_the_identity(case):
    batch, grid_hw, _, _, seed = case
    box = MixToken(seed=seed).draw(grid_hw)
    tokens = numbered(batch, grid_hw).movedim(1, 3)
    mixed = box.paste(tokens)
    assert torch.equal(box.paste(mixed), tokens)
    assert torch.equal(box.paste(tokens.flatten(1, 2)), mixed.flatten(1, 2))
    changed = (mixed != tokens)[..., 0].double().mean((1, 2))
    paired = torch.arange(batch) != torch.arange(batch).flip(0)
    torch.testing.assert_close(1 - changed[paired], torch.full_like(changed[paired], box.share), atol=1e-12, rtol=0)
    labels = random_labels(batch, 4, CLASSES, seed=seed)
    assert_mixed(labels, np.full(batch, box.share), box.labels(labels).dense(), box.labels(labels.dense()))


def test_boxes_of_tokens_have_even_sides_and_may_be_empty():
    draws = [MixToken(seed=seed).draw((14, 14)) for seed in range(400)]
    sides = {int(box.mask.any(axis).sum()) for box in draws for axis in (0, 1)}
    assert sides == set(range(13))  # an odd one only where the border cut it
    centred = [box.mask for box in draws if not (box.mask[[0, -1]].any() or box.mask[:, [0, -1]].any())]
    assert {int(mask.any(0).sum()) for mask in centred} <= set(range(0, 14, 2))
    assert any(box.share == 1 for box in draws)
    assert all(box.share == pytest.approx(1 - float(box.mask.double().mean())) for box in draws)
    # Over all lam and centres, what is cut off leaves less than the half that a free box would take.
    assert np.mean([box.share for box in draws]) == pytest.approx(0.67, abs=0.06)


def test_a_box_pastes_with_gradients_and_on_a_device(device):
    box = MixToken(seed=5).draw((4, 6), device)
    assert box.mask.device.type == device.type
    tokens = torch.rand(3, 24, 2, device=device, requires_grad=True)
    weights = torch.rand(3, 24, 2, device=device)
    (box.paste(tokens) * weights).sum().backward()
    assert torch.equal(tokens.grad, box.paste(weights))  # what came from the partner goes back to it


def test_tokens_and_labels_of_another_kind_are_refused():
    box = TokenBox.at((0, 2), (1, 3), (4, 4))
    for tokens in (torch.zeros(2, 17, 8), torch.zeros(2, 4, 5, 8), torch.zeros(2, 16)):
        with pytest.raises(InvalidValueError, match=r"4 x 4 tokens needs \(B, 16, D\) without class token"):
            box.paste(tokens)
    for labels in (torch.zeros(2, 5, 4, 4), random_labels(2, 3, 5, (4, 4))):
        with pytest.raises(InvalidValueError, match="token labels stay"):
            box.labels(labels)
    with pytest.raises(InvalidValueError, match="From class ids"):
        box.labels(torch.tensor([1, 2]))
    for rows in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(InvalidValueError, match=r"of a grid \(4, 4\)"):
            TokenBox.at(rows, (0, 1), (4, 4))


def test_sparse_labels_with_sixteen_bit_ids_are_mixed():
    labels = random_labels(4, 3, CLASSES)
    narrow = SparseLabels(labels.classes.to(torch.uint16), labels.probabilities, labels.other, labels.covered, CLASSES)
    found, expected = (CutMix(seed=0)(numbered(4, (8, 8)), each)[1] for each in (narrow, labels))
    torch.testing.assert_close(found.dense(), expected.dense(), atol=0, rtol=0)
