"""Subsets of a teacher's classes: by name, by file, in the wanted order, with what it lacks."""

from __future__ import annotations

import pytest
import torch

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.classes import KeptClasses, imagenet_classes, kept_classes

IMAGENET_1K = imagenet_classes(1000)


def _file(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("num_classes", "lacking"), [(21841, 1), (11821, 7), (21842, 0), (11221, 9), (1000, 0)])
def test_imagenet_1k_is_found_in_every_larger_imagenet_by_wordnet_id(num_classes, lacking):
    ids = list(imagenet_classes(num_classes))
    kept = kept_classes("imagenet-1k", num_classes, ids, None, "teacher")
    assert kept.numbers.count(-1) == lacking
    assert all(number < 0 or ids[number] == wanted for number, wanted in zip(kept.numbers, IMAGENET_1K, strict=True))
    assert (kept.names[0], kept.names[999]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")
    assert (kept.record.selection, kept.record.count, kept.record.of) == ("imagenet-1k", 1000, num_classes)


def test_a_teacher_of_21841_classes_answers_for_the_1000_of_imagenet_renormalised():
    spec = TeacherSpec(name="convnextv2_atto", random_weights=0, image_size_hw=(64, 64), device="cpu")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    alone = load_teacher(spec)
    few = load_teacher(
        TeacherSpec(name=spec.name, random_weights=0, image_size_hw=(64, 64), device="cpu", classes="imagenet-1k")
    )
    assert few.num_classes == 1000
    assert few.class_names == tuple(IMAGENET_1K.values())
    torch.testing.assert_close(few(images), alone(images))


def test_a_file_says_which_classes_in_which_order(tmp_path):
    path = _file(tmp_path, "7 a dog\n2\ta cat, of kinds\n\n n01440764  a fish \n5\n")
    kept = kept_classes(path, 1000, IMAGENET_1K, None, "teacher")
    assert kept.numbers == (7, 2, 0, 5)
    assert kept.names == ("a dog", "a cat, of kinds", "a fish", "5")
    named = tuple(f"class {number}" for number in range(1000))
    assert kept_classes(path, 1000, IMAGENET_1K, named, "teacher").names == (
        "a dog",
        "a cat, of kinds",
        "a fish",
        "class 5",
    )
    answer = torch.randn(2, 1000, 3, 4, generator=torch.Generator().manual_seed(0))
    model = KeptClasses(lambda images: answer, kept.numbers, torch.device("cpu"))
    torch.testing.assert_close(model(torch.zeros(2, 3, 8, 8)), answer[:, [7, 2, 0, 5]], atol=0, rtol=0)


def test_a_class_that_the_teacher_lacks_has_the_lowest_score_of_the_others_at_every_cell():
    answer = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    logits = KeptClasses(lambda images: answer, (4, -1, 1, -1), torch.device("cpu"))(torch.zeros(2, 3, 8, 8))
    torch.testing.assert_close(logits[:, [0, 2]], answer[:, [4, 1]], atol=0, rtol=0)
    lowest = torch.minimum(answer[:, 4], answer[:, 1])
    for lacking in (1, 3):
        torch.testing.assert_close(logits[:, lacking], lowest, atol=0, rtol=0)


def test_what_a_teacher_lacks_is_told_once(caplog):
    kept_classes("imagenet-1k", 21841, imagenet_classes(21841), None, "convnext")
    assert "convnext lacks 1 of the 1000 classes of imagenet-1k (n04399382 teddy" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n1000\n", "has class 1000; teacher has the classes 0 to 999"),
        ("1\n2\n1\n", "lists class 1 of teacher twice"),
        ("1\ndog\n", "line 2: 'dog' is neither the number of a class nor a WordNet id"),
        ("1\n-1\n", "line 2: '-1' is neither"),
        ("5\n", "lists 1 classes; a soft label needs two"),
        ("1\nn99999999\n", "teacher lacks 1 of the 2 classes"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused(tmp_path, text, said):
    with pytest.raises(TeacherError, match=said):
        kept_classes(_file(tmp_path, text), 1000, IMAGENET_1K, None, "teacher")


def test_an_unknown_subset_is_refused():
    with pytest.raises(TeacherError, match="imagenet-2k: no such file, and no subset of ImageNet"):
        kept_classes("imagenet-2k", 1000, IMAGENET_1K, None, "teacher")


def test_a_subset_of_classes_that_nobody_knows_is_refused():
    with pytest.raises(TeacherError, match="WordNet ids of the 37 classes of teacher are not known"):
        kept_classes("imagenet-1k", 37, (), None, "teacher")


def test_names_are_those_of_pretrained_weights_only(taught):
    assert taught("test_resnet").class_names is None
