"""Two stores held against each other, by numbers that the inputs alone say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stores import change_manifest, make_store, random_logits

from relabel import diff
from relabel.cli import main

KEYS = [f"k{i}" for i in range(7)]
LOGITS = random_logits(7, 12, (3, 3))


def _stores(tmp_path, second=LOGITS, cut=((0, 4), (4, 7)), **given):
    make_store(tmp_path / "a", [KEYS[:5], KEYS[5:]], LOGITS)
    make_store(tmp_path / "b", [KEYS[start:end] for start, end in cut], second, **given)
    return diff(tmp_path / "a", tmp_path / "b", show_progress=False)


def test_a_store_cut_otherwise_is_equal(tmp_path):
    found = _stores(tmp_path)
    # The hashes of these stores count images, so both know the same.
    assert (found.is_equal, found.is_alike, found.images, found.compared, found.equal) == (True, True, (7, 7), 7, 7)
    assert (found.apart_largest, found.kl_largest, found.agreement, found.differences) == (0, 0, 1, ())


def test_maps_of_another_teacher_are_as_far_apart_as_their_labels(tmp_path):
    """The mean log-probabilities' softmax is the label of the whole image; coding moves it by little."""
    other = random_logits(7, 12, (3, 3), seed=1)
    make_store(tmp_path / "a", [KEYS], LOGITS, planes=12, profile=0)
    make_store(tmp_path / "b", [KEYS], other, planes=12, profile=0)
    found = diff(tmp_path / "a", tmp_path / "b", show_progress=False)
    p, q = ((logits.double().log_softmax(1).mean((2, 3))).softmax(1) for logits in (LOGITS, other))
    kl = (p * (p / q).log()).sum(1)
    assert not found.is_alike
    assert found.kl_mean == pytest.approx(float(kl.mean()), rel=0.05)
    assert found.kl_largest == pytest.approx(float(kl.max()), rel=0.05)
    assert found.agreement == pytest.approx(float((p.argmax(1) == q.argmax(1)).double().mean()))
    apart = (LOGITS.log_softmax(1) - other.log_softmax(1)).abs()
    assert found.apart_mean == pytest.approx(float(apart.mean()), abs=0.13)
    assert found.apart_largest == pytest.approx(float(apart.max()), abs=0.25)


def test_maps_that_differ_by_a_code_are_alike(tmp_path):
    found = _stores(tmp_path, LOGITS + 0.002 * random_logits(7, 12, (3, 3), seed=2))
    assert (found.is_equal, found.is_alike) == (False, True)
    assert 0 < found.apart_largest <= found.step == 0.25


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"planes": 5}, "scores.planes: 3 != 5"),
        ({"profile": 2}, "scores.profile: 4 != 2"),
        ({"dtype": "float16"}, "scores.dtype: 'uint8' != 'float16'"),
        ({"compression": "none"}, "scores.compression: 'zstd' != 'none'"),
    ],
)
def test_stores_of_another_kind_are_compared_by_their_labels_and_told(tmp_path, given, what):
    found = _stores(tmp_path, **given)
    assert not found.is_alike
    assert what in found.differences
    assert found.kl_largest < 0.2
    assert found.apart_largest <= 0.13


def test_other_grids_and_other_classes_say_what_can_be_compared(tmp_path):
    make_store(tmp_path / "a", [KEYS], LOGITS)
    make_store(tmp_path / "coarse", [KEYS], torch.nn.functional.avg_pool2d(LOGITS, 3))
    make_store(tmp_path / "more", [KEYS], random_logits(7, 13, (3, 3)))
    coarse, more = (diff(tmp_path / "a", tmp_path / name, show_progress=False) for name in ("coarse", "more"))
    assert math.isnan(coarse.apart_mean)
    assert coarse.kl_mean < 0.5
    assert math.isnan(more.apart_mean)
    assert math.isnan(more.kl_mean)
    assert (more.compared, more.equal) == (7, 0)


def test_images_that_differ_are_counted_and_named(tmp_path):
    numbers = range(len(KEYS))
    make_store(tmp_path / "a", [KEYS], LOGITS, failed=frozenset({"k1"}), image_hashes=numbers)
    keys = [*KEYS[1:], "new"]
    shards = [keys[:3], keys[3:]]
    make_store(tmp_path / "b", shards, LOGITS.roll(-1, 0), failed=frozenset({"k3"}), image_hashes=numbers)
    found = diff(tmp_path / "a", tmp_path / "b", show_progress=False)
    assert (found.only_first.keys, found.only_second.keys) == (("k0",), ("new",))
    # These stores say of an image that its hash is its number, which moved by one; 0 is not known.
    assert (found.other_bytes.count, found.other_truth.count) == (5, 6)
    assert (set(found.other_status.keys), found.compared, found.equal) == ({"k1", "k3"}, 4, 4)
    assert not found.is_alike


def test_what_is_not_published_is_not_alike(tmp_path):
    _stores(tmp_path, cut=((0, 5), (5, 7)))
    for store in ("a", "b"):
        for file in (tmp_path / store / "status").glob("c.1.*"):
            file.unlink()
    found = diff(tmp_path / "a", tmp_path / "b", show_progress=False)
    assert (found.unpublished, found.compared, found.equal) == ((1, 1), 5, 5)
    assert not found.is_alike


def test_ground_truths_are_compared_by_name(tmp_path):
    names = [f"class {i}" for i in range(12)]
    for store, order in (("a", names), ("b", names), ("c", names[1:] + names[:1])):
        make_store(tmp_path / store, [KEYS], LOGITS)
        change_manifest(tmp_path / store, data__class_names=order)
    assert diff(tmp_path / "a", tmp_path / "b", show_progress=False).other_truth.count == 0
    assert diff(tmp_path / "a", tmp_path / "c", show_progress=False).other_truth.count == 7


def test_footprints_are_compared(tmp_path):
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(7, 1)
    make_store(tmp_path / "a", [KEYS], LOGITS, footprint=boxes)
    boxes = boxes.clone()
    boxes[3, 0] = -0.1
    make_store(tmp_path / "b", [KEYS], LOGITS, footprint=boxes)
    found = diff(tmp_path / "a", tmp_path / "b", show_progress=False)
    assert (found.other_footprint.keys, found.equal, found.is_alike) == (("k3",), 7, False)


def test_the_command_tells_and_exits_by_what_it_found(tmp_path):
    _stores(tmp_path)
    make_store(tmp_path / "c", [KEYS[:6]], random_logits(7, 12, (3, 3), seed=1)[:6])
    run = CliRunner().invoke
    same = run(main, ["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--quiet"])
    assert (same.exit_code, same.output.splitlines()[-1]) == (0, "equal: the same images, and the same bytes of each")
    other = run(main, ["diff", str(tmp_path / "a"), str(tmp_path / "c"), "--quiet"])
    assert (other.exit_code, other.output.splitlines()[-1]) == (1, "different")
    assert "only in the first     1: k6" in other.output
    told = run(main, ["diff", str(tmp_path / "a"), str(tmp_path / "c"), "--json", "--quiet"])
    assert json.loads(told.stdout)["only_first"] == {"count": 1, "keys": ["k6"]}
    none = run(main, ["diff", str(tmp_path / "a"), str(tmp_path), "--quiet"])
    assert (none.exit_code, "is not a relabel store" in none.output) == (2, True)
    assert np.isfinite(json.loads(told.stdout)["kl_mean"])
