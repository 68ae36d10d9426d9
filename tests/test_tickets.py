"""Tickets: what goes in comes out, what is no ticket is refused, and no loss of classes takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import v2

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View, Views
from relabel.losses import SoftCrossEntropy
from relabel.mixing import CutMix, Mixup
from relabel.tickets import COLUMNS, Tickets, ground_truth, ticket

STORE = 2**59 + 7
VIEWS = (
    View(Box(0.1, 0.2, 0.7, 0.9), flip=True),
    View(Box(-0.1, 0.0, 1.0, 1.1), flip_vertical=True, is_exact=False),
    View.affine(((0.4, 0.1, 0.2), (-0.1, 0.5, 0.3))),
)


def batch(count: int = 3) -> Tensor:
    return torch.from_numpy(
        np.stack([ticket(STORE, 10 + i, VIEWS[i % 3], ground_truth=i - 1, upright=i == 1) for i in range(count)])
    )


def test_what_goes_in_comes_out() -> None:
    read = Tickets.read(batch())
    expected = Views.of(VIEWS)
    assert read.store == STORE
    assert read.rows.tolist() == [10, 11, 12]
    assert read.upright.tolist() == [False, True, False]
    assert read.ground_truth.tolist() == ground_truth(batch()).tolist() == [-1, 0, 1]
    assert torch.equal(read.views.boxes, expected.boxes)
    assert torch.equal(read.views.flips, expected.flips)
    assert torch.equal(read.views.flips_vertical, expected.flips_vertical)
    assert torch.equal(read.views.is_exact, expected.is_exact)
    torch.testing.assert_close(read.views.matrices, expected.matrices, rtol=0, atol=0, equal_nan=True)
    again = Tickets.read(read.pack())
    assert torch.equal(again.pack(), read.pack())


def test_the_layout_of_version_1() -> None:
    """Tickets may lie in caches: whoever changes a column raises the version."""
    found = ticket(STORE, 12, View(Box(0.25, 0.0, 1.0, 0.5), flip_vertical=True), ground_truth=3, upright=True)
    assert found.dtype == np.int64
    assert found[:3].tolist() == [0x72656C62_0001_0005, STORE, 12]
    assert found[3:9].view(np.float64).tolist() == [0.25, 0.0, 1.0, 0.5, 0.0, 0.0]
    assert found[9:].tolist() == [3, -3639990674311382115]


@pytest.mark.parametrize("unknown", [-1, -100])
def test_a_class_that_is_to_be_ignored_is_unknown(unknown: int) -> None:
    assert ticket(STORE, 1, VIEWS[0], ground_truth=unknown)[9] == -1


@given(st.integers(0, 2), st.integers(0, COLUMNS - 1), st.integers(0, 63))
@settings(max_examples=100)
def test_a_ticket_with_any_bit_changed_is_none(row: int, column: int, bit: int) -> None:
    changed = batch()
    changed[row, column] ^= torch.tensor(-(2**63) if bit == 63 else 2**bit)
    with pytest.raises(LabelError, match=rf"ticket {row} of 3 |pooled by the LabelMaps of one store"):
        Tickets.read(changed)


@given(st.integers(0, COLUMNS - 1), st.integers(-(2**63), 2**63 - 1), st.booleans())
@settings(max_examples=100)
def test_a_column_of_all_tickets_that_was_changed_is_seen(column: int, number: int, added: bool) -> None:
    changed = batch()
    changed[:, column] = changed[:, column] + number if added else number
    if torch.equal(changed, batch()):
        return
    with pytest.raises(LabelError):
        Tickets.read(changed)


HALF = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]], dtype=torch.float64)
STRANGE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "blended": (lambda t: 0.3 * t + 0.7 * t.flip(0), r"float32 of shape \(3, 11\): a mixer blended them.* maps\.pool"),
    "cast to float64": (lambda t: t.double(), "float64 of shape .* Pool first"),
    "cast to int32": (lambda t: t.int(), "int32 .* they were cast, which cuts them"),
    "through int32": (lambda t: t.int().long(), r"ticket 0 of 3 is none, it begins with 65538: .* shorter type"),
    "through float32": (lambda t: t.float().long(), "ticket 0 of 3 is none|was changed"),
    "through float64": (lambda t: t.double().long(), "ticket 0 of 3 (is none|was changed)"),
    "summed": (lambda t: t + t.flip(0), "summed, averaged"),
    "averaged": (lambda t: (HALF @ t.double()).long(), "none|changed"),
    "averaged as integers": (lambda t: t // 2 + t.flip(0) // 2, "none|changed"),
    "columns of others": (lambda t: torch.cat([t[:, :5], t.flip(0)[:, 5:]], 1), "made of others' columns"),
    "sorted": (lambda t: t.sort(1).values, "ticket 0 of 3"),
    "class ids": (lambda t: torch.tensor([3, 1, 2]), r"int64 of shape \(3,\): class ids\. .* relabel\.Labeled"),
    "one-hot": (lambda t: F.one_hot(torch.tensor([3, 1, 2]), 11), "it begins with 0: .* labels of another kind"),
    "truncated": (lambda t: t[:, :10], r"\(3, 10\): columns were cut"),
    "one ticket": (lambda t: t[0], r"one ticket\. Give a batch, tickets\[None\]"),
    "of several views": (lambda t: t.reshape(1, 3, 11), r"several views of each image\. .* tickets\[:, i\]"),
    "none": (lambda t: t[:0], "no ticket"),
    "of objects": (lambda t: ["a", "b"], "str|U1"),
    "of another version": (lambda t: t + torch.tensor([1 << 16] + [0] * 10), r"is of version 2.* reads version 1"),
    "a batch of rows": (lambda t: {"label": t}, r"got a dict, a batch of rows: give its column, batch\['label'\]"),
    "a name": (lambda t: "label", "got a str, a batch of rows"),
    "nothing": (lambda t: None, "got None in place of tickets: the batch has no labels"),
    "an empty tuple": (lambda t: (), "no ticket. Leave out empty batches"),
    "images and tickets": (lambda t: (torch.zeros(3, 3, 4, 4), t), "got a tuple .* give the tickets alone"),
    "labels": (lambda t: torch.rand(3, 1000), "labels already, or images: give tickets"),
    "with another flag": (lambda t: t | torch.tensor([32] + [0] * 10), "or was changed"),
    "of two stores": (
        lambda t: torch.cat([t, torch.from_numpy(ticket(7, 1, VIEWS[0]))[None]]),
        "identities 000000000000007, 800000000000007: pool each store's by itself",
    ),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_batch_of_tickets_is_refused_with_what_it_is(kind: str) -> None:
    change, message = STRANGE[kind]
    with pytest.raises(LabelError, match=message):
        Tickets.read(change(batch()))


@pytest.mark.parametrize("mixer", [CutMix(), Mixup()])
def test_our_own_mixers_and_losses_say_to_pool_first(mixer: CutMix | Mixup) -> None:
    with pytest.raises(InvalidValueError, match=r"\(4, 11\) of torch\.int64\. Of tickets: maps\.pool\(tickets\)"):
        mixer(torch.rand(4, 3, 8, 8), batch(4))
    with pytest.raises(InvalidValueError, match=r"Of tickets: maps\.pool\(tickets\)"):
        SoftCrossEntropy()(torch.randn(4, COLUMNS), batch(4))


def test_collates_slices_and_copies_carry_tickets() -> None:
    items = [(torch.zeros(1), row) for row in batch().numpy()]
    _, stacked = default_collate(items)
    again = [t.clone() for t in torch.cat([stacked[2:], stacked[:2]]).chunk(3)]
    assert torch.equal(Tickets.read(torch.cat(again)).rows, torch.tensor([12, 10, 11]))
    assert torch.equal(Tickets.read(batch().numpy()).rows, Tickets.read(batch()).rows)


COUNTS = [2, COLUMNS, 1000, 21_843]


@pytest.mark.parametrize("classes", COUNTS)
def test_losses_of_classes_and_soft_labels_refuse_tickets(classes: int) -> None:
    timm_loss = pytest.importorskip("timm.loss")
    logits = torch.randn(3, classes)
    losses = {
        "cross-entropy": F.cross_entropy,
        "as transformers has it": lambda z, t: F.cross_entropy(z.view(-1, z.shape[1]), t.view(-1)),
        "nll": F.nll_loss,
        "binary": F.binary_cross_entropy_with_logits,
        "kl": lambda z, t: F.kl_div(z.log_softmax(1), t, reduction="batchmean"),
        "margin": F.multi_margin_loss,
        "smoothing": timm_loss.LabelSmoothingCrossEntropy(),
        "timm's binary": timm_loss.BinaryCrossEntropy(),
        "of deit": timm_loss.BinaryCrossEntropy(target_threshold=0.2),
        "one-hot": lambda z, t: F.one_hot(t, z.shape[1]),
        "of any class": lambda z, t: F.one_hot(t),
    }
    for name, loss in losses.items():
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            pytest.fail(f"{name}: {loss(logits, batch())}")
    if classes == COLUMNS:
        # It looks at neither shape nor dtype; its first loss says so.
        assert timm_loss.SoftTargetCrossEntropy()(logits, batch()) > 1e15
    else:
        with pytest.raises(RuntimeError):
            timm_loss.SoftTargetCrossEntropy()(logits, batch())


@pytest.mark.parametrize("classes", COUNTS)
def test_mixers_refuse_tickets_or_what_they_make_of_them_is_none(classes: int) -> None:
    mixup = pytest.importorskip("timm.data").Mixup
    images = torch.rand(4, 3, 8, 8)
    mixers = {
        "timm's of classes": mixup(0.8, 1.0, num_classes=classes),
        "timm's of soft labels": mixup(0.8, 1.0, num_classes=classes, label_smoothing=0, multi_label=True),
        "CutMix": v2.CutMix(num_classes=classes),
        "MixUp": v2.MixUp(num_classes=classes),
        "MixUp of what comes": v2.MixUp(),
    }
    for mixer in mixers.values():
        try:
            _, mixed = mixer(images, batch(4))
        except (RuntimeError, ValueError):
            continue
        with pytest.raises(LabelError, match="a mixer blended them"):
            Tickets.read(mixed)
        if classes == COLUMNS:
            assert not F.cross_entropy(torch.randn(4, classes), mixed).abs() < 1e15
        else:
            with pytest.raises(RuntimeError):
                F.cross_entropy(torch.randn(4, classes), mixed)
