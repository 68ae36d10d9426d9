"""Every source's teachers are loaded alike: classes kept, cast, on any device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relabel.errors import TeacherError
from relabel.manifest import KeptRecord
from relabel.teacher import TeacherSpec, load_teacher

NAME = "torchvision:shufflenet_v2_x0_5"


def _load(name=NAME, **spec):
    return load_teacher(TeacherSpec(name=name, random_weights=0, image_size_hw=(64, 96), device="cpu", **spec))


@pytest.mark.parametrize("name", ["torchvison:resnet18", "torchvision.resnet18"])
def test_a_source_that_is_none_is_refused_and_names_what_there_is(name):
    with pytest.raises(TeacherError, match=r"package\.module:function"):
        load_teacher(TeacherSpec(name=name, device="cpu"))


def test_classes_of_a_hooked_teacher_can_be_kept(tmp_path, photos):
    (tmp_path / "classes.txt").write_text("7 seven\n3 three\n")
    whole, kept = _load(), _load(classes=str(tmp_path / "classes.txt"))
    assert (kept.num_classes, kept.class_names) == (2, ("seven", "three"))
    torch.testing.assert_close(kept(photos(kept)), whole(photos(kept))[:, [7, 3]])


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "test_vit", "random_weights": 3, "image_size_hw": (96, 128), "fit": "center", "crop": 0.5},
        {"name": "convnextv2_atto", "random_weights": 0, "image_size_hw": (64, 64), "classes": "imagenet-1k"},
        {"name": NAME, "random_weights": 1, "image_size_hw": (64, 64), "mean": (0.1,) * 3, "interpolation": "bicubic"},
        {"name": "colour_teacher:make"},
    ],
    ids=["timm", "a subset", "torchvision", "function"],
)
def test_a_record_says_the_spec_that_made_it(spec):
    made = load_teacher(TeacherSpec(device="cpu", precision="bfloat16", **spec))
    # What is no library's own is used only where it is said again.
    said = {"name": spec["name"]} if made.record.source == "function" else {}
    again = TeacherSpec.of(made.record, made.preprocessing, device="cpu", **said)
    assert (again.name, again.random_weights, again.classes) == (
        spec["name"],
        spec.get("random_weights"),
        spec.get("classes"),
    )
    found = load_teacher(again)
    assert (found.record, found.preprocessing, found.grid) == (made.record, made.preprocessing, made.grid)


def test_a_record_of_files_needs_to_be_told_where_they_are(tmp_path):
    made = _load()
    kept = KeptRecord(selection="file", count=2, of=10, digest="9" * 64)
    saved, few = replace(made.record, weights="checkpoint", seed=None), replace(made.record, kept=kept)
    with pytest.raises(TeacherError, match=r"ran with the weights 'checkpoint' .* give --checkpoint FILE"):
        TeacherSpec.of(saved, made.preprocessing)
    assert TeacherSpec.of(saved, made.preprocessing, checkpoint=tmp_path).checkpoint == tmp_path
    with pytest.raises(TeacherError, match=r"kept 2 of 10 classes by a file \(sha256 999999999999\): give it as --cl"):
        TeacherSpec.of(few, made.preprocessing)
    assert TeacherSpec.of(few, made.preprocessing, classes=None).classes is None
    # A checkpoint that is said stands for recorded random weights too.
    assert TeacherSpec.of(made.record, made.preprocessing, checkpoint=None).random_weights is None


@pytest.mark.parametrize(("how", "most"), [({"channels_last": True}, 1e-4), ({"precision": "bfloat16"}, 0.05)])
def test_a_hooked_teacher_runs_in_channels_last_order_and_in_bfloat16(how, most, photos):
    plain, other = _load(), _load(**how)
    error = (other(photos(other)) - plain(photos(plain))).abs().max() / plain(photos(plain)).abs().max()
    assert other.record.precision == how.get("precision", "float32")
    assert error < most
    assert error > 0 or "precision" not in how


@pytest.mark.cuda
def test_a_hooked_teacher_runs_on_a_gpu(photos):
    on_cpu = _load()
    on_gpu = load_teacher(TeacherSpec(name=NAME, random_weights=0, image_size_hw=(64, 96), device="cuda"))
    assert on_gpu.record.weights_digest == on_cpu.record.weights_digest
    answers = on_gpu(photos(on_cpu)).cpu()
    assert (answers - on_cpu(photos(on_cpu))).abs().max() < 0.05 * answers.abs().max()
