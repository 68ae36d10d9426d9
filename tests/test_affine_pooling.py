"""Labels of views that turn, shear or mirror: what a resampled map says, and what boxes say where a box is meant."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import WHOLE, Box, Footprint
from relabel.geometry.frames import turned_boxes
from relabel.geometry.views import View, Views
from relabel.score_map import ScoreMap

SIZES = [None, 14, (3, 5)]
FOOTPRINT = Footprint(0.1, -0.05, 0.9, 1.1)
seeds = st.integers(0, 2**32 - 1)


def turned_view(seed, outside=0.0):
    """A crop, turned by any angle and sheared, that reaches at most `outside` over the image."""
    rng = np.random.default_rng(seed)
    angle, shear = rng.uniform(-math.pi, math.pi), rng.uniform(-0.4, 0.4)
    width, height = np.exp(rng.uniform(math.log(0.05), 0, 2))
    linear = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = linear @ np.array([[1, shear], [0, 1]]) @ np.diag([width, height])
    reach = np.abs(linear).sum(1)
    linear, reach = linear / max(1, *reach), reach / max(1, *reach)
    low = np.minimum(linear, 0).sum(1)
    start = rng.uniform(-outside, 1 - reach + outside) - low
    return View.affine(((*linear[0], start[0]), (*linear[1], start[1])))


def maps_of(count, grid_hw=(7, 9), classes=5, footprint=WHOLE):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, classes, *grid_hw, generator=generator, dtype=torch.float64) * 2
    return ScoreMap.from_logits(logits, planes=classes, footprint=footprint)


def scores_of(maps, image):
    """The log-probabilities of one image's cells, by class."""
    return maps.to_dense()[image].numpy()


