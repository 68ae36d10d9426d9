"""What `verify labels` measures, against an oracle; which rows and crops it takes; whom it asks; what it recommends."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import oracle
import pytest
import torch
from labeled import label, rewritten, with_scores, write_pictures
from stores import RAW_LOGITS, make_store, random_logits

from relabel.errors import InvalidValueError, TeacherError
from relabel.images.crops import random_crops
from relabel.manifest import KeptRecord, Manifest, Mean, MemberRecord, ScoreRecord
from relabel.reading import Reading
from relabel.score_map import ScoreMap
from relabel.store import StoreReader
from relabel.teacher import TeacherSpec
from relabel.worth import LabelLine, LabelsOptions, RerunOptions, verify_labels
from relabel.worth.causes import NEAR, UNKNOWN, cause
from relabel.worth.fidelity import Fidelity, Tally
from relabel.worth.fitting import Fit, FormLine, Judged
from relabel.worth.rebuilding import rerun_spec
from relabel.worth.recommend import recommend
from relabel.worth.rerun import Rerun
from relabel.worth.sampling import sample_rows
from relabel.worth.scores import compare, planes_apart
from relabel.worth.ways import Answers, Way, labelers, row_bytes, sizes

CLASSES, GRID, STEP = 7, (3, 4), 1 / 8
FOOTPRINTS = np.array([[0.0, 0.0, 1.0, 1.0], [0.125, 0.0, 0.875, 1.0]])
BOXES = np.array([[[0.1, 0.2, 0.7, 0.6], [0.4, 0.0, 0.8, 0.9]], [[0.2, 0.1, 0.6, 0.8], [0.3, 0.3, 0.5, 0.9]]])
TRUTHS = np.array([2, -1])
RECORD = ScoreRecord(num_classes=CLASSES, planes=4, profile=2, grid_hw=GRID, step=STEP)


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    """Two images'."""
    return random_logits(2, CLASSES, GRID, seed=3)


@pytest.fixture(scope="module")
def teacher() -> np.ndarray[Any, Any]:
    """What it says of the two crops of each image, (2, 2, C)."""
    return oracle.softmax(np.random.default_rng(4).normal(0, 2, (2, 2, CLASSES)), axis=2)


@pytest.fixture(scope="module")
def stored(logits: torch.Tensor) -> ScoreMap:
    """Their maps, as a store keeps them."""
    return ScoreMap.from_logits(logits, 4, 2, footprint=torch.tensor(FOOTPRINTS).float()).coded(STEP)


@pytest.fixture(scope="module")
def lines(logits: torch.Tensor, teacher: np.ndarray[Any, Any], stored: ScoreMap) -> dict[str, LabelLine]:
    """The table."""
    fidelity = Fidelity(RECORD)
    answers = Answers(
        stored=stored,
        logits=logits,
        scores=logits.log_softmax(1),
        footprints=torch.tensor(FOOTPRINTS).float(),
        truths=torch.tensor(TRUTHS),
    )
    fidelity.add(answers, torch.tensor(BOXES).float(), torch.tensor(teacher).float())
    return {line.label: line for line in fidelity.lines()}


def coded(scores: Any) -> oracle.Array:
    """Scores as codes round them."""
    return np.round(np.asarray(scores, np.float64) / STEP) * STEP


def rounded(exact: oracle.Map) -> oracle.Map:
    """A map as codes round it."""
    return dataclasses.replace(exact, planes=coded(exact.planes), rest=coded(exact.rest), profile=coded(exact.profile))


def cell_map(image_logits: np.ndarray[Any, Any]) -> oracle.Array:
    """(C, H, W) of the top 5 of each cell and the mean of its others."""
    scores = oracle.log_softmax(image_logits)
    order = np.argsort(-scores, axis=0)
    rest = np.take_along_axis(scores, order[5:], 0).mean(axis=0)
    dense = np.broadcast_to(coded(rest), scores.shape).copy()
    np.put_along_axis(dense, order[:5], coded(np.take_along_axis(scores, order[:5], 0)), axis=0)
    return dense


