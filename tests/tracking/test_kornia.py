"""kornia's batched steps: tickets moved by its ``transform_matrix`` say what every image of the batch shows."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from places import farthest, place_tensor, seen_matrix
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tickets import Tickets, moved, ticket

_SIZE_HW, _BATCH = (96, 128), 6
_CROP = View(Box(0.1, 0.2, 0.7, 0.9), flip=True)
_STEPS: dict[str, Any] = {
    "flips": lambda same: [K.RandomHorizontalFlip(same_on_batch=same), K.RandomVerticalFlip(same_on_batch=same)],
    "affine": lambda same: [K.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10, p=1, same_on_batch=same)],
    "rotation": lambda same: [K.RandomRotation(30, p=0.7, same_on_batch=same)],
    "quarter turns": lambda same: [K.RandomRotation90((-1, 2), p=1, same_on_batch=same)],
    "crop": lambda same: [K.RandomCrop((50, 60), p=1, same_on_batch=same)],
    "resized crop": lambda same: [K.RandomResizedCrop((64, 72), p=1, same_on_batch=same)],
    "resize": lambda same: [K.Resize((50, 60))],
    "pad": lambda same: [K.PadTo((100, 150))],
    "a recipe": lambda same: [
        K.RandomResizedCrop((64, 72), p=1, same_on_batch=same),
        K.RandomHorizontalFlip(same_on_batch=same),
        K.ColorJitter(0.4, 0.4, p=0.0),
        K.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10, p=0.7, same_on_batch=same),
        K.RandomErasing(p=1.0, scale=(0.02, 0.1)),
    ],
}


def _batch() -> tuple[Tensor, Tensor]:
    images = place_tensor(*_SIZE_HW).float().expand(_BATCH, -1, -1, -1).clone()
    return images, torch.from_numpy(np.stack([ticket(5, row, View.whole()) for row in range(_BATCH)]))


@pytest.mark.parametrize("same_on_batch", [False, True])
@pytest.mark.parametrize("name", _STEPS)
def test_moved_tickets_say_what_the_batch_shows(name: str, same_on_batch: bool) -> None:
    step = K.AugmentationSequential(*_STEPS[name](same_on_batch), data_keys=["input"])
    views = set()
    for seed in range(3):
        torch.manual_seed(seed)
        images, tickets = _batch()
        output = step(images)
        read = Tickets.read(moved(tickets, step, _SIZE_HW, output.shape[-2:]))
        assert read.rows.tolist() == list(range(_BATCH))
        for i in range(_BATCH):
            view = list(read.views)[i]
            assert farthest(seen_matrix(output[i]), view) < 1e-3
            views.add(view)
    assert (len(views) > 1) == (name not in ("resize", "pad"))
    assert not same_on_batch or len(views) <= 3


def test_a_crop_that_is_moved_shows_a_part_of_the_image() -> None:
    torch.manual_seed(0)
    step = K.RandomAffine(20, p=1)
    crop = place_tensor(100, 100)[:, 20:90, 10:70].flip(-1).float()
    output = step(crop[None])
    read = Tickets.read(moved(torch.from_numpy(ticket(5, 0, _CROP))[None], step.transform_matrix, (70, 60), (70, 60)))
    assert farthest(seen_matrix(output[0]), next(iter(read.views))) < 1e-3


def test_a_perspective_is_followed_around_its_centre_only() -> None:
    torch.manual_seed(0)
    images, tickets = _batch()
    step = K.AugmentationSequential(K.RandomPerspective(0.5, p=1), data_keys=["input"])
    output = step(images)
    read = Tickets.read(moved(tickets, step.transform_matrix, _SIZE_HW, _SIZE_HW))
    assert not read.views.is_exact.any()
    height, width = _SIZE_HW
    for i in range(_BATCH):
        # The four pixels around the centre.
        seen = output[i, :2, height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1].mean((1, 2))
        told = np.array(list(read.views)[i].as_matrix()) @ (0.5, 0.5, 1)
        assert np.abs(seen.numpy() - told).max() < 1e-3


@pytest.mark.parametrize(
    ("member", "name"),
    [
        (lambda: K.auto.RandAugment(1, 20), "RandAugment"),
        (lambda: K.auto.TrivialAugment(), "TrivialAugment"),
        (lambda: K.ImageSequential(K.RandomHorizontalFlip(p=1)), "ImageSequential"),
        (lambda: torch.nn.Sequential(K.RandomVerticalFlip(p=1)), "Sequential"),
        (lambda: K.RandomJigsaw(p=1), "RandomJigsaw"),
        (lambda: K.RandomElasticTransform(p=1), "RandomElasticTransform"),
    ],
)
def test_a_member_whose_moves_are_in_no_matrix_is_refused(member: Any, name: str) -> None:
    _, tickets = _batch()
    step = K.AugmentationSequential(K.RandomHorizontalFlip(p=1), member(), data_keys=["input"])
    for each in (step, K.AugmentationSequential(step, data_keys=["input"])):
        with pytest.raises(InvalidValueError, match=rf"^{name} may move pixels"):
            moved(tickets, each, _SIZE_HW, _SIZE_HW)


def test_a_step_that_has_seen_no_batch_has_no_matrix() -> None:
    with pytest.raises(InvalidValueError, match="RandomHorizontalFlip has no transform_matrix yet"):
        moved(_batch()[1], K.RandomHorizontalFlip(p=1), _SIZE_HW, _SIZE_HW)
