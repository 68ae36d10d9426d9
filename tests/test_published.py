"""The published targets: the golden vectors, and the published arithmetic restated with torchvision's roi_align."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from relabel.errors import InvalidValueError
from relabel.published import TokenLabeling, mirrored, relabel_targets, token_labeling_targets
from relabel.score_map import ScoreMap

DATA = Path(__file__).parent / "data"
WHOLE = [0.0, 0.0, 1.0, 1.0]
MODES = [False, True]


def golden(name):
    """Maps, boxes and all arrays of a file of golden vectors: inputs and outputs of the published code."""
    with np.load(DATA / name) as file:
        arrays = {key: file[key] for key in file.files}
    classes = torch.from_numpy(arrays["classes"].astype(np.int64))
    maps = ScoreMap.from_cell_topk(classes, torch.from_numpy(arrays["logits"]), num_classes=int(arrays["num_classes"]))
    return maps, torch.from_numpy(arrays["boxes"]), arrays


def random_cells(count, k, grid_hw, num_classes, seed, scale=6.0):
    """Classes and logits (B, k, H, W), distinct at a cell, as a published archive lists them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(count, num_classes, *grid_hw, generator=generator).argsort(1)
    logits = torch.randn(count, k, *grid_hw, generator=generator) * scale
    return order[:, :k], logits.half().float()