def published_map(image_logits: np.ndarray[Any, Any]) -> oracle.Array:
    """(C, H, W) of the top 5 of each cell in halves, and 0."""
    listed = image_logits >= np.sort(image_logits, axis=0)[-5]
    return np.where(listed, image_logits.astype(np.float16).astype(np.float64), 0)


def pooled(dense: oracle.Array, image: int, box: oracle.Array) -> oracle.Array:
    """(C,) label of one box from dense scores."""
    cells = oracle.box_in_cells(box, GRID, FOOTPRINTS[image])
    return oracle.softmax(oracle.covered_roi_align(dense, cells))[:, 0, 0]


@dataclasses.dataclass(frozen=True)
class Crop:
    """One box of one image, and the labels that an oracle gives it, (C,)."""

    image: int
    box: oracle.Array
    logits: oracle.Array

    def kept(self, planes: int, profile: int, **options: Any) -> oracle.Array:
        """Of the map that a store keeps."""
        stored = rounded(oracle.score_map(self.logits, planes, profile))
        given = {"box": self.box, "footprint_xyxy": FOOTPRINTS[self.image]} | options
        return oracle.label(stored, given.pop("box"), **given)[:, 0, 0]

    def pooled(self, dense: oracle.Array) -> oracle.Array:
        """Of dense scores (C, H, W)."""
        return pooled(dense, self.image, self.box)

    def averaged(self, dense: oracle.Array) -> oracle.Array:
        """Of dense probabilities (C, H, W)."""
        return oracle.covered_roi_align(dense, oracle.box_in_cells(self.box, GRID, FOOTPRINTS[self.image]))[:, 0, 0]


