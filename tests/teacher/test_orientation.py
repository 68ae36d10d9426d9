"""The right way round: what changes in a corner of the image must show in that corner of the map."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher.orientation import localises

TURNED = {
    "transposed": lambda m: m.transpose(2, 3),
    "flipped left to right": lambda m: m.flip(3),
    "upside down": lambda m: m.flip(2),
    "turned half round": lambda m: m.flip(2, 3),
    "read column by column": lambda m: m.transpose(2, 3).reshape(m.shape),
}


def _answer(images):
    """Five classes of each 16 x 16 cell's mean colour."""
    weight = torch.linspace(-1, 1, 15).reshape(5, 3, 1, 1)
    return nn.functional.conv2d(nn.functional.avg_pool2d(images, 16), weight)


def _noise(height, width):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 112), (112, 48), (16, 64), (64, 16), (16, 16), (70, 90)])
def test_a_map_the_right_way_round_localises(size_hw):
    assert localises(_answer, "mine", _noise(*size_hw))


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 112), (112, 48)])
@pytest.mark.parametrize("turn", TURNED)
def test_a_map_the_wrong_way_round_is_refused_with_where_a_change_shows(turn, size_hw):
    with pytest.raises(TeacherError, match=r"mine is transposed, flipped .* row \d+, column \d+ .* shows at row"):
        localises(lambda images: TURNED[turn](_answer(images)), "mine", _noise(*size_hw))


@pytest.mark.parametrize("turn", TURNED)
def test_mixing_the_whole_image_into_every_cell_does_not_hide_a_wrong_way_round(turn):
    def answer(images):
        local = TURNED[turn](_answer(images))
        return local + 5 * local.mean((2, 3), keepdim=True)

    with pytest.raises(TeacherError, match="mine is transposed, flipped"):
        localises(answer, "mine", _noise(64, 64))


def test_a_little_mixing_of_the_whole_image_into_every_cell_does_not_hide_where_a_change_was():
    def answer(images):
        local = _answer(images)
        return 0.2 * local + local.mean((2, 3), keepdim=True) * torch.linspace(5, 50, local.shape[3])

    assert localises(answer, "mine", _noise(64, 112))


def test_a_map_that_only_knows_the_whole_image_does_not_localise():
    def answer(images):
        local = _answer(images)
        return local.mean((2, 3), keepdim=True) * torch.linspace(1, 2, local.shape[3]).expand_as(local)

    assert not localises(answer, "mine", _noise(64, 112))


def test_rounding_in_a_map_that_never_changes_is_not_taken_for_a_flip():
    def answer(images):
        return 1000 + 1e-4 * _answer(images).flip(3)

    assert not localises(answer, "mine", _noise(64, 112))


def test_a_corner_that_padding_drowns_is_not_taken_for_another_place():
    """A trained convolutional model's corner may answer to its own pixels a twentieth as much as its neighbours do."""

    def answer(images):
        spread = nn.functional.avg_pool2d(_answer(images), 3, 1, 1)
        spread[:, :, :: spread.shape[2] - 1, :: spread.shape[3] - 1] *= 0.05
        return spread

    assert localises(answer, "mine", _noise(112, 64))
