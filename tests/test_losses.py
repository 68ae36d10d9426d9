"""Losses against the published numbers, the oracle and the dense way, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relabel.errors import InvalidValueError
from relabel.labels import MixedLabels, SparseLabels
from relabel.losses import SoftCrossEntropy, TokenLabelingLoss, soft_cross_entropy
from relabel.mixing import CutMix, TokenBox

DATA = Path(__file__).parent / "data"
SHARES = {"agreement": (0.9, 0.5), "published": (0.5, 0.9)}


def random_labels(batch, listed, classes, size=(), *, seed=0, dtype=torch.float32):
    """`SparseLabels` that sum to 1, some of their probabilities 0, in no order."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(batch, classes, generator=generator).argsort(1)[:, :listed]
    weights = torch.rand(batch, listed + 1, *size, generator=generator, dtype=dtype) ** 4
    weights[:, -1] *= listed < classes
    weights = weights / weights.sum(1, keepdim=True)
    other = weights[:, -1] / max(classes - listed, 1)
    return SparseLabels(ids, weights[:, :-1], other, torch.ones_like(other), classes)


def random_mix(batch, listed, classes, size=(), *, seed=0, dtype=torch.float32, by_token=False):
    """Two labels of an image that name some classes both, with other shares in every image or token."""
    first = random_labels(batch, listed, classes, size, seed=seed, dtype=dtype)
    second = random_labels(batch, max(listed // 2, 1), classes, size, seed=seed + 1, dtype=dtype)
    shape = first.other.shape if by_token else (batch,)
    return MixedLabels(first, second, torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def random_logits(*shape, seed=0, scale=3.0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def rows(labels):
    """Dense labels (B * N, C) of labels (B, C) or (B, C, h, w)."""
    return labels.reshape(*labels.shape[:2], -1).transpose(1, 2).reshape(-1, labels.shape[1])


def golden():
    with np.load(DATA / "tokenlabel_crops.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.mark.parametrize("mixed", [0, 1])
@pytest.mark.parametrize("corrected", [0, 1])
@pytest.mark.parametrize("token_weight", [0.5, 1.0])
def test_the_published_losses(token_weight, corrected, mixed):
    stored = golden()
    ground_truth, image_labels, tokens = stored["targets"].split([1, 1, 196], dim=2)
    top, left, bottom, right = stored["mix_box"].tolist()
    box = TokenBox.at((top, bottom), (left, right), (14, 14))
    loss = TokenLabelingLoss(token_weight=token_weight, correction="published" if corrected else None)
    found = loss(
        (stored["cls_logits"], stored["token_logits"]),
        image_labels[:, :, 0],
        tokens.reshape(6, 60, 14, 14),
        share=box.share if mixed else None,
        ground_truth=ground_truth[:, :, 0] if corrected else None,
    )
    expected = stored[f"loss_dense{token_weight}_gt{corrected}_mix{mixed}"]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@st.composite
def logits_and_labels(draw):
    """Logits of any size and confidence, and sparse or mixed labels of images or tokens, one class or all listed."""
    batch, classes = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    size = draw(st.sampled_from([(), (1, 1), (2, 3)]))
    make = draw(st.sampled_from([random_labels, random_mix]))
    seed = draw(st.integers(0, 2**32))
    given = {"by_token": draw(st.booleans())} if make is random_mix else {}
    labels = make(batch, draw(st.integers(1, classes)), classes, size, seed=seed, **given)
    shape = (batch, size[0] * size[1], classes) if size else (batch, classes)
    offset = draw(st.sampled_from([0.0, -14.0, 1000.0]))
    return random_logits(*shape, seed=seed, scale=draw(st.sampled_from([0.0, 1.0, 30.0]))) + offset, labels


@given(logits_and_labels())
@settings(max_examples=100, deadline=None)
def test_sparse_is_dense_and_both_are_the_oracles(case):
    logits, labels = case
    dense = labels.dense()
    torch.testing.assert_close(dense.sum(1), torch.ones_like(dense[:, 0]))
    found = soft_cross_entropy(logits, labels)
    torch.testing.assert_close(found, soft_cross_entropy(logits, dense), atol=1e-6, rtol=1e-6)
    expected = oracle.soft_cross_entropy(logits.reshape(-1, logits.shape[-1]).numpy(), rows(dense).numpy())
    assert float(found) == pytest.approx(expected, rel=2e-6, abs=2e-6)


@given(logits_and_labels())
@settings(max_examples=50, deadline=None)
def test_the_gradient_is_that_of_the_dense_way(case):
    logits, labels = case
    gradients = []
    for target in (labels, labels.dense()):
        leaf = logits.clone().requires_grad_()
        (7 * soft_cross_entropy(leaf, target)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("total", [1, 0.6], ids=["sums to 1", "sums to 0.6"])
@pytest.mark.parametrize("size", [(), (2, 2)])
def test_the_gradient_is_the_slope(size, total):
    labels = random_mix(2, 3, 6, size, dtype=torch.float64)
    for part in (labels.first, labels.second):
        part.probabilities.mul_(total)
        part.other.mul_(total)
    logits = random_logits(*((2, 4, 6) if size else (2, 6)), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, labels), logits)


class _Made(TorchDispatchMode):
    """Counts the tensors of `size` elements or more that come into being: each storage once, its first owner's."""

    def __init__(self, size, known):
        super().__init__()
        self.size, self.known, self.count = size, {t.untyped_storage().data_ptr() for t in known}, 0
        self.kept = []  # so that no address is used twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= 4 * self.size:
                address = tensor.untyped_storage().data_ptr()
                self.count += address not in self.known
                self.known.add(address)
                self.kept.append(tensor)
        return results


@pytest.mark.parametrize("labels", [random_labels(2, 4, 50, (3, 3)), random_mix(2, 4, 50, (3, 3), by_token=True)])
def test_each_pass_makes_one_tensor_of_the_logits_size_and_no_dense_target(labels):
    logits = random_logits(2, 9, 50).requires_grad_()
    with _Made(logits.numel(), [logits]) as forward:
        loss = soft_cross_entropy(logits, labels)
    with _Made(logits.numel(), [logits]) as backward:
        torch.autograd.grad(loss, logits)
    assert (forward.count, backward.count) == (1, 1)
    with _Made(logits.numel(), [logits]) as dense:
        soft_cross_entropy(logits, labels.dense())
    assert dense.count > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [random_labels, random_mix, lambda *given: random_labels(*given).dense()])
def test_half_logits_are_widened_and_nothing_is_rounded(make, dtype):
    half, labels = random_logits(4, 6, 20, scale=10.0).to(dtype).requires_grad_(), make(4, 5, 20, (2, 3))
    wide = half.detach().float().requires_grad_()
    found, expected = soft_cross_entropy(half, labels), soft_cross_entropy(wide, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    found.backward()
    expected.backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, wide.grad.to(dtype), atol=1e-7, rtol=1e-2)


@pytest.mark.parametrize("make", [random_labels, random_mix, lambda *given: random_labels(*given).dense()])
def test_autocast_changes_nothing(make):
    logits, labels = random_logits(3, 4, 20), make(3, 5, 20, (2, 2))
    images, truth = random_labels(3, 5, 20), torch.tensor([1, 5, -1])
    loss = TokenLabelingLoss(correction="agreement")

    def both():
        leaf = logits.clone().requires_grad_()
        total = loss((leaf[:, 0], leaf), images, labels, share=0.3, ground_truth=truth)
        total.backward()
        return total, leaf.grad

    expected = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = both()
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert found[0].dtype == torch.float32


# torch's compiler makes an instance of every autograd function that it traces, and torch warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_losses_compile_whole_and_no_new_share_or_box_compiles_again():
    """One graph for the first share, one for every other, and one for all boxes; values and gradients as uncompiled."""
    counter = CompileCounterWithBackend("aot_eager")
    loss = TokenLabelingLoss(correction="published")
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    images, tokens = random_labels(3, 4, 10), random_mix(3, 4, 10, (2, 3), by_token=True)
    for share in (0.25, 0.5, 0.75, 0.0, 1.0):
        truth, found = torch.tensor([1, -1, 2]), []
        for way in (compiled, loss):
            logits = random_logits(3, 10).requires_grad_(), random_logits(3, 6, 10).requires_grad_()
            value = way(logits, images, tokens, share=share, ground_truth=truth)
            found.append([value, *torch.autograd.grad(value, logits)])
        torch.testing.assert_close(*found)
    paste = torch.compile(TokenBox.paste, backend=counter, fullgraph=True)
    for rows_ in ((0, 1), (1, 2), (0, 2), (1, 1)):
        box, patches = TokenBox.at(rows_, (0, 2), (2, 3)), torch.rand(3, 6, 4)
        torch.testing.assert_close(paste(box, patches), box.paste(patches), atol=0, rtol=0)
    assert counter.frame_count == 2 + 1


@given(st.integers(0, 2**32), st.sampled_from([None, "agreement", "published"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_token_labeling_loss_is_the_oracles_for_labels_of_every_kind(seed, correction, by_class_id):
    logits = random_logits(5, 8, seed=seed, dtype=torch.float64), random_logits(5, 6, 8, seed=seed, dtype=torch.float64)
    make = random_labels if correction else random_mix
    images = make(5, 4, 8, seed=seed, dtype=torch.float64)
    tokens = random_labels(5, 3, 8, (2, 3), seed=seed, dtype=torch.float64)
    share = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
    dense = expected = images.dense()
    truth = dense.roll(1, 0).argmax(1)
    truth[0] = dense[0].argmax()  # at least one on which both agree
    one_hot = torch.nn.functional.one_hot(truth, 8).double()
    if correction:
        pairs = zip(dense.numpy(), one_hot.numpy(), strict=True)
        expected = torch.tensor(np.array([oracle.corrected_label(*pair, *SHARES[correction]) for pair in pairs]))
    expected = oracle.token_labeling_loss(logits, expected, tokens.dense(), share=share, weight=0.7)
    loss = TokenLabelingLoss(token_weight=0.7, correction=correction)
    ground_truth = None if correction is None else truth if by_class_id else one_hot
    for image_labels in (images, dense):
        for token_labels in (tokens, tokens.dense()):
            for kept in (share, torch.tensor([share], dtype=torch.float64)):
                found = loss(logits, image_labels, token_labels, share=kept, ground_truth=ground_truth)
                assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("labels", [random_labels(6, 4, 9), random_mix(6, 4, 9), random_labels(6, 4, 9).dense()])
def test_a_drop_in_for_the_loss_of_timm(labels):
    logits, dense = random_logits(6, 9), labels if isinstance(labels, torch.Tensor) else labels.dense()
    peer = pytest.importorskip("timm.loss").SoftTargetCrossEntropy()
    torch.testing.assert_close(SoftCrossEntropy()(logits, labels), peer(logits, dense))


@pytest.mark.parametrize("size", [(), (2, 3)])
@pytest.mark.parametrize("make", [random_labels, random_mix, lambda *given: random_labels(*given).dense()])
def test_reductions_are_those_of_each_image_and_token(make, size):
    labels, logits = make(5, 4, 9, size), random_logits(5, 6, 9) if size else random_logits(5, 9)
    each = SoftCrossEntropy("none")(logits, labels)
    dense = rows(labels if isinstance(labels, torch.Tensor) else labels.dense()).numpy()
    expected = [oracle.cross_entropy(*pair) for pair in zip(logits.reshape(-1, 9).numpy(), dense, strict=True)]
    assert each.shape == logits.shape[:-1]
    np.testing.assert_allclose(each.reshape(-1), expected, rtol=1e-5)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, reduction="sum"), each.sum())
    torch.testing.assert_close(soft_cross_entropy(logits, labels), each.mean())


@pytest.mark.parametrize("number", [6, torch.tensor(6), torch.tensor(6.0)])
@pytest.mark.parametrize("size", [(), (2, 3)])
def test_parts_of_a_step_add_up_to_its_loss_and_gradient(size, number):
    """A batch of 6 at once, or parts of 1, 2 and 3."""
    labels, logits = random_labels(6, 4, 9, size), random_logits(6, 6, 9) if size else random_logits(6, 9)
    images, pair = random_labels(6, 4, 9), (random_logits(6, 9), random_logits(6, 6, 9))
    tokens = random_labels(6, 4, 9, (2, 3))

    def of(part, **given):
        loss = soft_cross_entropy(logits[part], labels[part], **given)
        both = TokenLabelingLoss()((pair[0][part], pair[1][part]), images[part], tokens[part], **given)
        return loss + both

    leaves = [tensor.requires_grad_() for tensor in (logits, *pair)]
    parts = [of(part, num_items=number) for part in (slice(0, 1), slice(1, 3), slice(3, 6))]
    found, whole = sum(parts), of(slice(0, 6))
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(whole, leaves))


def test_token_labeling_has_a_loss_of_each_image():
    logits, images = (random_logits(4, 9), random_logits(4, 6, 9)), random_labels(4, 3, 9)
    tokens = random_labels(4, 3, 9, (2, 3))
    each = TokenLabelingLoss(reduction="none")(logits, images, tokens)
    alone = [
        TokenLabelingLoss()((logits[0][i : i + 1], logits[1][i : i + 1]), images[i : i + 1], tokens[i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(each, torch.stack(alone))
    torch.testing.assert_close(TokenLabelingLoss(reduction="sum")(logits, images, tokens), each.sum())


def test_reductions_without_meaning_are_refused():
    for make in (SoftCrossEntropy, TokenLabelingLoss):
        with pytest.raises(InvalidValueError, match="reduction must be 'mean', 'sum' or 'none'; got 'average'"):
            make(reduction="average")
    with pytest.raises(InvalidValueError, match="a count of images, at least 1; got 0"):
        soft_cross_entropy(random_logits(2, 9), random_labels(2, 3, 9), num_items=0)
    with pytest.raises(InvalidValueError, match="num_items is what a mean is over; got it with reduction='sum'"):
        soft_cross_entropy(random_logits(2, 9), random_labels(2, 3, 9), reduction="sum", num_items=4)


def test_the_right_correction_trusts_a_doubtful_label_less_and_the_published_one_more():
    labels, truth = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1, -1])
    logits = torch.tensor([[100.0, 0.0]] * 3), torch.zeros(3, 1, 2)
    tokens = torch.full((3, 2, 1, 1), 0.5)
    # Such logits make of the loss 100 times the second class's mean label: 0.2 (1 - t), 0.2 t + (1 - t), and 0.2.
    for correction, (agreed, doubtful) in SHARES.items():
        loss = TokenLabelingLoss(token_weight=0, correction=correction)
        found = loss(logits, labels, tokens, ground_truth=truth)
        assert float(found) == pytest.approx(100 / 3 * (0.2 * agreed + 0.2 * doubtful + (1 - doubtful) + 0.2))


def test_a_label_of_two_images_has_no_ground_truth_to_be_corrected_by():
    logits, tokens = (random_logits(2, 5), random_logits(2, 4, 5)), random_labels(2, 3, 5, (2, 2))
    with pytest.raises(InvalidValueError, match="MixedLabels are of two: mix with MixToken"):
        TokenLabelingLoss(correction="agreement")(
            logits, random_mix(2, 3, 5), tokens, ground_truth=torch.tensor([0, 1])
        )


def test_the_weights_weigh():
    logits, tokens = (random_logits(2, 5), random_logits(2, 4, 5)), random_labels(2, 3, 5, (2, 2))
    images = random_labels(2, 3, 5)
    parts = soft_cross_entropy(logits[0], images), soft_cross_entropy(logits[1], tokens)
    torch.testing.assert_close(TokenLabelingLoss()(logits, images, tokens), parts[0] + 0.5 * parts[1])
    found = TokenLabelingLoss(image_weight=0.25, token_weight=2.0)(logits, images, tokens)
    torch.testing.assert_close(found, 0.25 * parts[0] + 2 * parts[1])
    assert torch.equal(SoftCrossEntropy()(logits[0], images), parts[0])
    assert "token_weight=0.5, correction='published'" in repr(TokenLabelingLoss(correction="published"))


def test_half_labels_are_widened_before_they_are_corrected_and_mixed():
    logits, tokens = (random_logits(3, 5), random_logits(3, 4, 5)), random_labels(3, 3, 5, (2, 2))
    labels, truth = random_labels(3, 3, 5).dense().bfloat16(), torch.tensor([0, 1, 2])
    loss = TokenLabelingLoss(correction="agreement")
    found, expected = (loss(logits, each, tokens, share=0.3, ground_truth=truth) for each in (labels, labels.float()))
    assert torch.equal(found, expected)


def test_labels_of_cutmix_train_on_a_device(device):
    images = torch.rand(4, 3, 16, 16, device=device)
    _, image_labels, token_labels = CutMix(seed=0)(
        images, random_labels(4, 5, 20).to(device), random_labels(4, 5, 20, (2, 2)).to(device)
    )
    logits = random_logits(4, 5, 20).to(device).requires_grad_()
    loss = TokenLabelingLoss()((logits[:, 0], logits[:, 1:]), image_labels, token_labels, share=0.5)
    loss.backward()
    reference = logits.detach().cpu().requires_grad_()
    dense = image_labels.dense().cpu(), token_labels.dense().cpu()
    TokenLabelingLoss()((reference[:, 0], reference[:, 1:]), *dense, share=0.5).backward()
    torch.testing.assert_close(logits.grad.cpu(), reference.grad, atol=1e-6, rtol=1e-5)


def test_ids_of_sixteen_bits_will_do():
    labels = random_labels(3, 4, 9)
    narrow = SparseLabels(labels.classes.to(torch.uint16), labels.probabilities, labels.other, labels.covered, 9)
    assert torch.equal(soft_cross_entropy(random_logits(3, 9), narrow), soft_cross_entropy(random_logits(3, 9), labels))


def test_what_is_not_finite_is_seen():
    logits = random_logits(2, 9)
    logits[1, 3] = torch.nan
    for labels in (random_labels(2, 4, 9), random_labels(2, 4, 9).dense()):
        assert soft_cross_entropy(logits, labels).isnan()


_SPARSE = random_labels(2, 3, 5, (2, 2))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 5), torch.tensor([0, 4]), r"got \(2,\) of torch.int64. From class ids: F.one_hot"),
        (torch.zeros(2, 5), torch.eye(5)[:2].long(), "floating soft labels"),
        (torch.zeros(2, 5), torch.zeros(2, 11).long(), r"of torch.int64. Of tickets: maps.pool\(tickets\)"),
        (torch.zeros(2, 5), [0, 4], "got list"),
        (torch.zeros(2, 5), torch.zeros(2, 5, 3), r"\(B, C, h, w\) of tokens; got \(2, 5, 3\)"),
        (torch.zeros(2, 5), torch.zeros(3, 5), "of 2 images, labels of 3"),
        (
            torch.zeros(2, 5),
            torch.zeros(2, 6),
            "5 outputs, the labels 6 classes of the teacher: .*=maps.num_classes",
        ),
        (torch.zeros(2, 4, 6), _SPARSE, "student has 6 outputs, the labels 5 classes"),
        (torch.zeros(2, 5), _SPARSE, "go with image labels"),
        (torch.zeros(2, 4, 5), torch.zeros(2, 5), "with token labels"),
        (torch.zeros(2, 196, 5), _SPARSE, "196 tokens an image .* 2 x 2 = 4"),
        (torch.zeros(2, 2, 5), _SPARSE.dense(), "2 tokens an image .* 2 x 2 = 4"),
        (torch.zeros(2, 5, 4), _SPARSE, "4 outputs"),  # classes and tokens swapped
        (torch.zeros(0, 5), torch.zeros(0, 5), "one image, token and class or more"),
        (torch.zeros(2, 0, 5), torch.zeros(2, 5, 0, 3), "one image, token and class or more"),
        (torch.zeros(2, 5).long(), torch.zeros(2, 5), "of torch.int64"),
        (torch.zeros(5), torch.zeros(5), "logits must be floating"),
        (
            torch.zeros(2, 4, 5),
            SparseLabels(_SPARSE.classes, _SPARSE.probabilities[:, :, :1], _SPARSE.other, _SPARSE.covered, 5),
            "probabilities",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(logits, labels, message):
    with pytest.raises(InvalidValueError, match=message):
        soft_cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("correction", "options", "message"),
    [
        ("published", {}, "correction='published' and no ground truth"),
        (None, {"ground_truth": torch.zeros(2, dtype=torch.int64)}, "correction=None and a ground truth"),
        ("agreement", {"ground_truth": torch.zeros(3, dtype=torch.int64)}, r"class ids \(2,\)"),
        ("agreement", {"ground_truth": torch.zeros(2, 6)}, r"floating labels \(2, 5\); got \(2, 6\)"),
        ("agreement", {"ground_truth": torch.zeros(2, 5, dtype=torch.int64)}, "of torch.int64"),
        (None, {"share": 1.5}, r"in \[0, 1\]; got 1.5"),
        (None, {"share": float("nan")}, r"in \[0, 1\]"),
        (None, {"share": torch.ones(2)}, "one number for the batch"),
    ],
)
def test_what_the_token_labeling_loss_refuses(correction, options, message):
    logits = torch.zeros(2, 5), torch.zeros(2, 4, 5)
    with pytest.raises(InvalidValueError, match=message):
        TokenLabelingLoss(correction=correction)(logits, torch.full((2, 5), 0.2), _SPARSE, **options)


@pytest.mark.parametrize("options", [{"image_weight": -1.0}, {"token_weight": float("inf")}, {"correction": "inverse"}])
def test_settings_without_meaning_are_refused(options):
    with pytest.raises(InvalidValueError, match="must be"):
        TokenLabelingLoss(**options)
