"""Auto-augments are followed: what their operations show is what is told, and they draw as they would alone."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import SIZES_HW, draws, farthest, place_image, seen_matrix
from timm.data import auto_augment as timm_augment
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, autoaugment, v2
from torchvision.transforms import functional as functional_v1
from torchvision.transforms import transforms as v1
from torchvision.transforms.v2 import functional as functional_v2

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking import TrackedTransform
from relabel.tracking.auto_augment import handler_for

_COLOURS = (
    "adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_sharpness", "autocontrast", "equalize",
    "invert", "posterize", "solarize",
)  # fmt: skip
_BLACK = {"translate_const": 60, "img_mean": (0, 0, 0)}
_POLICIES = ("v0", "v0r", "original-mstd0.5", "originalr", "3a")
_CONFIGS = (
    "rand-m9-mstd0.5", "rand-m9-mstd0.5-inc1", "rand-m9-n3-mstd101-inc1-p0.9", "rand-m15-mmax20-tweights", "rand-t3a",
    "rand-m6-t3aw-inc1",
)  # fmt: skip
_TORCHVISION = (
    *(v.AutoAugment(policy) for v in (autoaugment, v2) for policy in autoaugment.AutoAugmentPolicy),
    *(v.RandAugment(2, 20) for v in (autoaugment, v2)),
    *(v.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR, fill=0) for v in (autoaugment, v2)),
)


def _timm(config: str) -> Any:
    make = timm_augment.rand_augment_transform if config[:4] == "rand" else timm_augment.auto_augment_transform
    return make(config, dict(_BLACK))


def _place_bytes(height: int, width: int) -> Tensor:
    return torch.from_numpy(np.array(place_image(height, width))).permute(2, 0, 1)


def _farthest(step: Any, image: Any) -> tuple[float, View | None]:
    handler = handler_for(step)
    assert handler is not None
    output, view = handler(step, image)
    assert not isinstance(view, tuple)
    seen = seen_matrix(output / 255 if isinstance(output, Tensor) else output)
    return farthest(seen, view or View.whole()), view


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_each_of_timms_operations_shows_what_is_told(size_hw: tuple[int, int]) -> None:
    # Half a pixel of the least image is 8 thousandths of a side; Pillow rounds a code of 255 down.
    for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel", "Rotate"):
        views = set()
        for seed in range(4):
            random.seed(seed)
            error, view = _farthest(timm_augment.AugmentOp(name, 1.0, 10, dict(_BLACK)), place_image(*size_hw))
            assert error < 0.006
            views.add(view)
        assert len(views) == 2, "both signs, and both are strong"
    others = timm_augment.NAME_TO_OP.keys() - {"Rotate"}
    for name in (each for each in others if not each.startswith(("Shear", "Translate"))):
        operation = timm_augment.AugmentOp(name, 1.0, 5)
        assert handler_for(operation)(operation, place_image(*size_hw))[1] is None  # type: ignore[misc]


@pytest.mark.parametrize("version", [autoaugment, v2])
@pytest.mark.parametrize("load", [place_image, _place_bytes])
@pytest.mark.parametrize("interpolation", [InterpolationMode.NEAREST, InterpolationMode.BILINEAR])
def test_each_of_torchvisions_operations_shows_what_is_told(
    version: Any, load: Callable[..., Any], interpolation: Any, without_colours: None
) -> None:
    kinds = set()
    for size_hw in draws(10):
        error, view = _farthest(version.TrivialAugmentWide(interpolation=interpolation), load(*size_hw))
        assert error < 0.006
        (a, b, c), (d, _, f) = (view or View.whole()).as_matrix()
        kinds.add((a != 1, b != 0, c != 0, d != 0, f != 0))
    assert len(kinds) == 6, "two shears, two shifts, a turn, and none"


@pytest.fixture
def without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations that change colours leave them, so that these say where they are."""
    for functional in (functional_v1, functional_v2):
        for name in _COLOURS:
            monkeypatch.setattr(functional, name, lambda image, *given, **named: image)


@pytest.mark.parametrize("config", [*_POLICIES, *_CONFIGS])
def test_timms_policies_are_followed(config: str) -> None:
    step = _timm(config)
    for operation in chain.from_iterable(step.policy) if config in _POLICIES else step.ops:
        if timm_augment.NAME_TO_OP[operation.name].__name__.split("_")[0] not in ("shear", "translate", "rotate"):
            operation.prob = 0.0
    found = [_farthest(step, place_image(*size_hw)) for size_hw in draws(4)]
    assert max(error for error, _ in found) < 0.02
    assert (len({view for _, view in found}) > 1) == (config not in ("3a", "rand-t3a"))


