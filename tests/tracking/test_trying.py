"""What is not known is tried out: taken if it shows what is guessed, else refused by name."""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import pickle
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from places import draws, farthest, place_image, seen_matrix
from timm.data import create_transform
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import autoaugment, functional, v2
from torchvision.transforms import transforms as v1

from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tracking import TrackedTransform, register_view
from relabel.tracking.keypoints import by_keypoints
from relabel.tracking.noticing import State

pytestmark = pytest.mark.usefixtures("fewer_draws")


def _steps() -> v1.Compose:
    return v1.Compose([v1.RandomResizedCrop(64, (0.3, 1)), v1.RandomHorizontalFlip(), v1.ToTensor()])


class Preset:
    """As scripts keep their transforms."""

    def __init__(self, transforms: Any = None) -> None:
        self.transforms = transforms or _steps()

    def __call__(self, image: Any) -> Any:
        return self.transforms(image)


class TwoViews(Preset):
    """As of contrastive learning."""

    def __call__(self, image: Any) -> Any:
        return [self.transforms(image), self.transforms(image)]


class Stacked(TwoViews):
    def __call__(self, image: Any) -> Any:
        return torch.stack(super().__call__(image))


class Converting(Preset):
    def __call__(self, image: Any) -> Any:
        return 1 - (1 - super().__call__(image.convert("RGB")))


class InTheMiddle:
    def __init__(self) -> None:
        self.steps = {"first": v1.RandomVerticalFlip(), "last": _steps()}

    def __call__(self, image: Any) -> Any:
        return self.steps["last"](self.steps["first"](image).convert("RGB"))


class ManyCrops(nn.Module):
    """Large and small crops, each of its own steps, in lists and modules."""

    def __init__(self) -> None:
        super().__init__()
        self.flip = v2.RandomHorizontalFlip()
        self.crops = nn.ModuleList([v2.RandomResizedCrop(64, (0.4, 1)), v2.RandomResizedCrop(40, (0.2, 0.4))])

    def forward(self, image: Any) -> Any:
        return tuple(functional.to_tensor(crop(self.flip(image))) for crop in self.crops)


class Sequence(nn.Sequential):
    """A child of a sequence."""


