"""The laws of a pooled label, over maps, boxes, sizes and options that hypothesis draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_pooling import oracle_map
from torch import Tensor

from relabel.labels import MixedLabels, SparseLabels
from relabel.published import mirrored
from relabel.score_map import ScoreMap

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
COUNT = 3
spaces = st.sampled_from(["logit", "probability"])
temperatures = st.sampled_from([0.05, 0.5, 1.0, 1.0, 3.0])
sizes = st.none() | st.integers(1, 9) | st.tuples(st.integers(1, 17), st.integers(1, 17))
seeds = st.integers(0, 2**32 - 1)


def logits_of(count, classes, grid_hw, seed, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, *grid_hw, generator=generator, dtype=torch.float64) * scale


def cells_of(logits, k):
    """Classes and raw logits (B, k, H, W) of the best classes of each cell."""
    values, classes = logits.topk(k, dim=1)
    return classes, values


@dataclass(frozen=True)
class Case:
    """Three maps, whole or with holes, a box of each, and how to pool them."""

    maps: ScoreMap
    boxes: Tensor
    size: int | tuple[int, int] | None
    options: dict[str, Any]

    def pool(self, **changes: Any) -> Tensor:
        dense: Tensor = self.maps.pool(self.boxes, self.size, uncovered="nearest", **self.options, **changes)
        return dense

    def sparse(self, **changes: Any) -> SparseLabels:
        return self.maps.pool(self.boxes, self.size, uncovered="nearest", sparse=True, **self.options, **changes)


@st.composite
def cases(draw):
    grid_hw, classes, seed = (draw(st.integers(1, 7)), draw(st.integers(1, 7))), draw(st.integers(1, 12)), draw(seeds)
    scale = draw(st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    logits = logits_of(COUNT, classes, grid_hw, seed, scale).to(draw(st.sampled_from([torch.float32, torch.float64])))
    kind = draw(st.sampled_from(["whole", "coded", "zero", "rest"]))
    planes = draw(st.integers(1, classes))
    options = {"space": draw(spaces), "temperature": draw(temperatures)}
    if kind == "zero":
        maps = ScoreMap.from_cell_topk(*cells_of(logits, planes), num_classes=classes)
        options["fill"] = "zero"
    elif kind == "rest":
        scores = cells_of(logits.log_softmax(1), planes)
        maps = ScoreMap.from_cell_topk(*scores, num_classes=classes, rest=scores[1].amin(1) - 1)
    else:
        maps = ScoreMap.from_logits(logits, planes, draw(st.integers(0, classes - planes)))
        maps = maps.coded() if kind == "coded" else maps
    boxes = torch.from_numpy(oracle.random_boxes(COUNT, seed, 1e-3, outside=draw(st.sampled_from([0.0, 0.2]))))
    return Case(maps, boxes, draw(sizes), options)


def shape_of(size):
    return () if size is None else (size, size) if isinstance(size, int) else size


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_label_is_a_distribution_of_any_size_and_the_sparse_one_says_the_same(case):
    dense, sparse = case.pool(), case.sparse()
    assert dense.shape == (COUNT, case.maps.num_classes, *shape_of(case.size))
    assert (dense >= 0).all()
    torch.testing.assert_close(dense.sum(1), torch.ones_like(dense[:, 0]), atol=2e-6, rtol=0)
    torch.testing.assert_close(sparse.dense(), dense, atol=1e-6, rtol=0)
    assert sparse.size_hw == (shape_of(case.size) or None)
    if "fill" not in case.options:  # zero fill widens boxes to a cell
        torch.testing.assert_close(sparse.covered, case.maps.covered(case.boxes, case.size), atol=0, rtol=0)
    share = torch.rand(COUNT, dtype=dense.dtype)
    at_each = share.reshape(COUNT, *(1 for _ in dense.shape[1:]))
    mixed = MixedLabels(sparse, sparse[torch.tensor([2, 1, 0])], share).dense()
    torch.testing.assert_close(mixed, at_each * dense + (1 - at_each) * dense.flip(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.sum(1), torch.ones_like(mixed[:, 0]), atol=2e-6, rtol=0)


@given(cases(), st.lists(st.booleans(), min_size=COUNT, max_size=COUNT))
@settings(max_examples=40, deadline=None)
def test_to_flip_is_to_mirror_the_columns_and_twice_is_the_identity(case, flips):
    flip = torch.tensor(flips)
    plain, flipped = case.pool(), case.pool(flip=flip)
    if case.size is None:
        torch.testing.assert_close(flipped, plain, atol=0, rtol=0)
        return
    there = flip[:, None, None, None]
    torch.testing.assert_close(flipped, torch.where(there, plain.flip(3), plain), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.where(there, flipped.flip(3), flipped), plain, atol=1e-6, rtol=0)
    twice = mirrored(mirrored(case.maps, flip), flip)
    torch.testing.assert_close(twice.planes, case.maps.planes, atol=0, rtol=0, equal_nan=True)
    again = twice.pool(case.boxes, case.size, uncovered="nearest", **case.options)
    torch.testing.assert_close(again, plain, atol=0, rtol=0)


@given(st.tuples(*[st.integers(1, 6)] * 2), st.integers(1, 9), seeds, sizes, spaces, temperatures)
@settings(max_examples=40, deadline=None)
def test_a_constant_added_to_all_logits_of_a_cell_changes_no_label(grid_hw, classes, seed, size, space, temperature):
    logits = logits_of(2, classes, grid_hw, seed)
    shift = logits_of(2, 1, grid_hw, seed + 1, 50.0)
    boxes = torch.from_numpy(oracle.random_boxes(2, seed, 1e-3))
    planes, profile = max(classes // 3, 1), classes // 3
    plain, shifted = (ScoreMap.from_logits(z, planes, profile) for z in (logits, logits + shift))
    options = {"space": space, "temperature": temperature}
    torch.testing.assert_close(shifted.pool(boxes, size, **options), plain.pool(boxes, size, **options))
    # A map of cells keeps what it was given: raw logits, whose label the same shift of `rest` leaves alone in logits.
    listed, values = cells_of(logits, planes)
    rest = values.amin(1) - 1
    cells, moved = (
        ScoreMap.from_cell_topk(listed, values + by, num_classes=classes, rest=rest + by[:, 0])
        for by in (0 * shift, shift)
    )
    found, expected = (some.pool(boxes, size, temperature=temperature) for some in (moved, cells))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@given(st.tuples(*[st.integers(1, 6)] * 2), st.integers(1, 9), st.booleans(), seeds)
@settings(max_examples=40, deadline=None)
def test_the_whole_image_has_the_mean_of_its_cells_in_both_spaces(grid_hw, classes, coded, seed):
    """Of log-probabilities, then softmax; or of probabilities, those of classes without a plane included."""
    planes = max(classes // 2, 1)
    maps = ScoreMap.from_logits(logits_of(1, classes, grid_hw, seed), planes, (classes - planes) // 2)
    maps = maps.coded() if coded else maps
    stored = oracle_map(maps, 0)
    means = oracle.expand(stored).mean((1, 2)), oracle.expand_probabilities(stored).mean((1, 2))
    np.testing.assert_allclose(maps.pool(WHOLE)[0], oracle.softmax(means[0]), atol=1e-6)
    np.testing.assert_allclose(maps.pool(WHOLE, space="probability")[0], means[1], atol=1e-6)
    cells = logits_of(1, classes, grid_hw, seed + 1)
    listed = cells_of(cells, planes)
    zeros = oracle.zero_filled(*(some[0].numpy() for some in listed), classes)
    published = ScoreMap.from_cell_topk(*listed, num_classes=classes)
    np.testing.assert_allclose(published.pool(WHOLE, fill="zero")[0], oracle.softmax(zeros.mean((1, 2))), atol=1e-9)
    found = published.pool(WHOLE, fill="zero", space="probability")[0]
    np.testing.assert_allclose(found, oracle.softmax(zeros).mean((1, 2)), atol=1e-9)


@given(st.tuples(*[st.integers(1, 6)] * 2), st.integers(1, 9), seeds, st.tuples(*[st.integers(1, 4)] * 2))
@settings(max_examples=30, deadline=None)
def test_with_a_plane_for_every_class_nothing_is_truncated(grid_hw, classes, seed, size_hw):
    logits = logits_of(1, classes, grid_hw, seed)
    box = oracle.random_boxes(1, seed, 1e-2, outside=0.1)
    cells = oracle.box_in_cells(box[0], grid_hw)
    maps = ScoreMap.from_logits(logits, classes, 64)
    boxes = torch.from_numpy(box)
    assume(bool((maps.covered(boxes, size_hw) > 0.01).all()))
    expected = oracle.full_label(logits[0].numpy(), box[0], size_hw)
    np.testing.assert_allclose(maps.pool(boxes, size_hw)[0], expected, atol=1e-9)
    probabilities = oracle.covered_roi_align(oracle.softmax(logits[0].numpy()), cells, size_hw)
    np.testing.assert_allclose(maps.pool(boxes, size_hw, space="probability")[0], probabilities, atol=1e-9)


@st.composite
def divided_crops(draw):
    """A grid, a box inside it and tokens that divide, along each axis, the box's side in cells rounded up."""
    grid_hw, starts, sides, size = [], [], [], []
    for _ in range(2):
        cells = draw(st.integers(1, 9))
        samples = draw(st.integers(1, cells))
        side = samples - draw(st.floats(0.02, 0.98))
        start = draw(st.floats(0, 1)) * (cells - side)
        grid_hw.append(cells)
        sides.append(side / cells)
        starts.append(start / cells)
        size.append(draw(st.sampled_from([n for n in range(1, samples + 1) if samples % n == 0])))
    box = [starts[1], starts[0], starts[1] + sides[1], starts[0] + sides[0]]
    return tuple(grid_hw), torch.tensor([box], dtype=torch.float64), tuple(size)