@pytest.mark.parametrize("step", _TORCHVISION, ids=repr)
def test_torchvisions_policies_are_followed(step: Any, without_colours: None) -> None:
    torch.manual_seed(0)
    found = [_farthest(step, place_image(*size_hw)) for size_hw in SIZES_HW * 3]
    assert max(error for error, _ in found) < 0.02
    assert len({view for _, view in found}) > 1


@pytest.mark.parametrize(
    "step", [*map(_timm, (*_POLICIES, *_CONFIGS)), *_TORCHVISION], ids=lambda step: repr(step)[:60]
)
def test_a_followed_step_draws_and_does_what_it_does_alone(step: Any) -> None:
    tracked = pickle.loads(pickle.dumps(TrackedTransform(step)))
    image = place_image(40, 50)
    for seed in range(4):
        ends = []
        for run in (step, lambda image: tracked(image)[0]):
            random.seed(seed)
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - what timm draws from
            output = run(image)
            ends.append((output.tobytes(), random.random(), float(torch.rand(())), np.random.random()))  # noqa: NPY002
        assert ends[0] == ends[1]


def test_a_step_is_left_as_it_was() -> None:
    for step in (_timm("v0"), _timm("rand-m9"), autoaugment.RandAugment(), v2.RandAugment()):
        before = dict(step.__dict__), autoaugment._apply_op
        TrackedTransform(step)(place_image(20, 30))
        assert (step.__dict__, autoaugment._apply_op) == before


def test_in_a_trainers_pipeline_the_map_is_that_of_crop_flip_and_auto_augment(without_colours: None) -> None:
    transform = v1.Compose([v1.RandomResizedCrop(96), v1.RandomHorizontalFlip(), v2.RandAugment(2, 20), v1.ToTensor()])
    tracked = TrackedTransform(transform)
    views = []
    for size_hw in draws(8):
        output, view = tracked(place_image(*size_hw))
        views.append(view)
        if (output[2] > 0.99).float().mean() > 0.3:
            assert farthest(seen_matrix(output), view) < 0.02
    assert {view.matrix is None for view in views} == {True, False}
    made = create_transform(96, is_training=True, auto_augment="rand-m9-mstd0.5-inc1")
    assert TrackedTransform(made)(place_image(60, 90))[1].is_exact


class _Own(v2.RandAugment):
    def forward(self, *inputs: Any) -> Any:
        return super().forward(super().forward(*inputs))


def _turned(image: Image.Image, *given: Any, **named: Any) -> Image.Image:
    return image.rotate(90)


def _changed(**attributes: Any) -> Any:
    step = _timm("rand-m9")
    step.ops[3].__dict__.update(attributes)
    return step


@pytest.mark.parametrize(
    "step",
    [
        _Own(), autoaugment.AugMix(), v2.AugMix(), timm_augment.augment_and_mix_transform("augmix-m3"),
        _changed(aug_fn=_turned), _changed(aug_fn=v2.functional.rotate), _changed(kwargs={"expand": True}),
        timm_augment.RandAugment([*_timm("rand-m9").ops, _turned], 2), v2.ColorJitter(), _turned,
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_not_the_librarys_own_is_not_followed(step: Any) -> None:
    assert handler_for(step) is None


class _FewOperations(autoaugment.RandAugment):
    def _augmentation_space(self, *given: Any) -> Any:
        space = super()._augmentation_space(*given)
        return {name: space[name] for name in ("Rotate", "ShearX", "Identity")}


class _Turned(autoaugment.TrivialAugmentWide):
    def forward(self, img: Any) -> Any:
        return super().forward(img).rotate(20)


def test_a_child_of_ones_own_is_proved_or_refused() -> None:
    tracked = TrackedTransform(_FewOperations(2, 20))
    found = [tracked(place_image(*size_hw)) for size_hw in draws(3)]
    assert max(farthest(seen_matrix(output), view) for output, view in found) < 0.02
    assert any(view.matrix for _, view in found)
    with pytest.raises(InvalidValueError, match="through _Turned"):
        TrackedTransform(_Turned())


def test_a_function_of_the_library_that_was_exchanged_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoaugment, "_apply_op", _turned)
    assert handler_for(autoaugment.RandAugment()) is None
    assert handler_for(v2.RandAugment()) is not None


def test_an_operation_that_is_exchanged_later_is_not_followed_blindly() -> None:
    step = timm_augment.RandAugment([timm_augment.AugmentOp("Rotate", 1.0)], 1)
    tracked = TrackedTransform(step)
    step.ops[0].aug_fn = _turned
    with pytest.raises(InvalidValueError, match="the operation _turned, which is not one of auto_contrast"):
        tracked(place_image(8, 9))
