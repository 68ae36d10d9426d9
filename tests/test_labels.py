"""Labels without a dense target: what they stand for, and what is refused."""

from __future__ import annotations

import pytest
import torch
from test_pooling import random_maps

from relabel.errors import InvalidValueError
from relabel.labels import MixedLabels

BOXES = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.9, 0.6], [0.5, 0.5, 0.8, 1.0]])


def sparse_labels(size=None, *, planes=6, seed=0):
    return random_maps(3, (5, 4), planes=planes, seed=seed).pool(BOXES, size, sparse=True)


@pytest.mark.parametrize("size", [None, (3, 2)])
def test_some_of_the_labels_in_any_order(size):
    labels = sparse_labels(size)
    assert len(labels) == 3
    assert labels.size_hw == size
    for index in (torch.tensor([2, 0]), slice(1, 3), torch.tensor([False, True, True])):
        torch.testing.assert_close(labels[index].dense(), labels.dense()[index], atol=0, rtol=0)
    with pytest.raises(InvalidValueError, match=r"give \[1:2\]"):
        labels[1]


def test_a_share_may_differ_from_token_to_token():
    first, second = sparse_labels((2, 2)), sparse_labels((2, 2), planes=4, seed=1)
    share = torch.tensor([[[1.0, 0.0], [0.5, 1.0]]]).expand(3, 2, 2)
    labels = MixedLabels(first, second, share)
    assert (len(labels), labels.num_classes, labels.size_hw) == (3, 40, (2, 2))
    assert repr(labels).startswith("MixedLabels(SparseLabels(")
    mixed = labels.dense()
    torch.testing.assert_close(mixed[:, :, 0, 0], first.dense()[:, :, 0, 0], atol=0, rtol=0)
    torch.testing.assert_close(mixed[:, :, 0, 1], second.dense()[:, :, 0, 1], atol=0, rtol=0)


def test_labels_that_do_not_belong_together_are_refused():
    with pytest.raises(InvalidValueError, match="one size"):
        MixedLabels(sparse_labels(), sparse_labels((1, 1)), torch.ones(3))
    with pytest.raises(InvalidValueError, match="share must be"):
        MixedLabels(sparse_labels(), sparse_labels(), torch.ones(2))


def test_labels_move(device):
    mixed = MixedLabels(sparse_labels(), sparse_labels(seed=1), torch.full((3,), 0.5))
    there = mixed.to(device)
    assert there.share.device.type == device.type
    torch.testing.assert_close(there.dense().cpu(), mixed.dense())
