"""Ensembles: several forward passes, one map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from relabel.errors import InvalidValueError, TeacherError
from relabel.geometry import Grid
from relabel.teacher import Ensemble, EnsembleSpec, TeacherSpec, averaged, kept_grid, load_ensemble

PIXELS = torch.randint(0, 256, (3, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def _spec(name="test_resnet", **spec):
    return TeacherSpec(name=name, device="cpu", **({"random_weights": 0} | spec))


def _loaded(*teachers, **averaging):
    return load_ensemble(EnsembleSpec(teachers=teachers, **averaging))


def _at(pixels, ensemble):
    """Pixels for each of an ensemble's views."""
    return [
        torch.nn.functional.interpolate(pixels.float(), view.image_size_hw, mode="bilinear").to(torch.uint8)
        for view in ensemble.views
    ]


def test_one_teacher_alone_answers_its_own_logits(taught):
    teacher = taught("test_resnet")
    ensemble = Ensemble.of(teacher)
    assert (len(ensemble.views), ensemble.grid, ensemble.num_classes) == (1, teacher.grid, teacher.num_classes)
    torch.testing.assert_close(ensemble([PIXELS]), teacher(PIXELS), atol=0, rtol=0)


def test_a_coarser_grid_averages_log_probabilities_and_leaves_their_mean(taught):
    teacher = taught("test_vit")
    ensemble = _loaded(_spec("test_vit"), grid_hw=(5, 2))
    found = ensemble([PIXELS])
    expected = teacher(PIXELS).log_softmax(1)
    assert found.shape == (3, 1000, 5, 2)
    torch.testing.assert_close(found.mean((2, 3)), expected.mean((2, 3)))
    torch.testing.assert_close(found[:, :, 1, 1], expected[:, :, 2:4, 5:].mean((2, 3)))


@pytest.mark.parametrize(
    ("own", "kept"),
    [((15, 16), (15, 16)), ((32, 32), (16, 16)), ((18, 18), (16, 16)), ((20, 30), (11, 16)), ((1, 64), (1, 16))],
)
def test_a_grid_is_kept_up_to_16_cells_a_side_in_its_shape_unless_all_of_it_is_asked_for(own, kept):
    assert kept_grid("auto", Grid(*own)) == Grid(*kept)
    assert kept_grid("teacher", Grid(*own)) == Grid(*own)
    assert kept_grid((40, 3), Grid(*own)) == Grid(40, 3)


def test_a_finer_map_is_averaged_over_cells_as_logs_where_nothing_is_said(taught):
    logits = 9 * torch.randn(2, 6, 32, 24)
    teacher = replace(
        taught("test_resnet"), forward=lambda _: logits, num_classes=6, grid=Grid(32, 24), class_names=None
    )
    found = Ensemble.of(teacher)([PIXELS[:2]])
    cells = logits.log_softmax(1).reshape(2, 6, 16, 2, 12, 2).mean((3, 5))
    torch.testing.assert_close(found, cells)


def _sharp(teacher):
    """The same with logits so far apart that it matters what is averaged."""
    return replace(teacher, forward=lambda images: 40 * teacher.forward(images))


def test_flipping_averages_the_logs_of_an_image_and_its_mirror(taught):
    teacher = _sharp(taught("test_resnet"))
    ensemble = Ensemble(members=(teacher,), grid=teacher.grid, flip_average=True)
    answers = np.stack([teacher(PIXELS), teacher(PIXELS.flip(3)).flip(3)])
    expected = torch.from_numpy(oracle.averaged(answers, axis=2))
    torch.testing.assert_close(ensemble([PIXELS]).double(), expected, atol=1e-4, rtol=1e-5)
    probabilities = torch.from_numpy(answers).softmax(2).mean(0)
    older = replace(ensemble, mean="probability")([PIXELS]).softmax(1)
    torch.testing.assert_close(older, probabilities, atol=1e-5, rtol=1e-3)
    # Far enough that one cannot be taken for the other.
    assert (probabilities - expected.exp()).abs().max() > 0.01


@pytest.mark.parametrize("mean", ["log-probability", "probability"])
def test_a_cell_of_which_one_answer_is_no_number_has_no_average_and_no_other_cell_is_hurt(mean):
    answers = torch.randn(2, 1, 5, 2, 2)
    answers[1, 0, 3, 0, 1] = torch.nan
    found = averaged(answers, mean)
    assert found.isnan().any(1).nonzero().tolist() == [[0, 0, 1]]