def random_boxes(count, seed, smallest):
    """(B, 4) float32 boxes inside the image; some begin or end on its border, and some are the whole image."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(smallest), 0, (count, 2)))
    sides[rng.uniform(size=count) < 0.15] = 1
    starts = (rng.choice([0, 1, rng.uniform()], (count, 2))) * (1 - sides)
    return torch.from_numpy(np.concatenate([starts, np.minimum(starts + sides, 1)], axis=1)).float()


def dense_zeros(classes, logits, num_classes):
    """(B, C, H, W): the logits of what a cell lists, and 0."""
    batch, _, height, width = logits.shape
    return torch.zeros(batch, num_classes, height, width).scatter_(1, classes, logits)


def aligned_softmax(dense, boxes, size_hw, as_shipped):
    """(B, C, h, w) with the arithmetic of the published codes; `as_shipped`: with their order of x and y, one scale."""
    height, width = dense.shape[2:]
    scale = torch.tensor([width, width if as_shipped else height] * 2, dtype=torch.float32)
    rois = (boxes[:, [1, 0, 3, 2]] if as_shipped else boxes) * scale - 0.5
    rois = torch.cat([torch.arange(len(dense), dtype=torch.float32)[:, None], rois], dim=1)
    return roi_align(dense, rois, size_hw, spatial_scale=1.0, sampling_ratio=-1, aligned=False).softmax(1)


def stacked_targets(dense, boxes, ground_truth, options, as_shipped):
    """(B, C, 2 + N) of the published Token Labeling code."""
    batch, num_classes = dense.shape[:2]
    off = options.smoothing / num_classes
    on = 1 - options.smoothing + off
    truth = torch.full((batch, num_classes, 1), off)
    truth[torch.arange(batch), ground_truth, 0] = on
    parts = [truth, aligned_softmax(dense, boxes, (1, 1), as_shipped).flatten(2) * on + off]
    size_hw = options.size if isinstance(options.size, tuple) else (options.size, options.size)
    if size_hw != (1, 1):
        parts.append(aligned_softmax(dense, boxes, size_hw, as_shipped).flatten(2) * on + off)
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize(("as_shipped", "name"), [(False, "labels"), (True, "labels_as_shipped")])
def test_relabels_golden_vectors_are_reproduced(as_shipped, name):
    maps, boxes, arrays = golden("relabel_crops.npz")
    np.testing.assert_allclose(relabel_targets(maps, boxes, as_shipped=as_shipped), arrays[name], rtol=0, atol=1e-6)
    for one in (0, 1, 7):
        alone = relabel_targets(maps[one : one + 1], boxes[one : one + 1], as_shipped=as_shipped)
        np.testing.assert_allclose(alone[0], arrays[name][one], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("as_shipped", "name"), [(False, "targets"), (True, "targets_as_shipped")])
def test_token_labelings_golden_vectors_are_reproduced(as_shipped, name):
    maps, boxes, arrays = golden("tokenlabel_crops.npz")
    truth = torch.from_numpy(arrays["ground_truth"])
    options = TokenLabeling(size=int(arrays["label_size"]), smoothing=float(arrays["smoothing"]))
    assert options == TokenLabeling()
    found = token_labeling_targets(maps, boxes, truth, options, as_shipped=as_shipped)
    np.testing.assert_allclose(found, arrays[name], rtol=0, atol=1e-5)
    other = {"targets": "targets_as_shipped", "targets_as_shipped": "targets"}[name]
    assert abs(found.numpy() - arrays[other]).max() > 0.1


@st.composite
def archives(draw):
    """Per-cell lists of any shape, a box of each image, down to a hundredth of a cell, and options."""
    count, grid_hw = draw(st.integers(1, 4)), (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    num_classes = draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    classes, logits = random_cells(count, draw(st.integers(1, min(num_classes, 7))), grid_hw, num_classes, seed)
    if draw(st.booleans()):
        classes, logits = classes.flip(3), logits.flip(3)  # the code's flip, before the crop
    boxes = random_boxes(count, seed, draw(st.sampled_from([0.3, 1e-2, 1e-3])))
    size = draw(st.sampled_from([1, 14, (3, 2), (1, 5), 7]))
    return classes, logits, num_classes, boxes, TokenLabeling(size, draw(st.sampled_from([0.0, 0.1, 0.5])))


@given(archives(), st.sampled_from(MODES))
@settings(max_examples=120, deadline=None)
def test_targets_are_those_of_dense_zeros_and_roi_align(archive, as_shipped):
    classes, logits, num_classes, boxes, options = archive
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=num_classes)
    dense = dense_zeros(classes, logits, num_classes)
    truth = classes[:, 0, 0, 0]
    expected = stacked_targets(dense, boxes, truth, options, as_shipped)
    found = token_labeling_targets(maps, boxes, truth, options, as_shipped=as_shipped)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    label = aligned_softmax(dense, boxes, (1, 1), as_shipped)[:, :, 0, 0]
    torch.testing.assert_close(relabel_targets(maps, boxes, as_shipped=as_shipped), label, atol=1e-5, rtol=0)


@pytest.mark.parametrize("as_shipped", MODES)
@pytest.mark.parametrize("grid_hw", [(15, 15), (18, 18), (10, 20)])
def test_many_boxes_far_smaller_than_a_cell_are_those_of_roi_align(grid_hw, as_shipped):
    """Widened to one cell, of which float32 must not make a hair more: that would be two samples, not one."""
    cells = random_cells(4, 3, grid_hw, 9, seed=3)
    starts = torch.rand(500, 2)
    boxes = torch.cat([starts, starts + 0.02 * torch.rand(500, 2) + 1e-4], dim=1)
    image = torch.arange(500) % 4
    maps = ScoreMap.from_cell_topk(*cells, num_classes=9)[image]
    expected = aligned_softmax(dense_zeros(*cells, 9)[image], boxes, (1, 1), as_shipped)[:, :, 0, 0]
    torch.testing.assert_close(relabel_targets(maps, boxes, as_shipped=as_shipped), expected, atol=1e-5, rtol=0)
    inside = (boxes[:, 2:] < 1 - 1 / min(grid_hw)).all(1)
    if not as_shipped:  # the same boxes by the mode of `pool`, which renormalises at the border
        torch.testing.assert_close(maps[inside].pool(boxes[inside], fill="zero"), expected[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("as_shipped", MODES)
def test_boxes_of_whole_cells_have_the_samples_of_float32(as_shipped):
    """4.0000002 cells take five samples, where 4 take four; and what is not listed is 0, whatever the `rest`."""
    cells = random_cells(4, 3, (15, 15), 9, seed=8)
    sides = torch.randint(1, 8, (300, 2)).double() / 15
    starts = torch.rand(300, 2, dtype=torch.float64) * (1 - sides)
    boxes = torch.cat([starts, starts + sides], dim=1)
    image = torch.arange(300) % 4
    rest = torch.full((4, 15, 15), -3.0)
    maps = ScoreMap.from_cell_topk(*cells, num_classes=30, rest=rest)[image]
    expected = aligned_softmax(dense_zeros(*cells, 30)[image], boxes.float(), (1, 1), as_shipped)[:, :, 0, 0]
    torch.testing.assert_close(relabel_targets(maps, boxes, as_shipped=as_shipped), expected, atol=1e-5, rtol=0)


def test_what_lies_outside_the_map_is_zero_and_its_label_uniform():
    """So the code does it with a token of a box so near the border that, widened, it reaches outside."""
    maps = ScoreMap.from_cell_topk(*random_cells(1, 2, (6, 6), 8, seed=1), num_classes=8)
    corner = torch.tensor([[0.99, 0.0, 1.0, 1.0]])
    tokens = token_labeling_targets(maps, corner, torch.tensor([0]), TokenLabeling(4, 0.0))[:, :, 2:].unflatten(
        2, (4, 4)
    )
    torch.testing.assert_close(tokens[..., 3], torch.full((1, 8, 4), 1 / 8))
    assert (tokens[..., 0] - 1 / 8).abs().max() > 0.05


def test_the_right_box_goes_through_the_footprint_and_the_shipped_one_ignores_it():
    cells = random_cells(3, 4, (9, 9), 12, seed=2)
    whole = ScoreMap.from_cell_topk(*cells, num_classes=12)
    centre = replace(whole, footprint=torch.tensor([[0.125, 0.0, 0.875, 1.0]]).expand(3, 4))
    boxes = torch.tensor([[0.2, 0.1, 0.7, 0.9], [0.3, 0.3, 0.6, 0.5], [0.0, 0.0, 0.5, 0.5]])
    inside = (boxes - torch.tensor([0.125, 0.0, 0.125, 0.0])) / torch.tensor([0.75, 1.0, 0.75, 1.0])
    torch.testing.assert_close(relabel_targets(centre, boxes), relabel_targets(whole, inside), atol=1e-5, rtol=0)
    shipped = relabel_targets(centre, boxes, as_shipped=True)
    torch.testing.assert_close(shipped, relabel_targets(whole, boxes, as_shipped=True), atol=0, rtol=0)


@pytest.mark.parametrize("as_shipped", MODES)
def test_columns_sum_to_1_on_request_and_as_published_to_a_little_more(as_shipped):
    maps, boxes, arrays = golden("tokenlabel_crops.npz")
    truth = torch.from_numpy(arrays["ground_truth"])
    plain = token_labeling_targets(maps, boxes, truth, as_shipped=as_shipped)
    torch.testing.assert_close(plain[:, :, 0].sum(1), torch.ones(6))
    torch.testing.assert_close(plain[:, :, 1:].sum(1), torch.full((6, 197), 1 + 0.1 / 60))
    right = token_labeling_targets(maps, boxes, truth, TokenLabeling(sum_to_one=True), as_shipped=as_shipped)
    torch.testing.assert_close(right.sum(1), torch.ones(6, 198))
    torch.testing.assert_close(right[:, :, 0], plain[:, :, 0], atol=0, rtol=0)
    label = relabel_targets(maps, boxes, as_shipped=as_shipped)
    torch.testing.assert_close(right[:, :, 1], label * 0.9 + 0.1 / 60)


def test_mirrored_maps_are_those_of_mirrored_lists():
    classes, logits = random_cells(3, 3, (5, 6), 20, seed=4)
    flip = torch.tensor([True, False, True])
    there = flip[:, None, None, None]
    lists = [torch.where(there, cells.flip(3), cells) for cells in (classes, logits)]
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=20)
    boxes = random_boxes(3, 5, 0.02)
    for as_shipped in MODES:
        expected = relabel_targets(ScoreMap.from_cell_topk(*lists, num_classes=20), boxes, as_shipped=as_shipped)
        found = relabel_targets(mirrored(maps, flip), boxes, as_shipped=as_shipped)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    rest = torch.randn(3, 5, 6)
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=20, rest=rest)
    rest = torch.where(flip[:, None, None], rest.flip(2), rest)
    expected = ScoreMap.from_cell_topk(*lists, num_classes=20, rest=rest).pool(boxes)
    torch.testing.assert_close(mirrored(maps, flip).pool(boxes), expected, atol=1e-6, rtol=0)
    with pytest.raises(InvalidValueError, match="flip must be"):
        mirrored(maps, flip[:2])


def test_to_mirror_and_then_crop_is_to_crop_and_then_flip():
    """The crop of a mirrored image is the mirrored crop, from where the box lay before; footprints are mirrored too."""
    maps = ScoreMap.from_cell_topk(*random_cells(2, 3, (5, 6), 20, seed=6), num_classes=20)
    maps = replace(maps, footprint=torch.tensor([[0.0, 0.0, 0.9, 1.0], [0.1, 0.2, 0.8, 1.0]]))
    boxes = torch.tensor([[0.05, 0.1, 0.6, 0.8], [0.25, 0.3, 0.75, 0.9]])
    other_way = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0]) + torch.tensor([1.0, 0.0, 1.0, 0.0])
    flip = torch.tensor([True, True])
    tokens = token_labeling_targets(
        mirrored(maps, flip), other_way, torch.zeros(2, dtype=torch.int64), TokenLabeling(3, 0)
    )
    expected = maps.pool(boxes, 3, flip=flip, fill="zero")
    torch.testing.assert_close(tokens[:, :, 2:].unflatten(2, (3, 3)), expected, atol=1e-5, rtol=0)


def test_targets_do_not_depend_on_device_or_on_how_logits_are_kept(device):
    maps, boxes, arrays = golden("tokenlabel_crops.npz")
    truth = torch.from_numpy(arrays["ground_truth"])
    half = replace(maps, planes=maps.planes.half(), rest=maps.rest.half())  # as a store keeps raw logits
    double = replace(maps, planes=maps.planes.double(), rest=maps.rest.double())
    for as_shipped, name in ((False, "targets"), (True, "targets_as_shipped")):
        for some in (half, double):
            found = token_labeling_targets(some.to(device), boxes.double(), truth.to(device), as_shipped=as_shipped)
            assert found.device.type == device.type
            assert found.dtype == (torch.float64 if some is double else torch.float32)
            np.testing.assert_allclose(found.cpu(), arrays[name], rtol=0, atol=1e-5)


def test_no_images_have_no_targets():
    maps, boxes, _ = golden("tokenlabel_crops.npz")
    none = token_labeling_targets(maps[:0], boxes[:0], torch.zeros(0, dtype=torch.int64), TokenLabeling(2))
    assert none.shape == (0, 60, 6)


def test_maps_that_are_no_raw_logits_are_refused():
    whole = ScoreMap.from_logits(torch.randn(1, 4, 2, 2), 2)
    cells = random_cells(1, 2, (2, 2), 4, seed=0)
    coded = ScoreMap.from_cell_topk(cells[0], cells[1].log_softmax(1), num_classes=4).coded()
    for maps in (whole, coded):
        with pytest.raises(InvalidValueError, match=r"raw logits .*pool makes labels"):
            relabel_targets(maps, torch.tensor([WHOLE]))


@pytest.mark.parametrize(
    ("truth", "what"),
    [
        (torch.tensor([0, 7]), r"\[0, 7\) for each image; got 7 for image 1"),
        (torch.tensor([-1, 0]), "got -1 for image 0"),
        (torch.tensor([0]), r"\(2,\) integers.*got \(1,\)"),
        (torch.tensor([0.0, 1.0]), "float32"),
        ([0, 1], "a list"),
    ],
)
def test_a_ground_truth_that_cannot_be_is_refused(truth, what):
    maps = ScoreMap.from_cell_topk(*random_cells(2, 2, (3, 3), 7, seed=0), num_classes=7)
    with pytest.raises(InvalidValueError, match=what):
        token_labeling_targets(maps, torch.tensor([WHOLE, WHOLE]), truth)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (2, 2, 2)}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_options_without_meaning_are_refused(options):
    with pytest.raises(InvalidValueError, match="at least"):
        TokenLabeling(**options)


@pytest.mark.parametrize(
    ("boxes", "what"),
    [(torch.tensor([WHOLE]), "2 maps need as many boxes"), (torch.tensor([WHOLE, [0.5, 0, 0.5, 1]]), "box 1 is")],
)
def test_boxes_that_do_not_fit_are_refused(boxes, what):
    maps = ScoreMap.from_cell_topk(*random_cells(2, 2, (3, 3), 7, seed=0), num_classes=7)
    with pytest.raises(InvalidValueError, match=what):
        relabel_targets(maps, boxes)


@pytest.mark.parametrize("num_classes", [1000, 6000])
def test_a_thousand_planes_of_little_weight_add_up_as_in_the_code(num_classes):
    """torch's float32 softmax over a dimension that is not the last is 3e-5 wrong here, and more with more classes."""
    random = torch.Generator().manual_seed(0)
    classes = torch.rand(4, num_classes, 15, 15, generator=random).topk(5, dim=1).indices
    logits = (torch.randn(4, 5, 15, 15, generator=random) * 3 + 8).half()
    maps = ScoreMap.from_cell_topk(classes, logits, num_classes=num_classes)
    corner = torch.rand(4, 2, generator=random) * 0.9
    boxes = torch.cat([corner, corner + 0.01], dim=1)
    dense = torch.zeros(4, num_classes, 15, 15).scatter_(1, classes, logits.float())
    rois = torch.cat([torch.arange(4.0)[:, None], boxes * 15 - 0.5], dim=1)
    crop, tokens = (roi_align(dense, rois, size).flatten(2) for size in (1, 3))
    torch.testing.assert_close(relabel_targets(maps, boxes), crop[:, :, 0].softmax(1), atol=1e-6, rtol=0)
    options = TokenLabeling(size=3, smoothing=0.0)
    got = token_labeling_targets(maps, boxes, torch.zeros(4, dtype=torch.int64), options)[:, :, 1:]
    torch.testing.assert_close(got, torch.cat([crop, tokens], dim=2).softmax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.pool(boxes, fill="zero").sum(1), torch.ones(4), atol=5e-6, rtol=0)