@given(divided_crops(), st.integers(1, 9), seeds, st.sampled_from(["whole", "coded", "zero"]))
@settings(max_examples=60, deadline=None)
def test_token_labels_average_to_the_image_label_in_probability_where_tokens_divide_the_samples(
    crop, classes, seed, kind
):
    """RoIAlign takes n = ceil(side in cells) samples along a side of the box, and ceil(side / h) along one of a token.

    Where h divides n both are the same places, so that in probability space the mean over the tokens is the image's
    label, exactly, for any box inside the footprint. A crop of 14 x 14 tokens has such sides only by chance.
    """
    grid_hw, box, size = crop
    logits, planes, fill = logits_of(1, classes, grid_hw, seed), max(classes // 2, 1), "rest"
    if kind == "zero":
        maps, fill = ScoreMap.from_cell_topk(*cells_of(logits, planes), num_classes=classes), "zero"
        assume(bool(((box[0, 2:] - box[0, :2]) * torch.tensor(grid_hw[::-1]) >= 1).all()))
    else:
        maps = ScoreMap.from_logits(logits, planes, classes // 4)
        maps = maps.coded() if kind == "coded" else maps
    tokens, label = (maps.pool(box, some, space="probability", fill=fill) for some in (size, None))
    torch.testing.assert_close(tokens.mean((2, 3)), label, atol=1e-6, rtol=0)


def test_where_tokens_do_not_divide_the_samples_their_mean_is_near_the_image_label_only():
    maps = ScoreMap.from_logits(logits_of(4, 9, (5, 5), 0), 9, 0)
    far = (
        maps.pool(WHOLE.expand(4, 4), 2, space="probability").mean((2, 3))
        - maps.pool(WHOLE.expand(4, 4), space="probability")
    ).abs()
    assert 1e-3 < far.max() < 0.1


@st.composite
def published_crops(draw):
    """Raw logits of each cell's best classes, any scale, and a box of the image."""
    grid_hw, classes, seed = (draw(st.integers(1, 6)), draw(st.integers(1, 6))), draw(st.integers(1, 9)), draw(seeds)
    logits = logits_of(1, classes, grid_hw, seed, draw(st.sampled_from([0.5, 4.0, 300.0]))) + draw(
        st.sampled_from([0, 8, -8])
    )
    size = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    outside = draw(st.sampled_from([0.0, 0.1]))
    return (
        cells_of(logits, draw(st.integers(1, classes))),
        classes,
        oracle.random_boxes(1, seed, 1e-2, outside=outside),
        size,
    )


@given(published_crops(), spaces, temperatures, st.booleans())
@settings(max_examples=60, deadline=None)
def test_fill_zero_pools_dense_zeros_in_boxes_of_a_cell_or_more(crop, space, temperature, flip):
    """Sizes, flips, both spaces, temperature and the covered fraction, against the dense map; renormalised outside."""
    (listed, values), classes, box, size = crop
    grid_hw = listed.shape[2:]
    rest = torch.full_like(values[:, 0], -2.0)  # of no consequence here
    maps = ScoreMap.from_cell_topk(listed, values, num_classes=classes, rest=rest)
    cells = oracle.box_in_cells(box[0], grid_hw)
    cells[2:] = np.maximum(cells[2:], cells[:2] + (1 - 1e-12))  # a hair more would be two samples
    bins = size or (1, 1)
    ones = oracle.roi_align(np.ones((1, *grid_hw)), cells, bins)
    assume(bool((ones > 0).all()))
    zeros = oracle.zero_filled(listed[0], values[0].numpy(), classes)
    pooled = oracle.roi_align(zeros if space == "logit" else oracle.softmax(zeros), cells, bins) / ones
    with np.errstate(divide="ignore"):
        scores = pooled if space == "logit" else np.log(pooled)
    expected = oracle.softmax(scores / temperature)
    expected = expected[:, :, ::-1] if flip else expected
    found = maps.pool(
        torch.from_numpy(box),
        size,
        flip=torch.tensor([flip]),
        space=space,
        temperature=temperature,
        fill="zero",
        uncovered="nearest",
        sparse=True,
    )
    np.testing.assert_allclose(found.dense()[0], expected if size else expected[:, 0, 0], atol=1e-6)
    whole = oracle.covered_fraction(cells, grid_hw)
    assert found.covered.mean().item() == pytest.approx(whole, abs=1e-9)


@given(
    st.tuples(*[st.integers(1, 6)] * 2), seeds, st.none() | st.tuples(*[st.integers(1, 6)] * 2), spaces, temperatures
)
@settings(max_examples=50, deadline=None)
def test_labels_of_any_size_through_any_footprint_are_the_oracles(grid_hw, seed, size_hw, space, temperature):
    rng = np.random.default_rng(seed)
    footprint = np.sort(rng.uniform(-0.2, 1.2, (2, 2)), axis=0).reshape(4)
    assume(bool(((footprint[2:] - footprint[:2]) > 0.2).all()))
    given_footprint = torch.from_numpy(footprint)[None]
    maps = ScoreMap.from_logits(logits_of(1, 11, grid_hw, seed), 3, 4, footprint=given_footprint)
    box = oracle.random_boxes(1, seed, 0.05)
    boxes = torch.from_numpy(box)
    assume(bool((maps.covered(boxes, size_hw) > 0.01).all()))
    bins = shape_of(size_hw) or (1, 1)
    plain = oracle.label(oracle_map(maps, 0), box[0], bins, footprint_xyxy=footprint, space=space)
    expected = oracle.softmax(np.log(plain) / temperature)
    found = maps.pool(boxes, size_hw, space=space, temperature=temperature)
    np.testing.assert_allclose(found[0], expected if size_hw else expected[:, 0, 0], atol=1e-6)
    fraction = oracle.covered_fraction(oracle.box_in_cells(box[0], grid_hw, footprint), grid_hw)
    assert maps.covered(boxes, size_hw).mean().item() == pytest.approx(fraction, abs=1e-9)
    assert math.isclose(maps.covered(boxes).item(), fraction, abs_tol=1e-9)