EXPECTED = {
    "all logits, logit space": lambda crop: crop.pooled(oracle.log_softmax(crop.logits)),
    "all logits, probability space": lambda crop: crop.averaged(oracle.softmax(crop.logits)),
    "stored: 4 planes + profile of 2, logit space": lambda crop: crop.kept(4, 2),
    "stored: 4 planes + profile of 2, probability space": lambda crop: crop.kept(4, 2, space="probability"),
    "2 planes": lambda crop: crop.kept(2, 0),
    "stored, one label for the whole image": lambda crop: crop.kept(4, 2, box=oracle.WHOLE),
    "stored, box with x and y swapped": lambda crop: crop.kept(4, 2, box=crop.box[[1, 0, 3, 2]]),
    "cell top-5, mean of the rest": lambda crop: crop.pooled(cell_map(crop.logits)),
    "cell top-5, zero fill, as published": lambda crop: crop.pooled(published_map(crop.logits)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_line_of_the_table_is_what_the_oracle_says(
    name: str, lines: dict[str, LabelLine], logits: torch.Tensor, teacher: np.ndarray[Any, Any]
) -> None:
    scores = logits.double().numpy()
    labels = np.array(
        [[EXPECTED[name](Crop(image, BOXES[image, crop], scores[image])) for crop in range(2)] for image in range(2)]
    )
    full = np.array([[pooled(oracle.log_softmax(scores[i]), i, BOXES[i, j]) for j in range(2)] for i in range(2)])
    line = lines[name]
    apart = np.array([[oracle.kl_divergence(teacher[i, j], labels[i, j]) for j in range(2)] for i in range(2)])
    from_full = [oracle.kl_divergence(full[i, j], labels[i, j]) for i in range(2) for j in range(2)]
    likeliest = labels.argmax(2)
    assert line.kl_teacher == pytest.approx(apart.mean(), abs=2e-4)
    # Crops of one image are alike, so that images are what the error is of.
    assert line.kl_teacher_error == pytest.approx(apart.mean(1).std(ddof=1) / math.sqrt(2), abs=2e-4)
    assert line.kl_full == pytest.approx(np.mean(from_full), abs=2e-4)
    assert line.agreement_teacher == (likeliest == teacher.argmax(2)).mean()
    assert line.agreement_full == (likeliest == full.argmax(2)).mean()
    assert line.agreement_truth == (likeliest[0] == TRUTHS[0]).mean()
    assert line.entropy == pytest.approx(-(labels * np.log(labels)).sum(2).mean(), abs=2e-4)


def test_lines_without_a_map_are_of_the_teacher_and_of_the_images_with_a_ground_truth(
    lines: dict[str, LabelLine], teacher: np.ndarray[Any, Any]
) -> None:
    own, hard, smooth = (
        lines[name] for name in ("the teacher on the crop", "ground truth, one-hot", "ground truth, smoothed 0.1")
    )
    assert own.kl_teacher == pytest.approx(0, abs=1e-6)
    assert own.entropy == pytest.approx(-(teacher * np.log(teacher)).sum(2).mean(), abs=1e-5)
    assert (hard.kl_teacher, hard.entropy, hard.agreement_truth) == (math.inf, 0, 1)
    smoothed = np.full(CLASSES, 0.1 / CLASSES)
    smoothed[TRUTHS[0]] += 0.9
    apart = [oracle.kl_divergence(teacher[0, crop], smoothed) for crop in range(2)]
    assert smooth.kl_teacher == pytest.approx(np.mean(apart), abs=1e-5)


def test_bytes_are_those_of_a_stores_files(tmp_path: Path) -> None:
    for compression in ("zstd", "none"):
        path = tmp_path / f"{compression}.zarr"
        make_store(path, [["a", "b", "c"]], random_logits(3, 12, (5, 6)), compression=compression)
        reader = StoreReader(path)
        names = [path / name / reader.arrays[name].file_name(0) for name in ("scores", "classes", "profile")]
        # A shard's own: two checksums of raw arrays and one of the index.
        stored = sum(file.stat().st_size for file in names) - 3 * 4
        assert sum(row_bytes(reader.read(np.arange(3)), compression)) == stored


def test_smaller_and_larger_maps_are_tried_within_the_number_of_classes() -> None:
    default = ScoreRecord(num_classes=1000, planes=16, profile=64, grid_hw=(7, 7))
    assert (16, 64) not in sizes(default)
    assert {(32, 64), (16, 128), (16, 0), (8, 64), (8, 0), (4, 64), (4, 0)} <= set(sizes(default))
    few = ScoreRecord(num_classes=5, planes=2, profile=3, grid_hw=(7, 7))
    assert all(planes >= 1 and profile >= 0 and planes + profile <= 5 for planes, profile in sizes(few))
    imported = ScoreRecord(num_classes=1000, planes=300, grid_hw=(7, 7), **RAW_LOGITS)
    assert (16, 64) in sizes(imported)


@pytest.mark.parametrize("count", [1, 3, 10, 11, 50])
def test_rows_are_sampled_evenly_each_once_and_by_the_seed(count: int, tmp_path: Path) -> None:
    keys = [f"{number:02d}" for number in range(11)]
    make_store(tmp_path / "labels.zarr", [keys[:6], keys[6:]], random_logits(11, 9, (2, 2)), failed=frozenset({"03"}))
    reader = StoreReader(tmp_path / "labels.zarr")
    labeled = [key for key in keys if key != "03"]
    several = [[row.key for row in sample_rows(reader, count, seed)] for seed in range(80)]
    for sampled in several:
        assert sampled == sorted(set(sampled))
        assert len(sampled) == min(count, 10)
        places = [labeled.index(key) for key in sampled]
        assert all(len(sampled) * place // 10 <= i + 1 for i, place in enumerate(places))
    assert {key for sampled in several for key in sampled} == set(labeled)
    assert several[0] == [row.key for row in sample_rows(reader, count, 0)]


def test_crops_are_torchvisions_and_leave_its_random_state_alone() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    crops = random_crops((90, 300), 200, "a seed")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random_crops((90, 300), 3, "a seed") == crops[:3] != random_crops((90, 300), 3, "another")
    top, left, height, width = np.array(crops).T
    areas, ratios = height * width / (90 * 300), width / height
    assert (areas.min() < 0.12, areas.max() <= 1, areas.min() > 0.07) == (True, True, True)
    assert (ratios.min() > 0.7, ratios.max() < 1.4) == (True, True)
    assert ((top >= 0) & (left >= 0) & (top + height <= 90) & (left + width <= 300)).all()


def manifest_of(tmp_path: Path, **teacher: Any) -> Manifest:
    """A manifest, of test_vit with random weights unless something else is said."""
    path = tmp_path / "any.zarr"
    if not path.exists():
        make_store(path, [["a"]], random_logits(1, 1000, (10, 10)))
    old = StoreReader(path).manifest
    record = {"source": "timm", "name": "test_vit", "weights": "random", "weights_digest": "1" * 64} | teacher
    if record["weights"] == "random":
        record = {"seed": 3} | record
    return dataclasses.replace(
        old,
        teacher=dataclasses.replace(old.teacher, **record),
        preprocessing=dataclasses.replace(old.preprocessing, image_size_hw=(160, 160)),
    )


def test_the_teacher_is_built_again_from_what_the_manifest_says(tmp_path: Path) -> None:
    spec = rerun_spec(manifest_of(tmp_path, precision="bfloat16"), RerunOptions(device="cpu"))
    (only,) = spec.teachers
    assert spec.grid_hw == (10, 10)
    assert (only.name, only.random_weights, only.checkpoint) == ("test_vit", 3, None)
    assert (only.image_size_hw, only.mean, only.std) == ((160, 160), (0.5,) * 3, (0.5,) * 3)
    averaging = dataclasses.replace(manifest_of(tmp_path), flip_average=True)
    for mean in get_args(Mean):
        again = rerun_spec(dataclasses.replace(averaging, mean=mean), RerunOptions(device="cpu"))
        assert (again.flip, again.mean) == (True, mean)
    # The CPU gains nothing by the half precision that a GPU was given.
    assert only.precision == "float32"
    (pretrained,) = rerun_spec(
        manifest_of(tmp_path, weights="pretrained", seed=None), RerunOptions(device="cpu")
    ).teachers
    assert (pretrained.random_weights, pretrained.checkpoint) == (None, None)
    subset = manifest_of(tmp_path, kept=KeptRecord(selection="imagenet-1k", count=1000, of=21841, digest="1" * 64))
    assert rerun_spec(subset, RerunOptions(device="cpu")).teachers[0].classes == "imagenet-1k"


def test_what_only_the_user_knows_is_asked_for(tmp_path: Path) -> None:
    unknown = manifest_of(tmp_path, weights="checkpoint", seed=None)
    with pytest.raises(TeacherError, match="and not where they are: give --checkpoint FILE"):
        rerun_spec(unknown, RerunOptions(device="cpu"))
    with pytest.raises(TeacherError, match="kept 10 of 1000 classes by a file"):
        rerun_spec(
            manifest_of(tmp_path, kept=KeptRecord(selection="file", count=10, of=1000, digest="1" * 64)),
            RerunOptions(device="cpu"),
        )
    with pytest.raises(TeacherError, match=r"written by another program .* no teacher to run again"):
        rerun_spec(dataclasses.replace(manifest_of(tmp_path), preprocessing=None), RerunOptions(device="cpu"))
    weights = tmp_path / "weights.pt"
    (found,) = rerun_spec(unknown, RerunOptions(device="cpu", checkpoint=(weights,))).teachers
    assert found.checkpoint == weights
    with pytest.raises(InvalidValueError, match="1 teachers and 2 times --checkpoint"):
        rerun_spec(unknown, RerunOptions(device="cpu", checkpoint=(weights, None)))
    with pytest.raises(TeacherError, match=r"maps of 1000 classes, and labeled:first .* answers 20"):
        Rerun(manifest_of(tmp_path), RerunOptions(device="cpu", teachers=("labeled:first",)))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("function", "labeled:first"),
        ("function", "os:abort"),
        ("timm", "os:abort"),
        ("timm", "hf-hub:someone/model"),
        ("timm", "hf_hub:someone/model"),
        ("timm", "local-dir:/etc"),
        ("timm", "/etc/passwd"),
        ("timm", "resnet18/../../x"),
        ("transformers", "transformers:someone/model"),
        ("transformers", "transformers:vit"),
        ("torchvision", "resnet18"),
        ("torchvision", "torchvision:../x"),
        ("other", "test_vit2"),
        ("timm", "test_vit\n"),
        ("timm", " "),
    ],
)
def test_a_name_that_is_no_librarys_own_must_be_said_again(source: str, name: str, tmp_path: Path) -> None:
    foreign = manifest_of(tmp_path, source=source, name=name)
    with pytest.raises(TeacherError, match="give it again as --teacher NAME") as refused:
        rerun_spec(foreign, RerunOptions(device="cpu"))
    assert repr(name) in str(refused.value)
    # In whatever place of several, and whatever else is said of them.
    second = dataclasses.replace(
        manifest_of(tmp_path), others=(MemberRecord(teacher=foreign.teacher, preprocessing=foreign.preprocessing),)
    )
    with pytest.raises(TeacherError, match="give it again as --teacher NAME"):
        rerun_spec(second, RerunOptions(device="cpu", checkpoint=(tmp_path / "weights.pt", None)))
    (repeated,) = rerun_spec(foreign, RerunOptions(device="cpu", teachers=(name,))).teachers
    assert (repeated.name, repeated.random_weights) == (name, 3)


def test_classes_of_a_file_that_a_manifest_names_are_not_read(tmp_path: Path) -> None:
    record = KeptRecord(selection="/etc/hostname", count=10, of=1000, digest="1" * 64)
    with pytest.raises(TeacherError, match="give it as --classes FILE"):
        rerun_spec(manifest_of(tmp_path, kept=record), RerunOptions(device="cpu"))


def test_crops_are_answered_by_the_models_own_head(tmp_path: Path) -> None:
    rerun = Rerun(manifest_of(tmp_path), RerunOptions(device="cpu"))
    member = rerun.ensemble.members[0]
    crops = [torch.randint(0, 256, (3, 160, 160), dtype=torch.uint8) for _ in range(2)]
    forward: Any = member.forward
    with torch.inference_mode():
        own = forward.model(member.normalised(torch.stack(crops))).softmax(1)
    assert rerun.is_own_answer
    torch.testing.assert_close(rerun.answers(crops), own)
    # A class token's answer is not the mean over the cells.
    assert (rerun.maps([torch.stack(crops)]).mean((2, 3)).softmax(1) - own).abs().max() > 1e-5
    assert "are not those that the manifest tells of test_vit" in next(rerun.findings())


def test_crops_are_shown_at_the_size_that_is_asked_for_whatever_the_maps_fit(tmp_path: Path) -> None:
    made = manifest_of(tmp_path, name="test_resnet", seed=0)
    made = dataclasses.replace(made, preprocessing=dataclasses.replace(made.preprocessing, fit="center"))
    rerun = Rerun(made, RerunOptions(device="cpu", crop_size_hw=(64, 64)))
    assert rerun.crop_size_hw == (64, 64)
    wide = torch.zeros(3, 40, 160, dtype=torch.uint8)
    changed = wide.clone()
    # Outside the centre, which is all that a map of these images is made from.
    changed[:, :, :50] = 255
    before, after = rerun.answers([wide]), rerun.answers([changed])
    assert (before - after).abs().max() > 1e-6


def tallied(kinds: dict[str, tuple[Way, float, int]], truth: float = 0.9) -> dict[str, Tally]:
    """Tallies whose KL is the same for 30 images, with a little noise."""
    noise = torch.linspace(-1e-4, 1e-4, 30, dtype=torch.float64)
    found = {}
    for name, (way, kl, size) in kinds.items():
        tally = found[name] = Tally(dataclasses.replace(way, name=name), bytes_each=[size])
        values = {"kl_teacher": kl, "agreement_full": 0.99, "agreement_truth": truth, "entropy": 2.0}
        for key, value in values.items():
            tally.add(key, (value + noise)[:, None])
    return found


def table(**changed: Any) -> dict[str, Tally]:
    """A table of a good store; `changed` are KLs of lines."""
    kl = {"logit": 0.4, "probability": 1.2, "half": 0.41, "quarter": 0.5, "double": 0.39} | {
        "whole": 0.6,
        "swapped": 0.6,
        "limit": 0.3,
    }
    kl |= changed

    def size(planes: int) -> Way:
        return Way(name="", kind="size", space="logit", planes=planes, profile=64)

    stored = Way(name="", kind="stored", space="logit", planes=16, profile=64)
    return tallied(
        {
            "limit": (Way(name="", kind="limit", space="logit"), kl["limit"], 0),
            "logit": (stored, kl["logit"], 1000),
            "probability": (dataclasses.replace(stored, space="probability"), kl["probability"], 1000),
            "double": (size(32), kl["double"], 2000),
            "half": (size(8), kl["half"], 600),
            "quarter": (size(4), kl["quarter"], 300),
            "whole": (Way(name="", kind="whole image", space="logit"), kl["whole"], 0),
            "swapped": (Way(name="", kind="swapped", space="logit"), kl["swapped"], 0),
        }
    )


KEPT = ScoreRecord(num_classes=1000, planes=16, profile=64, grid_hw=(7, 7))


def read(kl: float) -> Judged:
    """A fit that keeps 1 / T, whose KL this is, held out."""

    def line(form: str, kl: float) -> FormLine:
        rest = dict.fromkeys(("difference", "error", "top1", "top1_as_is", "top1_error"), 0.0)
        return FormLine(form=form, numbers=(1.2, 0, 0, 0), kl=kl, **rest)

    lines = (line("as is", 0.4), line("1 / T", kl))
    fit = Fit(lines=lines, kept="1 / T", reading=Reading(1.2), images=30, samples=30)
    return Judged(fit, torch.full((30,), kl, dtype=torch.float64))


def test_the_recommendation_is_read_from_the_table() -> None:
    advice = recommend(table(), KEPT, read(0.3), covered=1.0, wrong=0)
    assert (advice.space, advice.planes, advice.profile) == ("logit", 8, 64)
    assert (advice.bytes_an_image, advice.warnings) == (600, ())
    assert advice.sentences[0].startswith("Pool in logit space, as pool() does: 0.300 nats from the teacher")
    assert advice.sentences[1].startswith("Read labels by the form '1 / T', which --fit writes beside the store")
    assert "0.300 nats instead of 0.400, on images that" in advice.sentences[1]
    assert advice.sentences[2].startswith("--planes 8 --profile 64 would do")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"probability": 0.2}, {"space": "probability"}),
        # As near as makes no difference; and farther than what is read.
        ({"probability": 0.299}, {"space": "logit"}),
        ({"probability": 0.35}, {"space": "logit"}),
        ({"half": 0.45}, {"planes": 16, "bytes_an_image": 1000}),
        ({"quarter": 0.41}, {"planes": 4, "bytes_an_image": 300}),
    ],
)
def test_what_is_recommended_follows_the_table(changed: dict[str, float], expected: dict[str, Any]) -> None:
    advice = recommend(table(**changed), KEPT, read(0.3), covered=1.0, wrong=0)
    assert {name: getattr(advice, name) for name in expected} == expected