def test_the_map_of_a_mirrored_image_is_the_mirrored_map_when_flips_are_averaged():
    ensemble = _loaded(_spec("test_vit"), flip=True)
    upright, mirrored = (ensemble([pixels]).softmax(1) for pixels in (PIXELS, PIXELS.flip(3)))
    torch.testing.assert_close(mirrored, upright.flip(3))


def test_the_logs_of_teachers_and_scales_are_averaged_on_the_grid_of_the_first():
    ensemble = _loaded(_spec(), _spec("test_vit"), scales=(1.0, 1.5))
    sizes = [member.preprocessing.image_size_hw for member in ensemble.members]
    assert sizes == [(160, 160), (256, 256), (160, 160), (240, 240)]
    # A view each: the two are made for other interpolations.
    assert [view.image_size_hw for view in ensemble.views] == sizes
    assert ensemble.grid == Grid(5, 5)
    ensemble = replace(ensemble, members=tuple(map(_sharp, ensemble.members)))
    views = _at(PIXELS, ensemble)
    answers = [
        replace(Ensemble.of(member), grid=ensemble.grid)([view])
        for member, view in zip(ensemble.members, views, strict=True)
    ]
    expected = torch.from_numpy(oracle.averaged(np.stack(answers), axis=2))
    torch.testing.assert_close(ensemble(views).double(), expected, atol=1e-4, rtol=1e-5)


def test_one_view_serves_all_teachers_that_see_the_same_pixels():
    ensemble = _loaded(_spec(), _spec(mean=(0.1, 0.2, 0.3), random_weights=1))
    assert len(ensemble.members) == 2
    assert len(ensemble.views) == 1
    assert len(_loaded(_spec(), _spec(interpolation="bicubic")).views) == 2
    boxed = [_spec(fit="letterbox"), _spec(fit="letterbox", mean=(0.1, 0.2, 0.3))]
    assert len(_loaded(*boxed).views) == 2


def test_a_scale_is_rounded_to_whole_cells():
    ensemble = _loaded(_spec(image_size_hw=(160, 96)), scales=(1.0, 1.3))
    assert [member.preprocessing.image_size_hw for member in ensemble.members] == [(160, 96), (224, 128)]
    ensemble = _loaded(_spec(image_size_hw=(176, 176)), scales=(1.0, 1.25))
    # 176 pixels are 5 cells and a half, and 220 nearly 7.
    assert [member.preprocessing.image_size_hw for member in ensemble.members] == [(176, 176), (224, 224)]


@pytest.mark.parametrize(
    ("specs", "scales", "said"),
    [
        ([_spec(), _spec(classes="imagenet-1k")], (1.0, 1.05), "are one size in whole cells"),
        ([_spec(fit="center"), _spec("test_vit", fit="squash")], (1.0,), "all teachers need one --fit"),
        ([_spec(), _spec(exif="upright")], (1.0,), "all teachers need one --exif"),
        (
            [_spec(fit="center"), _spec(fit="center", image_size_hw=(160, 192))],
            (1.0,),
            "160 x 160 and 160 x 192 pixels show different parts",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(specs, scales, said):
    with pytest.raises(TeacherError, match=said):
        _loaded(*specs, scales=scales)


def test_teachers_of_different_classes_are_refused(taught, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("3\n4\n")
    with pytest.raises(TeacherError, match=r"1000 classes and test_vit 2: .* Give --classes"):
        _loaded(_spec(), _spec("test_vit", classes=str(few)))
    named = replace(taught("test_resnet"), class_names=tuple(f"class {i}" for i in range(1000)))
    other = replace(taught("test_vit"), class_names=tuple(f"class {i + 1}" for i in range(1000)))
    with pytest.raises(TeacherError, match="name their 1000 classes differently"):
        Ensemble(members=(named, other), grid=named.grid)


@pytest.mark.parametrize(
    "options",
    [
        {"scales": ()},
        {"scales": (1.0, 1.0)},
        {"scales": (-1.0,)},
        {"grid_hw": (0, 4)},
        {"teachers": ()},
        {"mean": "logit"},
    ],
)
def test_averaging_of_nothing_is_refused(options):
    with pytest.raises(InvalidValueError):
        EnsembleSpec(**({"teachers": (_spec(),)} | options))