class FixedCrop(v1.RandomResizedCrop):
    """A child with a rule of its own to draw."""

    @staticmethod
    def get_params(img: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
        del img, scale, ratio
        return 5, 9, 40, 50


class Turned(v2.Transform):
    """Made of v2's functionals."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        del flat_inputs
        return {"angle": float(torch.rand(()) * 30)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        turned = self._call_kernel(v2.functional.rotate, inpt, **params, interpolation=v1.InterpolationMode.BILINEAR)
        cut = self._call_kernel(v2.functional.center_crop, turned, output_size=[40, 45])
        return self._call_kernel(v2.functional.vertical_flip, cut)


class LeftHalf:
    """Tells what it shows."""

    def __call__(self, image: Any) -> tuple[Any, View]:
        return image.crop((0, 0, image.width // 2, image.height)), View(Box(0.0, 0.0, 0.5, 1.0))


def _twice(crops: Any) -> Any:
    return torch.stack([functional.to_tensor(crop) for crop in crops])


ACCEPTED: dict[str, Any] = {
    "preset": Preset,
    "preset in a preset": lambda: v1.Compose([v1.RandomVerticalFlip(), Preset(Preset())]),
    "two views": TwoViews,
    "two views of a preset": lambda: v1.Compose([v1.RandomVerticalFlip(), TwoViews(Preset())]),
    "stacked views": Stacked,
    "own work around": Converting,
    "own work between": InTheMiddle,
    "many crops": ManyCrops,
    "child of a sequence": lambda: Sequence(v2.ToImage(), v2.RandomCrop(40), v2.ToDtype(torch.float32, scale=True)),
    "child of a crop": lambda: v1.Compose([FixedCrop(64), v1.ToTensor()]),
    "function": lambda: v1.Compose([_steps(), v1.Lambda(lambda image: image.clamp(0, 1)), lambda image: image * 1]),
    "function of several": lambda: v1.Compose([v1.TenCrop(40), v1.Lambda(_twice)]),
    "transform of v2": lambda: v1.Compose([Turned(), v1.ToTensor()]),
    "tells its view": lambda: v1.Compose([LeftHalf(), _steps()]),
    "container of functions": lambda: v1.RandomChoice([_steps(), v1.Compose([lambda image: image, v1.ToTensor()])]),
}


class Posterized:
    """A step of a recipe's own, as its scripts define them."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Any) -> Any:
        return functional.posterize(image, 3) if random.random() < self.p else image


def _reference(*middle: Any) -> Preset:
    """As torchvision's training scripts make them."""
    ends = [
        v1.PILToTensor(),
        v1.ConvertImageDtype(torch.float),
        v1.Normalize((0.5,) * 3, (0.2,) * 3),
        v1.RandomErasing(),
    ]
    return Preset(v1.Compose([v1.RandomResizedCrop(64), v1.RandomHorizontalFlip(), *middle, *ends]))


RECIPES: dict[str, Any] = {
    "timm A1": lambda: create_transform(64, is_training=True, auto_augment="rand-m7-mstd0.5-inc1", re_prob=0.1),
    "timm A3": lambda: create_transform(64, is_training=True, auto_augment="rand-m6-mstd0.5-inc1", vflip=0.5),
    "timm, not augmented": lambda: create_transform(64, is_training=True, no_aug=True),
    "timm, evaluation": lambda: create_transform(64, crop_border_pixels=4),
    "torchvision": _reference,
    "torchvision ra": lambda: _reference(autoaugment.RandAugment()),
    "torchvision ta_wide": lambda: _reference(autoaugment.TrivialAugmentWide()),
    "torchvision augmix": lambda: _reference(autoaugment.AugMix()),
    "torchvision imagenet": lambda: _reference(autoaugment.AutoAugment()),
    "three augments": lambda: _reference(
        v1.RandomChoice([Posterized(1), v1.RandomGrayscale(1), Posterized(0.5)]), v1.ColorJitter(0.3)
    ),
    "torchvision's weights": lambda: models.ResNet18_Weights.IMAGENET1K_V1.transforms(),
}


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_is_refused(name: str) -> None:
    tracked = TrackedTransform(RECIPES[name]())
    for size_hw in draws(1):
        output, view = tracked(place_image(*size_hw))
        assert output.shape[0] == 3
        assert view.is_exact or "augmix" in name


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_shows_what_is_guessed_is_followed(name: str) -> None:
    transform = ACCEPTED[name]()
    tracked = TrackedTransform(transform)
    for size_hw in draws(1):
        output, views = tracked(place_image(*size_hw))
        pairs = [(output, views)] if isinstance(views, View) else list(zip(output, views, strict=True))
        assert max(farthest(seen_matrix(image), view) for image, view in pairs) < 0.015
        assert all(view.is_exact for _, view in pairs)


def test_what_was_tried_is_picklable_and_draws_the_same_numbers() -> None:
    tracked = pickle.loads(pickle.dumps(TrackedTransform(TwoViews())))
    torch.manual_seed(1)
    expected = TwoViews()(place_image(70, 90))
    torch.manual_seed(1)
    outputs, views = tracked(place_image(70, 90))
    assert all(torch.equal(output, other) for output, other in zip(outputs, expected, strict=True))
    assert len(views) == 2
    state = torch.get_rng_state()
    TrackedTransform(TwoViews())
    assert torch.equal(torch.get_rng_state(), state)


def _mirror(image: Any) -> Any:
    return image.flip(-1) if isinstance(image, Tensor) else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


class Mirroring(Preset):
    """Adds a mirroring of its own."""

    def __call__(self, image: Any) -> Any:
        return _mirror(super().__call__(image))


class OneOfTwo(Preset):
    """Two outputs, of which one is made beside its steps."""

    def __call__(self, image: Any) -> Any:
        return [super().__call__(image), functional.to_tensor(_mirror(image))]


class MirroredCrop(v1.RandomResizedCrop):
    """A child that also mirrors."""

    def forward(self, img: Any) -> Any:
        return _mirror(super().forward(img))


class CroppingResize(v1.Resize):
    """A child of what moves nothing."""

    def forward(self, img: Any) -> Any:
        return functional.center_crop(super().forward(img), [40, 40])


class Lying(LeftHalf):
    """Tells the other half."""

    def __call__(self, image: Any) -> tuple[Any, View]:
        return super().__call__(image)[0], View(Box(0.5, 0.0, 1.0, 1.0))


class Tiny:
    """Shows too little to be tried."""

    def __call__(self, image: Any) -> Any:
        return _mirror(functional.resize(image, [8, 8]))


class Flattened:
    """What is no image any more."""

    def __call__(self, image: Any) -> Any:
        return functional.to_tensor(image).flatten()


class Disguised:
    """Says that it is another library's."""

    __module__ = "timm.data.transforms"

    def __call__(self, image: Any) -> Any:
        return _mirror(image)


Disguised.__name__ = Disguised.__qualname__ = "ToTensor"


class MirroredApply(v1.RandomApply):
    """A child of a container that also mirrors."""

    def forward(self, img: Any) -> Any:
        return _mirror(super().forward(img))


class Letterbox:
    """A square, whatever the image's shape, with bars beside it."""

    def __call__(self, image: Any) -> Any:
        return ImageOps.pad(image, (64, 64))


def _with_its_own(name: str) -> v1.ColorJitter:
    step = v1.ColorJitter()
    setattr(step, name, _mirror)
    return step


def _hooked() -> v2.RandomResizedCrop:
    step = v2.RandomResizedCrop(64)
    step.register_forward_hook(lambda _, given, output: _mirror(output))
    return step


REFUSED: dict[str, Any] = {
    "Lambda": lambda: v1.Lambda(_mirror),
    "_mirror": lambda: _mirror,
    "Mirroring": Mirroring,
    "OneOfTwo": OneOfTwo,
    "MirroredCrop": lambda: MirroredCrop(64),
    "CroppingResize": lambda: CroppingResize(90),
    "Lying": Lying,
    "Flattened": Flattened,
    "Letterbox": Letterbox,
    "ToTensor": Disguised,
    "MirroredApply": lambda: MirroredApply([v1.RandomCrop(60)]),
    "Tiny": Tiny,
    "ColorJitter": lambda: _with_its_own("forward"),
    "RandomResizedCrop": _hooked,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        InvalidValueError, match=rf"through {name} \([^)]*(mirrored|another place|takes no image|nothing that could)"
    ) as caught:
        TrackedTransform(v1.Compose([v1.RandomCrop((60, 90), pad_if_needed=True), REFUSED[name]()]))
    assert "untracked=(the step,)" in str(caught.value)
    assert "relabel.register_view" in str(caught.value)


def test_a_class_with_an_exchanged_method_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    original = v2.Transform.forward
    resize = v2.Resize(64)
    monkeypatch.setattr(v2.Transform, "forward", functools.wraps(original)(lambda *given: _mirror(original(*given))))
    with pytest.raises(InvalidValueError, match=r"through Resize \(.*mirrored left to right"):
        TrackedTransform(resize)
    monkeypatch.setattr(v2.Transform, "forward", lambda *given: original(*given))
    assert TrackedTransform(resize)(place_image(20, 30))[1] == View.whole()


def test_a_method_of_a_neighbour_is_not_the_classs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v1.RandomHorizontalFlip, "forward", v1.RandomVerticalFlip.forward)
    with pytest.raises(InvalidValueError, match=r"through RandomHorizontalFlip \(.*another place|mirrored"):
        TrackedTransform(v1.RandomHorizontalFlip(1))


