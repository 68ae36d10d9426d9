"""The manifest rebuilds itself from JSON, names what differs, and refuses what it cannot understand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import InvalidValueError, StoreError
from relabel.geometry import Footprint
from relabel.manifest import (
    PER_ROW,
    DataRecord,
    KeptRecord,
    Manifest,
    Mean,
    MemberRecord,
    Preprocessing,
    ScoreRecord,
    TeacherRecord,
    TeacherSource,
    Weights,
    fingerprint,
)

fractions = st.floats(0, 0.999)  # where a footprint may start that ends at 1
positive = st.floats(1e-3, 1e3)
words = st.text(max_size=8)
counts = st.integers(0, 99)


IDENTITY = "c25719641e0cb3798865f528dace2b68c5edbde67a8f6db3621ba386117a08ef"
"""Of the example, from before a manifest said what is averaged."""
PIXELS = Preprocessing(image_size_hw=(224, 320), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


@st.composite
def teachers(draw):
    weights = draw(st.sampled_from(get_args(Weights)))
    return TeacherRecord(
        source=draw(st.sampled_from(get_args(TeacherSource))),
        name=draw(words),
        weights=weights,
        seed=draw(st.integers(0, 2**63)) if weights == "random" else None,
        weights_digest=draw(words),
        head=draw(words),
        precision=draw(words),
        kept=draw(st.none() | st.builds(KeptRecord, selection=words, count=counts, of=counts, digest=words)),
    )


members = st.builds(MemberRecord, teacher=teachers(), preprocessing=st.just(PIXELS))


@st.composite
def manifests(draw):
    classes, planes, is_mirrored = draw(st.integers(1, 5)), 1, draw(st.booleans())
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    shards = draw(st.lists(words, min_size=len(counts), max_size=len(counts)))
    return Manifest(
        teacher=draw(teachers()),
        preprocessing=Preprocessing(
            image_size_hw=(draw(st.integers(1, 999)), draw(st.integers(1, 999))),
            mean=(draw(positive), draw(positive)),
            std=(draw(positive), draw(positive)),
            interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
            fit=draw(st.sampled_from(["squash", "center", "letterbox"])),
        ),
        scores=ScoreRecord(
            num_classes=classes,
            planes=planes,
            profile=draw(st.integers(0, classes - planes)),
            grid_hw=(draw(st.integers(1, 99)), draw(st.integers(1, 99))),
            dtype=draw(st.sampled_from(["uint8", "float16"])),
        ),
        data=DataRecord(
            kind="folder",
            shards=tuple(shards),
            counts=draw(st.sampled_from([(), tuple(counts)])),
            rows_per_shard=9,
            fingerprint=draw(words),
            class_names=draw(st.none() | st.lists(words, max_size=3).map(tuple)),
        ),
        footprint=draw(st.just(PER_ROW) | st.builds(Footprint, fractions, fractions, st.just(1.0), st.just(1))),
        others=draw(
            st.lists(st.builds(MemberRecord, teacher=teachers(), preprocessing=st.just(PIXELS)), max_size=2).map(tuple)
        ),
        flip_average=is_mirrored,
        mean=draw(st.sampled_from(get_args(Mean) if is_mirrored else ["probability"])),
        class_names=draw(st.none() | st.tuples(*[words] * classes)),
        versions=draw(st.dictionaries(words, words, max_size=3)),
    )


def example():
    return Manifest(
        teacher=TeacherRecord(
            source="timm", name="resnet18", weights="random", seed=0, weights_digest="ab" * 32, head="linear"
        ),
        preprocessing=Preprocessing(image_size_hw=(224, 320), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
        scores=ScoreRecord(num_classes=10, planes=4, profile=3, grid_hw=(7, 10)),
        data=DataRecord(kind="webdataset", shards=("a", "b"), counts=(5, 2), rows_per_shard=5, fingerprint="0f" * 16),
        versions={"relabel": "0.1.0"},
    )


def through_json(manifest):
    return json.loads(json.dumps(manifest.to_json()))


@given(manifests())
@settings(max_examples=60, deadline=None)
def test_a_manifest_rebuilds_itself_through_real_json(manifest):
    rebuilt = Manifest.from_json(through_json(manifest))
    assert rebuilt == manifest
    assert rebuilt.difference(manifest) == []


def test_what_is_averaged_is_said_of_several_passes_only_so_that_older_manifests_stay_themselves():
    older = replace(example(), flip_average=True)
    newer = replace(older, mean="log-probability")
    assert "mean" not in through_json(older)["relabel"]
    assert through_json(newer)["relabel"]["mean"] == "log-probability"
    assert older.difference(newer) == ["mean: 'probability' != 'log-probability'"]
    assert older.identity() != newer.identity()
    assert example().identity().hex() == IDENTITY
    with pytest.raises(InvalidValueError, match="one forward pass"):
        replace(example(), mean="log-probability")


def test_a_whole_number_makes_the_store_that_the_fraction_makes():
    whole = replace(example(), preprocessing=replace(example().preprocessing, crop=1))
    assert whole.identity() == example().identity()


def test_attributes_of_others_beside_ours_do_not_matter():
    assert Manifest.from_json(through_json(example()) | {"author": "someone"}) == example()


leaves = st.none() | st.booleans() | st.integers(-3, 3) | words | st.lists(st.integers(0, 3), max_size=2)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_anywhere_is_a_store_error_or_a_manifest_that_shows_it(data):
    """No other exception, and no repair in silence."""
    attributes = through_json(example())
    holder, name = attributes, "relabel"
    while isinstance(holder[name], dict) and holder[name] and data.draw(st.booleans()):
        holder = holder[name]
        name = data.draw(st.sampled_from(sorted(holder)))
    holder[name] = data.draw(leaves | st.dictionaries(words, leaves, max_size=2))
    before = copy.deepcopy(attributes)
    try:
        manifest = Manifest.from_json(attributes)
    except StoreError:
        return
    assert through_json(manifest) == before


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ((), None, "not a relabel store"),
        (("format",), 2, "has format 2; this version reads format 1"),
        (("format",), "1", "has format '1'"),
        (("surprise",), 1, "surprise"),
        (("others",), "", "others is '', not a list"),
        (("others",), {}, "others is {}, not a list"),
        (("others",), [{}], "preprocessing, teacher, which is missing"),
        (("scores", "surprise"), 1, "surprise"),
        (("teacher",), [], "damaged or foreign"),
        (("scores", "planes"), "4", "TypeError"),
        (("scores", "planes"), 11, "planes"),
        (("scores", "planes"), 0, "planes"),
        (("scores", "profile"), 7, "profile"),
        (("scores", "profile"), -1, "profile"),
        (("scores", "grid_hw"), [0, 3], "grid"),
        (("scores", "step"), None, "was changed after it was written"),
        (("scores", "dtype"), "float64", "dtype must be one of 'uint8', 'float16'; got 'float64'"),
        (("scores", "compression"), "lzma", "compression"),
        (("scores", "select"), "pixel", "select"),
        (("scores", "scores"), "score", "scores"),
        (("scores", "grid_hw"), [7], "damaged"),
        (("scores", "grid_hw"), [7, 10, 1], "not a list of 2"),
        (("preprocessing", "fit"), "stretch", "fit"),
        (("preprocessing", "interpolation"), "lanczos", "interpolation"),
        (("preprocessing", "image_size_hw"), [224], "not a list of 2"),
        (("preprocessing", "std"), [0.2, 0.2], "one finite value per channel"),
        (("preprocessing", "mean"), [float("nan"), 0.4, 0.3], "one finite value per channel"),
        (("data", "kind"), "parquet", "kind"),
        (("data", "shards"), [], "at least one shard"),
        (("data", "counts"), [5], "2 shards need as many counts"),
        (("data", "counts"), [5, 6], "0 to 5 images"),
        (("footprint",), [0.0, 0.0, 1.0], "not a list of 4"),
        (("footprint",), [2.0, 0.0, 3.0, 1.0], "footprint"),
        (("class_names",), ["a"], "10 classes need as many class names; got 1"),
        (("versions",), ["ab", "cde"], "damaged"),
    ],
)
def test_a_damaged_or_foreign_manifest_is_refused_with_what_is_wrong(path, value, what):
    attributes = through_json(example())
    holder = attributes
    for name in ("relabel", *path)[:-1]:
        holder = holder[name]
    holder[("relabel", *path)[-1]] = value
    with pytest.raises(StoreError, match=what):
        Manifest.from_json(attributes)


@pytest.mark.parametrize("missing", ["format", "teacher", "scores", "preprocessing", "data"])
def test_a_manifest_with_a_part_missing_is_refused(missing):
    attributes = through_json(example())
    del attributes["relabel"][missing]
    with pytest.raises(StoreError, match=missing):
        Manifest.from_json(attributes)


def test_the_difference_has_a_line_for_each_field_mine_first():
    mine = example()
    other = replace(
        mine,
        teacher=replace(mine.teacher, name="resnet50"),
        preprocessing=replace(mine.preprocessing, image_size_hw=(224, 224)),
        footprint=PER_ROW,
    )
    assert mine.difference(other) == [
        "teacher.name: 'resnet18' != 'resnet50'",
        "preprocessing.image_size_hw: [224, 320] != [224, 224]",
        "footprint: [0.0, 0.0, 1.0, 1.0] != 'per row'",
    ]


def test_versions_inform_and_are_no_difference():
    assert example().difference(replace(example(), versions={"relabel": "9"})) == []


def test_the_difference_of_long_lists_is_the_item_that_differs():
    names = tuple(f"train-{i:04d}.tar" for i in range(500))
    data = DataRecord(kind="webdataset", shards=names, counts=(), rows_per_shard=5, fingerprint="0")
    mine = replace(example(), data=data)
    renamed = replace(mine, data=replace(data, shards=(*names[:321], "other.tar", *names[322:])))
    shorter = replace(mine, data=replace(data, shards=names[:-1]))
    assert mine.difference(renamed) == ["data.shards[321]: 'train-0321.tar' != 'other.tar'"]
    assert mine.difference(shorter) == ["data.shards: 500 items != 499 items"]


def test_a_long_value_is_cut_in_the_difference():
    mine = replace(example(), teacher=replace(example().teacher, head="x" * 500))
    (line,) = mine.difference(example())
    assert len(line) < 200
    assert "502 characters" in line


@given(st.lists(words.filter(lambda w: "\0" not in w), max_size=4, unique=True), st.randoms())
@settings(max_examples=40, deadline=None)
def test_a_fingerprint_is_of_the_keys_in_their_order(keys, random):
    other = random.sample(keys, len(keys))
    assert len(fingerprint(keys)) == 32
    assert (fingerprint(keys) == fingerprint(iter(other))) == (keys == other)


def test_a_fingerprint_sees_where_a_key_ends():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