def test_a_smaller_map_that_names_another_class_too_often_would_not_do() -> None:
    tallies = table()
    tallies["half"].values["agreement_full"][0] -= 0.02
    assert recommend(tallies, KEPT, None, covered=1.0, wrong=0).planes == 16


@pytest.mark.parametrize(
    ("changed", "covered", "wrong", "warning"),
    [
        ({"swapped": 0.4}, 1.0, 0, "A box with x and y swapped is not measurably worse"),
        ({"whole": 0.3}, 1.0, 0, "One label for the whole image is not measurably worse"),
        ({}, 0.7, 0, "30% of the area of a crop lies outside"),
        ({}, 1.0, 3, "3 of the stored maps are not this teacher's"),
    ],
)
def test_what_speaks_against_the_labels_is_said(
    changed: dict[str, float], covered: float, wrong: int, warning: str
) -> None:
    (said,) = recommend(table(**changed), KEPT, None, covered=covered, wrong=wrong).warnings
    assert said.startswith(warning)


@pytest.mark.parametrize(("errors", "is_measurable"), [(1.8, False), (2.2, True)])
def test_a_difference_of_less_than_two_standard_errors_is_none(errors: float, is_measurable: bool) -> None:
    tallies = table(swapped=0.6, probability=0.2)
    signs = torch.tensor([1.0, -1.0] * 15, dtype=torch.float64)
    # As wide as makes the difference of 0.2 nats so many standard errors of 30 images.
    for name in ("swapped", "probability"):
        tallies[name].values["kl_teacher"][0] += signs * 0.2 / errors * math.sqrt(29)
    advice = recommend(tallies, KEPT, None, covered=1.0, wrong=0)
    assert (advice.space == "probability") is is_measurable
    assert any("swapped is not measurably worse" in warning for warning in advice.warnings) is not is_measurable