def test_key_points_that_no_affine_map_moved_tell_no_view() -> None:
    for step in (v2.RandomPerspective(0.5, p=1), v2.ElasticTransform(100.0)):
        with pytest.raises(InvalidValueError, match="by no affine map"):
            by_keypoints(step, place_image(60, 80))


def test_nothing_is_tried_without_check() -> None:
    for step in (Preset(), v1.Lambda(lambda image: image)):
        with pytest.raises(InvalidValueError, match=rf"through {type(step).__name__} \(.*check=False\)"):
            TrackedTransform(step, check=False)


def test_a_list_of_steps_is_no_transform() -> None:
    with pytest.raises(InvalidValueError, match=r"through list \(it cannot be called; several steps are a Compose\)"):
        TrackedTransform([v1.CenterCrop(40), v1.ToTensor()])  # type: ignore[arg-type]


def test_a_step_that_cannot_be_copied_is_tried_itself() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, image: Any) -> Any:
            with self.lock:
                return image

    assert TrackedTransform(Locked())(place_image(20, 30))[1] == View.whole()


_GENERATOR = torch.Generator()


def _noisy(image: Any) -> Any:
    return image + 0.05 * torch.randn(image.shape, generator=_GENERATOR)


class _NoisyAndLocked:
    def __init__(self) -> None:
        self.lock, self.random, self.other = threading.Lock(), random.Random(0), np.random.RandomState(0)

    def __call__(self, image: Any) -> Any:
        return image * self.random.uniform(0.5, 1) * self.other.uniform(0.5, 1)


