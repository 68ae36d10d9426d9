"""Containers and wrappers run their own code, and what they show is seen from the steps inside."""

from __future__ import annotations

import pickle
import random
import threading
from typing import Any

import pytest
import torch
from places import draws, farthest, place_image, seen_matrix
from torch import nn
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.tracking import TrackedTransform

pytestmark = pytest.mark.usefixtures("fewer_draws")


def _crop() -> v1.RandomResizedCrop:
    return v1.RandomResizedCrop(64, (0.3, 1))


CONTAINERS: dict[str, Any] = {
    "v1 apply": lambda: v1.RandomApply([_crop(), v1.RandomHorizontalFlip()]),
    "v1 apply, modules": lambda: v1.RandomApply(nn.ModuleList([_crop(), v1.RandomRotation(9)])),
    "v1 choice": lambda: v1.RandomChoice([_crop(), v1.RandomVerticalFlip(1), v1.Resize(50)], p=[1, 2, 1]),
    "v1 order": lambda: v1.RandomOrder([_crop(), v1.RandomCrop(60), v1.RandomHorizontalFlip()]),
    "v2 apply": lambda: v2.RandomApply([v2.RandomCrop(60), v2.RandomVerticalFlip()]),
    "v2 apply, modules": lambda: v2.RandomApply(nn.ModuleList([v2.RandomCrop(60)])),
    "v2 choice": lambda: v2.RandomChoice([v2.Compose([v2.Resize(80), v2.CenterCrop(64)]), v2.RandomHorizontalFlip(1)]),
    "v2 order": lambda: v2.RandomOrder(
        [v2.RandomZoomOut(side_range=(1, 1.2)), v2.RandomCrop(60), v2.RandomHorizontalFlip()]
    ),
    "nested": lambda: v2.RandomApply([_crop(), v1.RandomApply([v2.RandomOrder([v2.RandomHorizontalFlip(1)])])]),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_ran_inside_a_container_is_told(name: str) -> None:
    transform = v1.Compose([v1.RandomHorizontalFlip(), CONTAINERS[name](), v1.ToTensor()])
    tracked = pickle.loads(pickle.dumps(TrackedTransform(transform)))
    views = []
    for seed, size_hw in enumerate(draws()):
        output, view = tracked(place_image(*size_hw))
        assert farthest(seen_matrix(output), view) < 0.01
        views.append(view)
        torch.manual_seed(seed)
        random.seed(seed)
        assert torch.equal(transform(place_image(*size_hw)), output)
    assert len(set(map(repr, views))) > 3


def test_a_container_of_colours_takes_no_time() -> None:
    colours = v2.RandomOrder([v2.ColorJitter(0.2), v2.RandomApply([v2.GaussianBlur(3)])])
    parts, _ = TrackedTransform(colours)._followed
    assert [handler.__name__ for _, handler in parts] == ["still"]  # type: ignore[attr-defined]


def test_an_unknown_step_in_a_container_is_refused_by_its_own_name() -> None:
    def upside_down(image: Any) -> Any:
        return v1.RandomVerticalFlip(1)(image)

    for container in (v1.RandomApply, v2.RandomChoice):
        with pytest.raises(InvalidValueError, match=r"through \S*upside_down\b") as caught:
            TrackedTransform(container([_crop(), upside_down]))
        assert container.__name__ not in str(caught.value)


def test_a_list_of_steps_that_is_changed_later_is_followed_anew() -> None:
    inner = v1.RandomApply([v1.RandomHorizontalFlip(1)], p=1)
    transform = v1.Compose([v1.CenterCrop(50), inner])
    tracked = TrackedTransform(transform)
    image = place_image(60, 60)
    assert tracked(image)[1].flip
    inner.transforms[0] = v1.RandomVerticalFlip(1)
    transform.transforms[0] = v1.CenterCrop(30)
    output, view = tracked(image)
    assert output.size == (30, 30)
    assert (view.flip, view.flip_vertical) == (False, True)
    assert farthest(seen_matrix(output), view) < 0.01
    transform.transforms.append(v1.Lambda(lambda image: image.rotate(90)))
    with pytest.raises(InvalidValueError, match="through Lambda"):
        tracked(image)
    sequence = nn.Sequential(v1.CenterCrop(50))
    tracked = TrackedTransform(sequence)
    sequence.append(v1.RandomHorizontalFlip(1))
    assert tracked(image)[1].flip


def test_many_threads_ask_one_container() -> None:
    tracked = TrackedTransform(
        v1.Compose([v1.RandomApply([v1.RandomCrop(40), v1.RandomHorizontalFlip()]), v1.ToTensor()])
    )
    errors: list[float] = []

    def ask() -> None:
        for _ in range(20):
            output, view = tracked(place_image(64, 80))
            errors.append(farthest(seen_matrix(output), view))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert max(errors) < 0.01