def test_labels_of_other_classes_than_the_datas_are_told() -> None:
    tallies = table()
    for tally in tallies.values():
        tally.values["agreement_truth"] = [torch.full((30,), 0.01, dtype=torch.float64)]
    (said,) = recommend(tallies, KEPT, None, covered=1.0, wrong=0).warnings
    assert said.startswith("The labels name the ground truth of 1.0% of the crops (by chance 0.1%)")
    for entropy, words in ((6.8, "nearly uniform"), (0.01, "nearly one-hot")):
        tallies = table()
        tallies["logit"].values["entropy"] = [torch.full((30,), entropy, dtype=torch.float64)]
        (said,) = recommend(tallies, KEPT, None, covered=1.0, wrong=0).warnings
        assert words in said


def test_a_store_of_a_lower_precision_is_clean_and_its_faults_are_found_all_the_same(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "pictures", 6)
    rough = TeacherSpec(name="labeled:first", precision="bfloat16", device="cpu")
    made = label(images, tmp_path / "labels.zarr", rough, step=1 / 8)
    options = LabelsOptions(
        count=3, crops=1, rerun=RerunOptions(device="cpu", teachers=("labeled:first",)), show_progress=False
    )
    report = verify_labels(made, str(images), options)
    assert report.findings == ()
    assert report.scores.largest > 1e-3
    turned = rewritten(made, tmp_path / "turned.zarr", with_scores(lambda scores: scores.swapaxes(2, 3)))
    (cause,) = verify_labels(turned, str(images), options).causes
    assert cause == "3 of 3 wrong maps: transposed: rows and columns are exchanged"