def _noisy_by_closure() -> Any:
    rng = np.random.default_rng(0)
    return lambda image: image * rng.uniform(0.5, 1)


@pytest.mark.parametrize("make", [_noisy_by_closure, lambda: _noisy, _NoisyAndLocked])
def test_the_first_image_is_the_same_as_without_a_trial(make: Any) -> None:
    def first(tracks: bool) -> Any:
        _GENERATOR.manual_seed(0)
        transform = v1.Compose([v1.ToTensor(), make()])
        return (TrackedTransform(transform) if tracks else transform)(place_image(20, 30))

    assert torch.equal(first(tracks=True)[0], first(tracks=False))


def test_a_module_is_tried_again_in_its_other_mode() -> None:
    class Training(nn.Module):
        def forward(self, image: Any) -> Any:
            return _mirror(image) if self.training else image

    step = Training().eval()
    tracked = TrackedTransform(step)
    tracked(place_image(60, 70))
    step.train()
    with pytest.raises(InvalidValueError, match="through Training"):
        tracked(place_image(60, 70))


def test_a_wrapper_given_other_steps_is_followed_anew() -> None:
    preset = Preset()
    tracked = TrackedTransform(preset)
    preset.transforms = v1.Compose([v1.RandomHorizontalFlip(1), v1.ToTensor()])
    output, view = tracked(place_image(60, 70))
    assert view == View(Box.whole(), flip=True)
    assert farthest(seen_matrix(output), view) < 0.01


def _mirror_in_place(image: Tensor) -> Tensor:
    return image.copy_(image.flip(-1))


def test_an_untracked_step_leaves_the_view_inexact_unless_its_class_is_still() -> None:
    image = functional.pil_to_tensor(place_image(60, 60))
    for step, is_exact in ((functional.hflip, False), (_mirror_in_place, False), (v2.Grayscale(), True)):
        _, view = TrackedTransform(v2.Compose([v2.CenterCrop(60), step]), untracked=(step,))(image)
        assert view == View(Box.whole(), is_exact=is_exact)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image)