@pytest.mark.parametrize("footprint", [WHOLE, FOOTPRINT])
@pytest.mark.parametrize("size", SIZES)
def test_labels_of_turned_views_are_those_of_samples_on_the_parallelograms_of_their_bins(size, footprint):
    views = [turned_view(seed, outside=0.2 if seed % 2 else 0.0) for seed in range(8)]
    maps = maps_of(len(views), footprint=footprint)
    labels = maps.pool(Views.of(views), size, uncovered="nearest")
    covered = maps.covered(Views.of(views), size)
    size_hw = (1, 1) if size is None else (size, size) if isinstance(size, int) else size
    checked = 0
    for image, view in enumerate(views):
        in_cells = oracle.affine_in_cells(view.as_matrix(), (7, 9), footprint.xyxy)
        pooled, left = oracle.affine_align(scores_of(maps, image), in_cells, size_hw)
        expected = oracle.softmax(pooled)
        is_seen = left > 0
        found = labels[image].numpy().reshape(expected.shape)
        np.testing.assert_allclose(found[:, is_seen], expected[:, is_seen], atol=1e-10)
        _, share = oracle.resampled(scores_of(maps, image), in_cells, size_hw, fine=max(150 // size_hw[0], 25))
        np.testing.assert_allclose(covered[image].numpy().reshape(size_hw), share, atol=0.04)
        checked += int(is_seen.sum())
    assert checked > 0.8 * labels[:, 0].numel()


@pytest.mark.parametrize(("size_hw", "most", "mean"), [((1, 1), 0.08, 0.025), ((14, 14), 0.12, 0.007)])
def test_labels_of_turned_views_are_near_those_of_the_resampled_map(size_hw, most, mean):
    views = [turned_view(seed) for seed in range(30)]
    maps = maps_of(len(views), grid_hw=(9, 9))
    labels = maps.pool(Views.of(views), size_hw)
    away = []
    for image, view in enumerate(views):
        in_cells = oracle.affine_in_cells(view.as_matrix(), (9, 9))
        drawn, _ = oracle.resampled(scores_of(maps, image), in_cells, size_hw, fine=max(140 // size_hw[0], 10))
        away.append(np.abs(labels[image].numpy() - oracle.softmax(drawn)).max(0))
    assert np.max(away) < most
    assert np.mean(away) < mean


def affine_without_turning(boxes, flips, flips_vertical):
    """Boxes as views that are called affine, as `View.affine` would not."""
    as_boxes = [View(Box(*box), *flip) for box, *flip in zip(boxes.tolist(), flips, flips_vertical, strict=True)]
    matrices = torch.tensor([view.as_matrix() for view in as_boxes], dtype=torch.float64)
    views = replace(Views.of(as_boxes), boxes=boxes)
    nothing = torch.zeros_like(views.flips)
    return views, replace(views, matrices=matrices, flips=nothing, flips_vertical=nothing)


@given(seeds, st.sampled_from([0.0, 0.2]), st.sampled_from(SIZES))
@settings(max_examples=30, deadline=None)
def test_a_map_that_only_scales_and_mirrors_gives_what_the_box_gives(seed, outside, size):
    boxes = torch.from_numpy(oracle.random_boxes(6, seed, 0.01, outside=outside))
    flips = [[bool(seed >> 2 * i & 1), bool(seed >> 2 * i + 1 & 1)] for i in range(6)]
    as_boxes, as_maps = affine_without_turning(boxes, *zip(*flips, strict=True))
    for maps in (maps_of(6), maps_of(6, (1, 4), footprint=FOOTPRINT)):
        expected = maps.pool(as_boxes, size, uncovered="nearest", sparse=True)
        found = maps.pool(as_maps, size, uncovered="nearest", sparse=True)
        torch.testing.assert_close(found.dense(), expected.dense(), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.covered, expected.covered, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [None, (2, 3)])
@pytest.mark.parametrize("sides", [30.0, 1e3, 1e6])
def test_a_view_far_larger_than_the_image_gives_what_its_box_gives(sides, size):
    # Of 2 x 3 bins four meet on the map, and have other numbers of samples there.
    boxes = torch.tensor([[0.3 - sides, 0.4 - sides, 0.3 + 2 * sides, 0.4 + sides]], dtype=torch.float64)
    as_boxes, as_maps = affine_without_turning(boxes, [False], [True])
    maps = maps_of(1)
    found, expected = (maps.pool(views, size, uncovered="nearest") for views in (as_maps, as_boxes))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    matrix = as_maps.matrices[0] @ torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.2], [0, 0, 1]], dtype=torch.float64)
    label = maps.pool(Views.of([View.affine(tuple(map(tuple, matrix.tolist())))]))
    torch.testing.assert_close(label, maps.pool(torch.tensor([[0.0, 0.0, 1.0, 1.0]])), atol=0.05, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_mirrored_boxes_are_roi_aligns_with_rows_or_columns_reversed(size):
    boxes = torch.tensor(oracle.random_boxes(40, 3, 0.05), dtype=torch.float32)
    maps = maps_of(40, (9, 9))
    scores = maps.to_dense()
    cells = boxes.double() * 9
    size_hw = (1, 1) if size is None else (size, size) if isinstance(size, int) else size
    aligned = [roi_align(scores[i : i + 1], [cells[i : i + 1]], size_hw, aligned=True)[0] for i in range(40)]
    upright = torch.stack(aligned).softmax(1)
    across, down = torch.rand(40) < 0.5, torch.rand(40) < 0.5
    expected = torch.where(across[:, None, None, None], upright.flip(3), upright)
    expected = torch.where(down[:, None, None, None], expected.flip(2), expected)
    expected = expected[:, :, 0, 0] if size is None else expected
    views = replace(Views.of([View.whole()] * 40), boxes=boxes, flips=across, flips_vertical=down)
    torch.testing.assert_close(maps.pool(views, size), expected, atol=1e-5, rtol=0)
    by_keyword = maps.pool(boxes, size, flip=across, flip_vertical=down)
    torch.testing.assert_close(by_keyword, maps.pool(views, size), atol=0, rtol=0)


def test_what_is_covered_of_tokens_is_mirrored_with_them():
    maps = maps_of(1, footprint=Footprint(0.25, 0.25, 1.0, 1.0))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    covered = maps.covered(whole, 4)
    flip = View(Box.whole(), flip_vertical=True)
    torch.testing.assert_close(maps.covered(Views.of([flip]), 4), covered.flip(1))
    turn = View.affine(((0.0, -1.0, 1.0), (1.0, 0.0, 0.0)))
    torch.testing.assert_close(maps.covered(Views.of([turn]), 4), covered.rot90(1, (1, 2)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("space", ["logit", "probability"])
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_boxes_beside_turned_views_are_pooled_as_they_are_alone_bit_for_bit(size, coded, space):
    views = [
        turned_view(i) if i % 3 else View(Box(*oracle.random_boxes(1, i, 0.1)[0].tolist()), i % 2 == 0, i % 4 == 0)
        for i in range(12)
    ]
    maps = maps_of(len(views), classes=40)
    maps = ScoreMap.from_logits(maps.to_dense().float(), planes=6, profile=9)
    maps = maps.coded() if coded else maps
    batch = Views.of(views)
    mixed = maps.pool(batch, size, space=space)
    alone = ~batch.is_affine
    torch.testing.assert_close(mixed[alone], maps[alone].pool(batch[alone], size, space=space), atol=0, rtol=0)
    turned = batch.is_affine
    by_turned = maps[turned].pool(batch[turned], size, space=space)
    torch.testing.assert_close(mixed[turned], by_turned, atol=1e-6, rtol=0)


@given(seeds, st.sampled_from(SIZES), st.sampled_from(["logit", "probability"]), st.sampled_from([0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_label_of_a_turned_view_is_a_distribution_and_a_constant_at_each_cell_changes_nothing(
    seed, size, space, temperature
):
    views = Views.of([turned_view(seed + i, outside=0.3) for i in range(3)])
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 8, 5, 6, generator=generator, dtype=torch.float64) * 3
    shift = torch.randn(3, 1, 5, 6, generator=generator, dtype=torch.float64) * 10
    how = {"space": space, "temperature": temperature, "uncovered": "nearest"}
    labels = [
        ScoreMap.from_logits(scores.log_softmax(1), planes=3, profile=2).pool(views, size, **how)
        for scores in (logits, logits + shift)
    ]
    torch.testing.assert_close(labels[0], labels[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(labels[0].sum(1), torch.ones_like(labels[0][:, 0]), atol=1e-9, rtol=0)
    maps = ScoreMap.from_logits(logits, planes=3, profile=2)
    sparse = maps.pool(views, size, sparse=True, **how)
    torch.testing.assert_close(sparse.dense(), maps.pool(views, size, **how), atol=1e-9, rtol=0)
    torch.testing.assert_close(sparse.covered, maps.covered(views, size), atol=0, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_turned_upright_are_pooled_by_views_of_the_upright_image(orientation):
    maps = maps_of(4, (6, 6), footprint=Footprint(0.0, 0.1, 0.8, 1.0))
    views = [turned_view(seed, outside=0.1) for seed in range(4)]
    # Where the orientation takes the corners of the image, it takes the views.
    unit = torch.tensor([[0.0, 0.0, 1e-6, 1e-6], [1 - 1e-6, 0.0, 1.0, 1e-6], [0.0, 1 - 1e-6, 1e-6, 1.0]])
    origin, right, below = turned_boxes(unit.double(), orientation)[:, :2].round().numpy()
    there = np.stack([right - origin, below - origin, origin], axis=1)
    moved = [View.affine(tuple(map(tuple, there @ np.array([*view.as_matrix(), (0, 0, 1)])))) for view in views]
    upright = maps.turned(torch.full((4,), orientation))
    found = upright.pool(Views.of(moved), 5, uncovered="nearest")
    torch.testing.assert_close(found, maps.pool(Views.of(views), 5, uncovered="nearest"), atol=1e-6, rtol=0)


def test_each_map_has_its_own_footprint():
    footprints = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.9, 1.0], [-0.1, 0.0, 1.0, 1.2]])
    views = Views.of([turned_view(1), View(Box(0.3, 0.3, 0.6, 0.8)), turned_view(2)])
    maps = replace(maps_of(3), footprint=footprints)
    together = maps.pool(views, 3, uncovered="nearest")
    for i in range(3):
        part = slice(i, i + 1)
        one = replace(maps[part], footprint=Footprint(*footprints[i].tolist()))
        torch.testing.assert_close(one.pool(views[part], 3, uncovered="nearest"), together[part], atol=1e-5, rtol=0)


def test_tokens_of_a_view_that_is_not_exact_are_refused_and_its_image_label_is_not():
    maps = maps_of(2)
    views = Views.of([turned_view(1), View.whole().ignoring()])
    assert maps.pool(views).shape == (2, 5)
    with pytest.raises(LabelError, match=r"crop 1 has no token labels.*geometry='ignore'"):
        maps.pool(views, 4)


def test_a_part_of_a_turned_view_outside_the_map_raises_or_takes_the_nearest_cells():
    maps = maps_of(2, footprint=Footprint(0.0, 0.0, 0.5, 0.5))
    views = Views.of([View(Box(0.1, 0.1, 0.4, 0.4)), View.affine(((0.6, 0.2, 0.1), (-0.2, 0.6, 0.3)))])
    with pytest.raises(LabelError, match=r"box 1 .* lies outside the part"):
        maps.pool(views, 4)
    assert maps.covered(views, 4)[1].min() == 0
    nearest = maps.pool(views, 4, uncovered="nearest")
    # The token at the far corner is nearest to the map's last cell.
    expected = torch.from_numpy(oracle.softmax(scores_of(maps, 1)[:, -1, -1]))
    torch.testing.assert_close(nearest[1, :, -1, -1], expected, atol=1e-9, rtol=0)


def test_labels_of_turned_views_do_not_depend_on_where_the_maps_are(device):
    views = Views.of([turned_view(1), View(Box(0.1, 0.2, 0.6, 0.9), flip=True), turned_view(2)])
    maps = ScoreMap.from_logits(maps_of(3).to_dense().float(), planes=2, profile=2).coded()
    found = maps.to(device).pool(views, 4, uncovered="nearest")
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), maps.pool(views, 4, uncovered="nearest"), atol=1e-5, rtol=0)


def test_a_sliver_that_passes_a_corner_of_the_map_takes_the_nearest_cells():
    # Some of its samples are beside the map and others above it, none near it.
    sliver = Views.of([View.affine(((1.3, 0.001, 0.5), (1.3, -0.001, -0.8)))])
    maps = maps_of(1)
    label = maps.pool(sliver, uncovered="nearest")
    along = (np.arange(15) + 0.5) / 15  # hypot(1.3 * 9, 1.3 * 7) cells, rounded up
    places = np.clip((-0.8 + 1.3 * along) * 7 - 0.5, 0, 6), np.clip((0.5 + 1.3 * along) * 9 - 0.5, 0, 8)
    nearest = np.mean([oracle.sample(scores_of(maps, 0), y, x) for y, x in zip(*places, strict=True)], axis=0)
    np.testing.assert_allclose(label[0], oracle.softmax(nearest), atol=1e-3)


def test_arguments_that_contradict_views_are_refused():
    maps, views = maps_of(1), Views.of([turned_view(1)])
    for how in ({"flip": torch.tensor([True])}, {"flip_vertical": torch.tensor([False])}):
        with pytest.raises(InvalidValueError, match="neither flip nor flip_vertical"):
            maps.pool(views, **how)
    with pytest.raises(InvalidValueError, match="need as many boxes; got 2"):
        maps.pool(Views.of([View.whole(), turned_view(1)]))
    with pytest.raises(InvalidValueError, match="flip must be"):
        maps.pool(views.boxes, flip_vertical=torch.tensor([True, False]))
    flat = replace(views, matrices=torch.zeros(1, 2, 3, dtype=torch.float64))
    with pytest.raises(InvalidValueError, match="shows an area; that of affine view 0"):
        maps.pool(flat)
    cells = ScoreMap.from_cell_topk(
        torch.arange(2).reshape(1, 2, 1, 1).expand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), num_classes=5
    )
    with pytest.raises(InvalidValueError, match="fill='rest'"):
        cells.pool(views, fill="zero")
    assert cells.pool(views, fill="rest").shape == (1, 5)


def test_matrices_of_float32_are_taken_too():
    views, maps = Views.of([turned_view(seed) for seed in range(3)]), maps_of(3)
    single = replace(views, matrices=views.matrices.float())
    torch.testing.assert_close(maps.pool(single), maps.pool(views), atol=1e-4, rtol=0)