def test_a_lower_precision_is_allowed_more_in_proportion_to_the_spread_of_the_scores(logits: torch.Tensor) -> None:
    maps = ScoreMap.from_logits(logits, 4, 2).coded(1 / 16)
    spread = logits.std(1).mean()
    for noise, wrong_if_exact, wrong_if_rough in ((0.0, False, False), (0.06, True, False), (0.5, True, True)):
        moved = logits + noise * spread * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        for is_exact, wrong in ((True, wrong_if_exact), (False, wrong_if_rough)):
            found = compare(maps, moved.log_softmax(1), is_exact=is_exact)
            assert [bool(found.faults(image)) for image in range(2)] == [wrong] * 2


def one_map(planes: torch.Tensor) -> ScoreMap:
    """Of the first classes, by planes (K, H, W)."""
    return ScoreMap(torch.arange(len(planes))[None], planes[None], planes.amin(0)[None], num_classes=CLASSES)


def test_what_rounding_hides_has_no_cause_but_that_it_is_near(logits: torch.Tensor) -> None:
    scores = logits.log_softmax(1)[0]
    planes = scores[:4] + 0.4 * torch.randn(scores[:4].shape, generator=torch.Generator().manual_seed(0))
    stored = one_map(planes.clamp(max=0)).coded(1 / 2)
    assert planes_apart(stored, scores[None, :4]).mean() > 0.05
    assert cause(stored, scores, 0.01, is_other=False) == NEAR