@pytest.mark.parametrize(
    "step",
    [ImageOps.exif_transpose, _upright, v2.Lambda(ImageOps.exif_transpose)],
    ids=["function", "own function", "Lambda"],
)
def test_what_turns_by_exif_is_followed(step: Any) -> None:
    tracked = TrackedTransform(v2.Compose([step, v2.RandomCrop(48)]))
    for orientation in range(1, 9):
        image = place_image(80, 120)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.info["exif"] = exif.tobytes()
        output, view = tracked(image)
        assert farthest(seen_matrix(output), view) < 0.01


def _around(steps: Any) -> Any:
    return lambda image: functional.to_tensor(steps(image))


def _of_a_keyword(image: Any, steps: Any) -> Any:
    return steps(image)


class Method(Preset):
    """Called by a name of its own."""

    def run(self, image: Any) -> Any:
        return self.transforms(image)


MODULES_OWN = _steps()


def _of_the_module(image: Any) -> Any:
    return MODULES_OWN(image)


CARRIERS: dict[str, Any] = {
    "closure": lambda: _around(v1.RandomCrop(50)),
    "Lambda of a closure": lambda: v1.Lambda(_around(v1.RandomCrop(50))),
    "closure of a closure": lambda: _around(_around_pillow(v1.RandomCrop(50))),
    "partial": lambda: functools.partial(_of_a_keyword, steps=_steps()),
    "method": lambda: Method().run,
    "method of a known step": lambda: _steps().__call__,
    "forward of a known step": lambda: v2.RandomCrop(50).forward,
    "function of the module": lambda: _of_the_module,
}


def _around_pillow(steps: Any) -> Any:
    return lambda image: steps(image)


@pytest.mark.parametrize("name", CARRIERS)
def test_what_a_function_calls_is_followed(name: str) -> None:
    transform = CARRIERS[name]()
    tracked = TrackedTransform(v1.Compose([v1.RandomVerticalFlip(1), transform]))
    torch.manual_seed(3)
    output, view = tracked(place_image(70, 90))
    torch.manual_seed(3)
    again = transform(v1.RandomVerticalFlip(1)(place_image(70, 90)))
    assert farthest(seen_matrix(output), view) < 0.015
    assert view.flip_vertical
    assert (
        torch.equal(functional.to_tensor(output), functional.to_tensor(again))
        if not isinstance(output, Tensor)
        else torch.equal(output, again)
    )


def test_a_step_that_is_added_in_a_functions_pipeline_is_followed() -> None:
    steps = v1.Compose([v1.CenterCrop(40)])
    tracked = TrackedTransform(_around(steps))
    steps.transforms.append(v1.RandomHorizontalFlip(1))
    output, view = tracked(place_image(70, 90))
    assert view.flip
    assert farthest(seen_matrix(output), view) < 0.01


class Curriculum:
    """Crops more the stronger it is; counts its calls."""

    def __init__(self) -> None:
        self.strength, self.calls = 0.0, 0

    def __call__(self, image: Image.Image) -> Image.Image:
        self.calls += 1
        return functional.center_crop(image, [round(side * (1 - self.strength)) for side in image.size[::-1]])


def test_a_tried_step_that_is_changed_later_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Curriculum()
    tracked = TrackedTransform(v2.Compose([step, v2.CenterCrop(30)]))
    with monkeypatch.context() as patched:
        patched.setattr(tracked, "_follow", None)
        for _ in range(3):
            pickle.loads(pickle.dumps(tracked._followed))
            tracked(place_image(60, 60))
    step.strength = 0.4
    # A copy, as a spawned worker gets, has seen nothing before.
    for each in (pickle.loads(pickle.dumps(tracked)), copy.deepcopy(tracked), tracked):
        with pytest.raises(InvalidValueError, match="Curriculum does not show what it tells"):
            each(place_image(60, 60))


def test_what_trainers_keep_their_epoch_in_is_watched() -> None:
    told, epoch = argparse.Namespace(epoch=0), multiprocessing.Value("i", 0)

    class Scheduled:
        def __init__(self) -> None:
            self.told, self.epoch = told, epoch

    before = State.of(Scheduled())
    assert not before.is_other()
    told.epoch = 1
    assert before.is_other()
    after = State.of(Scheduled())
    assert not after.is_other()
    epoch.value = 2
    assert after.is_other()


