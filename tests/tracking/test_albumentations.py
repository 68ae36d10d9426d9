"""albumentations' pipelines are followed: what they show is what is told, and they draw as they would alone."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray
from PIL import Image
from places import SIZES_HW, farthest, place_image, place_tensor, seen_matrix
from torchvision.transforms import v2

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.tracking import TrackedTransform, ignoring

_LINEAR = cv2.INTER_LINEAR
_PIPELINES: dict[str, Any] = {
    "horizontal flip": lambda: A.HorizontalFlip(),
    "vertical flip": lambda: A.VerticalFlip(),
    "transpose": lambda: A.Transpose(),
    "symmetries": lambda: A.D4(p=1),
    "quarter turns": lambda: A.RandomRotate90(p=1),
    "resized crop": lambda: A.RandomResizedCrop((96, 80)),
    "sized crop": lambda: A.RandomSizedCrop((40, 60), (96, 80)),
    "crop": lambda: A.RandomCrop(50, 60),
    "crop of a padded image": lambda: A.RandomCrop(170, 190, pad_if_needed=True),
    "centre crop": lambda: A.CenterCrop(171, 60, pad_if_needed=True),
    "fixed crop": lambda: A.Crop(5, 7, 60, 55),
    "crop from borders": lambda: A.RandomCropFromBorders(p=1),
    "pad": lambda: A.Pad((3, 9, 12, 5), p=1),
    "pad if needed": lambda: A.PadIfNeeded(161, 170, position="random"),
    "crop and pad": lambda: A.CropAndPad(percent=(-0.2, 0.2), p=1),
    "crop and pad, another size": lambda: A.CropAndPad(px=(-9, 9), keep_size=False, p=1),
    "affine": lambda: A.Affine((0.7, 1.3), (-0.1, 0.1), rotate=(-30, 30), shear=(-15, 15), p=1),
    "affine, whole output": lambda: A.Affine((0.7, 1.3), rotate=(-40, 40), shear=(-15, 15), fit_output=True, p=1),
    "safe rotation": lambda: A.SafeRotate((-60, 60), _LINEAR, p=1),
    "rotation": lambda: A.Rotate((-40, 40), p=1),
    "rotation without border": lambda: A.Rotate((-40, 40), crop_border=True, p=1),
    "resize": lambda: A.SmallestMaxSize(90),
    "a recipe": lambda: A.Compose(
        [
            A.RandomResizedCrop((96, 80)),
            A.OneOf([A.HorizontalFlip(p=1), A.Sequential([A.Transpose(p=1), A.Affine(rotate=(-20, 20), p=1)])], p=0.8),
            A.SomeOf([A.CoarseDropout(p=1), A.RandomRotate90(p=1), A.PadIfNeeded(110, 120, p=1)], 2),
            A.RandomOrder([A.HorizontalFlip(p=1), A.Rotate(10, p=1)], 2),
            A.OneOrOther(A.VerticalFlip(p=1), A.NoOp()),
        ]
    ),
    "motion blur": lambda: A.Compose([A.MotionBlur((15, 15), direction_range=(1, 1), p=1), A.CenterCrop(34, 34)]),
    "replay": lambda: A.ReplayCompose([A.RandomCrop(50, 60), A.Compose([A.HorizontalFlip()])]),
}  # fmt: skip
_COLOURS: dict[str, Any] = {
    "colours": lambda: A.Compose([A.ColorJitter(p=1), A.GaussNoise(p=1), A.RandomResizedCrop((32, 32)), A.Normalize(),
                                  ToTensorV2()]),
    "dropout": lambda: A.Compose([A.GridDropout(p=1), A.Erasing(p=1), A.XYMasking((1, 2), (1, 2), 5, 5, p=1)]),
    "channels": lambda: A.Compose([A.SelectiveChannelTransform([A.Blur(p=1)]), A.RandomScale(p=1)]),
}  # fmt: skip


def _pixels(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


@pytest.mark.parametrize("name", _PIPELINES)
def test_the_view_is_that_of_the_pixels(name: str) -> None:
    step = _PIPELINES[name]()
    tracked, views = TrackedTransform(step), set()
    for seed, size_hw in enumerate(SIZES_HW * 2):
        step.set_random_seed(seed)
        # Not rounded to 8 bits: half a pixel of the least image is 8 thousandths.
        image = place_tensor(*size_hw).float().permute(1, 2, 0).contiguous().numpy()
        output, view = tracked(image)
        assert farthest(seen_matrix(_pixels(output)), view) < 1e-3
        views.add(view)
    assert len(views) > 1 or name == "resize"


@pytest.mark.parametrize("name", [*_PIPELINES, *_COLOURS])
def test_a_pipeline_draws_and_does_what_it_does_alone(name: str) -> None:
    make = (_PIPELINES | _COLOURS)[name]
    image = place_image(60, 70)
    step = make()
    tracked = pickle.loads(pickle.dumps(TrackedTransform(step)))
    step.set_random_seed(5)
    tracked.transform.set_random_seed(5)
    for _ in range(2):
        expected, (output, _) = step(image=np.array(image))["image"], tracked(image)
        assert type(output) is type(expected)
        assert np.array_equal(output, expected)
    assert step.py_random.random() == tracked.transform.py_random.random()
    assert step.random_generator.random() == tracked.transform.random_generator.random()


def test_images_are_arrays_of_three_colours_whatever_they_were() -> None:
    tracked = TrackedTransform(A.Compose([A.CenterCrop(8, 8)]))
    for image in (place_image(9, 9), place_image(9, 9).convert("L"), np.zeros((9, 9, 3), np.uint8)):
        assert tracked(image)[0].shape == (8, 8, 3)


@pytest.mark.parametrize("kind", [A.Perspective, A.ElasticTransform, A.RandomGridShuffle])
def test_what_no_view_tells_is_ignored_and_named_or_refused(
    kind: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignoring, "_noted", set())
    pipeline = A.Compose(
        [A.RandomResizedCrop((32, 32)), A.OneOf([kind(p=1), A.NoOp(p=1)], p=1), A.HorizontalFlip()], seed=1
    )
    with caplog.at_level(logging.WARNING):
        tracked = TrackedTransform(pipeline)
    assert kind.__name__ in caplog.text
    views = [tracked(place_image(40, 50))[1] for _ in range(24)]
    assert {view.is_exact for view in views} == {True, False}
    assert len({view.box for view in views}) > 12
    with pytest.raises(InvalidValueError, match=rf"through {kind.__name__} \(it moves pixels"):
        TrackedTransform(pipeline, geometry="refuse")
    untracked = pickle.loads(pickle.dumps(TrackedTransform(pipeline, untracked=(kind,), geometry="refuse")))
    exact = {untracked(place_image(40, 50))[1].is_exact for _ in range(12)}
    assert exact == {True, False}


class _Own(A.HorizontalFlip):
    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        return img[::-1]


def _upside_down(img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
    return img[::-1]


def _changed(name: str) -> A.HorizontalFlip:
    step = A.HorizontalFlip()
    if name == "image":
        step._key2func[name] = _upside_down
    else:
        setattr(step, name, lambda *given, **named: given)
    return step


@pytest.mark.parametrize(
    "step",
    [_Own(), A.Lambda(image=_upside_down), _changed("apply"), _changed("__call__"),
     _changed("image"), A.SelectiveChannelTransform([A.HorizontalFlip(p=1)])],
    ids=["child", "Lambda", "apply", "call", "image", "channels"],
)  # fmt: skip
def test_what_is_not_the_librarys_own_is_refused_by_name(step: Any) -> None:
    pipeline = A.Compose([A.RandomCrop(8, 8), A.OneOf([step, A.NoOp()])], seed=1)
    with pytest.raises(InvalidValueError, match=f"through {type(step).__name__}"):
        TrackedTransform(pipeline)
    for untracked in (step, pipeline) if type(step) is _Own else (step,):
        tracked = TrackedTransform(pipeline, untracked=(untracked,))
        found = [tracked(place_image(8, 8)) for _ in range(24)]
        assert {output.shape for output, _ in found} == {(8, 8, 3)}
        assert {view.box for _, view in found} == {Box.whole()}
        assert not all(view.is_exact for _, view in found)


class _Grey(A.ImageOnlyTransform):
    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        return img.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)


class _Wrapped:
    """As users hand a pipeline to a data set of torchvision."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        return self.pipeline(image=np.array(image))["image"]  # type: ignore[no-any-return] # untyped