@pytest.mark.parametrize(
    ("spread", "stored_of"),
    [(1.0, lambda planes: 2 * planes), (0.05, lambda planes: planes.flip(0, 1, 2))],
    ids=["alike, and far", "close, and unlike"],
)
def test_near_is_both_close_and_alike(spread: float, stored_of: Any, logits: torch.Tensor) -> None:
    scores = (spread * logits).log_softmax(1)[0]
    assert cause(one_map(stored_of(scores[:4])), scores, 0.005, is_other=False) == UNKNOWN


@pytest.mark.parametrize(("cells", "is_wrong"), [(1, False), (6, True)])
def test_a_few_scores_may_be_further_off_than_is_usual(cells: int, is_wrong: bool, logits: torch.Tensor) -> None:
    scores = logits.log_softmax(1)
    maps = ScoreMap.from_logits(logits, CLASSES, 0)
    apart = 0.05 * scores.std(1).mean((1, 2))[0]
    maps.planes[0, -1].view(-1)[:cells] -= apart
    differences = compare(maps, scores, is_exact=True)
    assert differences.largest[0] == pytest.approx(float(apart), rel=0.1)
    assert differences.mean[0] < differences.limits[0, 0]
    assert bool(differences.faults(0)) is is_wrong


def test_a_map_without_the_likeliest_class_is_found(logits: torch.Tensor) -> None:
    scores = logits.log_softmax(1)
    order = scores.mean((2, 3)).argsort(1, descending=True)
    for ids, faults in ((order[:, :3], []), (order[:, 1:4], ["its classes lack"])):
        planes = scores.gather(1, ids[:, :, None, None].expand(-1, -1, *GRID))
        rest = (scores.sum(1) - planes.sum(1)) / (CLASSES - 3)
        made = ScoreMap(ids, planes, rest, num_classes=CLASSES)
        found = compare(made, scores, is_exact=True).faults(0)
        assert [what[:16] for what in found] == faults