@pytest.mark.parametrize("is_hook", [True, False])
def test_a_known_step_that_gets_a_hook_or_a_forward_later_is_tried(is_hook: bool) -> None:
    step = v2.RandomHorizontalFlip()
    tracked = TrackedTransform(v2.Compose([step, v2.CenterCrop(30)]))
    tracked(place_image(60, 60))
    if is_hook:
        step.register_forward_hook(lambda _step, _given, output: functional.vflip(output))
    else:
        step.forward = functional.vflip
    with pytest.raises(InvalidValueError, match="RandomHorizontalFlip does not show what it tells"):
        tracked(place_image(60, 60))


def test_a_lambda_is_refused_for_what_it_shows_and_not_registered() -> None:
    with pytest.raises(InvalidValueError, match="Lambda does not show what it tells"):
        TrackedTransform(v2.Lambda(lambda image: image.rotate(30)))
    with pytest.raises(InvalidValueError, match="class Lambda, whose steps may do anything"):
        register_view(v2.Lambda, by_keypoints)


def test_an_ignored_step_inside_does_not_hide_what_a_wrapper_does() -> None:
    with pytest.raises(InvalidValueError, match="through Mirroring"):
        TrackedTransform(Mirroring(v1.Compose([v2.RandomPerspective(p=1), v1.ToTensor()])))
    _, view = TrackedTransform(Preset(v1.Compose([v2.RandomPerspective(p=1), v1.ToTensor()])))(place_image(60, 60))
    assert not view.is_exact


def test_a_class_of_ones_own_is_followed_once_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    class RightHalf:
        def __call__(self, image: Image.Image) -> Image.Image:
            return image.crop((image.width // 2, 0, image.width, image.height))

    with pytest.raises(InvalidValueError, match="through RightHalf"):
        TrackedTransform(RightHalf())
    monkeypatch.setattr("relabel.tracking.finding._REGISTERED", {})
    register_view(RightHalf, lambda step, image: (step(image), View(Box(0.5, 0.0, 1.0, 1.0))))
    output, view = TrackedTransform(v1.Compose([RightHalf(), v1.CenterCrop(40)]))(place_image(60, 120))
    assert farthest(seen_matrix(output), view) < 0.01
    with pytest.raises(InvalidValueError, match="takes a class"):
        register_view(RightHalf(), lambda step, image: (image, None))  # type: ignore[arg-type]


class Counting(Preset):
    """Mirrors every second image, and crops to another size at each."""

    def __init__(self) -> None:
        super().__init__(v1.CenterCrop(40))
        self.flip, self.calls = v1.RandomHorizontalFlip(1), 0

    def __call__(self, image: Any) -> Any:
        self.calls += 1
        self.transforms.size = (40 + self.calls, 40)
        return self.transforms(self.flip(image) if self.calls % 2 else image)


def test_a_wrapper_keeps_what_it_sets_on_itself_and_on_its_steps() -> None:
    step = Counting()
    tracked = TrackedTransform(step)
    assert step.calls == 0
    for call in (1, 2, 3):
        output, view = tracked(place_image(64, 64))
        assert step.calls == call
        assert output.height == 40 + call
        assert view.flip == bool(call % 2)
        assert farthest(seen_matrix(output), view) < 0.01


class InAList:
    """Runs what it is given."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


def test_an_untracked_function_inside_a_wrapper_is_not_followed() -> None:
    wrapper = InAList(v1.CenterCrop(40), _mirror, v1.RandomVerticalFlip(1))
    with pytest.raises(InvalidValueError, match="through InAList"):
        TrackedTransform(wrapper)
    _, view = TrackedTransform(wrapper, untracked=(_mirror,))(place_image(40, 40))
    assert view == View(Box.whole(), flip_vertical=True, is_exact=False)