def test_a_transform_of_ones_own_and_a_wrapper_are_proved() -> None:
    pipeline = A.Compose([A.RandomCrop(40, 50), A.HorizontalFlip(), _Grey(p=1)], seed=1)
    for untracked in ((), (_Grey,)):
        output, view = TrackedTransform(pipeline, untracked=untracked)(place_image(60, 80))
        assert output.shape == (40, 50, 3)
        assert view.is_exact is not bool(untracked)
    perspective = v2.Compose([A.Compose([A.Perspective(p=1)]), A.VerticalFlip(p=1), _Wrapped(pipeline)])
    assert TrackedTransform(perspective)(place_image(60, 80))[1].flip_vertical
    pipeline.transforms.pop()
    tracked, flips = TrackedTransform(_Wrapped(pipeline)), set()
    for size_hw in SIZES_HW * 3:
        output, view = tracked(place_image(*size_hw))
        assert farthest(seen_matrix(_pixels(output) / 255), view) < 0.005
        flips.add(view.flip)
    assert flips == {True, False}


def test_a_class_that_is_followed_is_not_left_untracked_by_mistake() -> None:
    with pytest.raises(InvalidValueError, match="the class HorizontalFlip, whose steps are followed"):
        TrackedTransform(A.Compose([A.HorizontalFlip()]), untracked=(A.HorizontalFlip,))


def test_a_method_exchanged_on_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(A.HorizontalFlip, "apply", _Own.apply)
    with pytest.raises(InvalidValueError, match="through HorizontalFlip"):
        TrackedTransform(A.Compose([A.HorizontalFlip()]))


def test_transforms_exchanged_later_are_followed_too() -> None:
    pipeline = A.Compose([A.NoOp()])
    tracked = TrackedTransform(pipeline)
    pipeline.transforms = [A.HorizontalFlip(p=1)]
    assert tracked(place_image(8, 8))[1].flip
    pipeline.transforms.append(_Own())
    with pytest.raises(InvalidValueError, match="through _Own"):
        tracked(place_image(8, 8))


def test_a_pipeline_is_a_step_among_others() -> None:
    tracked = TrackedTransform(v2.Compose([v2.CenterCrop(40), A.HorizontalFlip(p=1), v2.ToImage()]))
    output, view = tracked(place_image(60, 80))
    assert output.shape == (3, 40, 40)
    assert farthest(seen_matrix(output / 255), view) < 0.01