def test_raw_logits_are_pooled_as_published_with_other_boxes_too(logits: torch.Tensor) -> None:
    listed = torch.where(logits >= logits.topk(3, 1).values[:, -1:], logits, torch.nan)
    ids, zeros = torch.arange(CLASSES).expand(2, CLASSES), torch.zeros_like(logits[:, 0])
    stored = ScoreMap(ids, listed, zeros, num_classes=CLASSES, holes=True)
    record = ScoreRecord(num_classes=CLASSES, planes=CLASSES, grid_hw=GRID, **RAW_LOGITS)
    truths, whole = torch.tensor([-1, -1]), torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    answers = Answers(stored=stored, logits=logits, scores=logits.log_softmax(1), footprints=whole, truths=truths)
    # Zero fill widens the second to a cell.
    boxes = torch.tensor(BOXES[:, 1]).float()
    labels = {labeler.way.kind: labeler.labels(boxes) for labeler in labelers(answers, record)}
    torch.testing.assert_close(labels["whole image"], stored.pool(whole, fill="zero"))
    torch.testing.assert_close(labels["swapped"], stored.pool(boxes[:, [1, 0, 3, 2]], fill="zero"))


def test_options_that_mean_nothing_are_refused() -> None:
    for name in ("count", "crops", "batch_size"):
        with pytest.raises(InvalidValueError, match=f"{name} must be a whole number"):
            LabelsOptions(**{name: 0})
