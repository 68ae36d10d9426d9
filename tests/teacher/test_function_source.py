"""A user's own teacher: what it may be, and what becomes of its mistakes."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher

STRIDE = 16


class Pooling(nn.Module):
    """Three classes, one a colour, and dropout that would show outside eval mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, images):
        return self.scale * self.drop(nn.functional.avg_pool2d(images, STRIDE))


@pytest.fixture
def load(monkeypatch):
    """Load what `make` returns, as ``a_package:make``."""

    def loaded(make, name="a_package:make", **spec):
        module = types.ModuleType("a_package")
        module.make, module.number = make, 3
        monkeypatch.setitem(sys.modules, "a_package", module)
        return load_teacher(TeacherSpec(name=name, device="cpu", **spec))

    return loaded


def _said(**attributes):
    def make():
        model = Pooling()
        for name, value in attributes.items():
            setattr(model, name, value)
        return model

    return make


def test_a_module_answers_in_eval_mode_without_gradients_and_is_known_by_its_weights(load):
    teacher = load(Pooling, image_size_hw=(64, 96))
    assert (teacher.num_classes, teacher.grid.size_hw, teacher.proof.kind) == (3, (4, 6), "given")
    assert (teacher.record.weights, teacher.record.head) == ("own", "given")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    logits = teacher(images)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, 3 * nn.functional.avg_pool2d(images / 255, STRIDE))
    assert load(Pooling).record.weights_digest == teacher.record.weights_digest

    def other():
        model = Pooling()
        nn.init.constant_(model.scale, 4.0)
        return model

    assert load(other).record.weights_digest != teacher.record.weights_digest


def test_its_preprocessing_is_what_the_model_says_of_it(load):
    said = _said(image_size_hw=[32, 64], mean=torch.tensor([0.5, 0.4, 0.3]), std=[0.2] * 3, interpolation="bicubic")
    made = load(said, fit="center").preprocessing
    assert (made.image_size_hw, made.interpolation, made.fit) == ((32, 64), "bicubic", "center")
    assert made.mean == pytest.approx((0.5, 0.4, 0.3))
    assert all(type(value) is float for value in (*made.mean, *made.std))
    assert load(said, image_size_hw=(48, 48)).preprocessing.image_size_hw == (48, 48)


@pytest.mark.parametrize(("said", "names"), [(["a", "b", "c"], ("a", "b", "c")), (["a", "b"], None), (None, None)])
def test_it_may_name_its_classes_one_for_each(said, names, load, caplog):
    assert load(_said(class_names=said)).class_names == names
    assert ("names 2 classes and answers 3" in caplog.text) == (said == ["a", "b"])


@pytest.mark.parametrize(
    "said",
    [
        {"mean": (0.5,)},
        {"std": (0.2, 0.2, 0.2, 0.2)},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": "grey"},
        {"image_size_hw": 224},
        {"image_size_hw": (0, 224)},
        {"interpolation": "nearest"},
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
    ],
)
def test_preprocessing_without_meaning_is_refused(said, load):
    with pytest.raises((TeacherError, ValueError), match=r"says of its images|must be|std above 0|not strings"):
        load(_said(**said))


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: _raise(AttributeError("no such layer")), r"a_package:make\(\) fails: AttributeError: no such layer"),
        (lambda: _raise(ZeroDivisionError("division by zero")), r"a_package:make\(\) fails: ZeroDivisionError"),
        (lambda needed: Pooling(), r"a_package:make\(\) fails: TypeError: .*needed.*takes no arguments"),
        (lambda: 3, "returns a int; expected a module or callable"),
        (
            lambda: lambda images: _raise(KeyError("fc")),
            r"does not take images of 224 x 224 pixels: KeyError: 'fc'\. Mend it",
        ),
        (lambda: nn.Conv2d(1, 5, 3), "does not take images of .*: RuntimeError: .*1 channels"),
        (lambda: lambda images: [images], "answers a list; expected a tensor"),
        (lambda: lambda images: images.mean((2, 3)), r"answers \(2, 3\) of torch.float32 for 2 images; expected"),
        (lambda: lambda images: images[:1], r"answers \(1, 3, 224, 224\) .* for 2 images; expected .*\(2, C, H, W\)"),
        (lambda: lambda images: images[0], r"answers \(3, 224, 224\)"),
        (lambda: lambda images: images.to(torch.uint8), "answers .* of torch.uint8"),
        (lambda: lambda images: images[:, :1], "answers 1 classes; a soft label needs two or more"),
        (lambda: lambda images: images[:, :, :0], "at least one cell"),
        (lambda: lambda images: images * float("nan"), "answers NaN or infinity"),
        (lambda: lambda images: images.transpose(2, 3), "map of a_package:make is transposed, flipped"),
    ],
)
def test_its_mistakes_are_errors_that_say_what_was_expected(make, why, load):
    with pytest.raises((TeacherError, ValueError), match=why):
        load(make)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_package.teachers:make", "No module named 'no_such_package'.*PYTHONPATH"),
        ("a_package:absent", "a_package has no function 'absent'"),
        ("a_package:number", "a_package has no function 'number'"),
        ("a_package:", "a_package has no function ''"),
        (":make", "cannot import the teacher :make: ValueError"),
        ("local-dir:weights/resnet", "cannot import the teacher local-dir:weights/resnet"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, why, load):
    with pytest.raises(TeacherError, match=why):
        load(Pooling, name)


def test_an_error_while_its_module_is_imported_is_reported_with_its_reason(load, tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("raise LookupError('no licence file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TeacherError, match=r"cannot import the teacher .*: LookupError: no licence file"):
        load(Pooling, "breaks_on_import:make")


@pytest.mark.parametrize("weights", [{"checkpoint": "a.pt"}, {"random_weights": 0}])
def test_it_brings_its_own_weights(weights, load):
    with pytest.raises(TeacherError, match="a_package:make brings its own weights"):
        load(Pooling, **weights)


def _classifier():
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 6, STRIDE, STRIDE), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 3))


@pytest.mark.parametrize("place", ["", "@0.0"])
def test_a_module_that_answers_for_whole_images_is_made_dense_and_proved(place, load):
    teacher = load(_classifier, f"a_package:make{place}", image_size_hw=(64, 96))
    model = _classifier().eval()
    assert (teacher.proof.kind, teacher.grid.size_hw) == ("linear", (4, 6))
    assert (teacher.record.weights, teacher.record.name) == ("own", f"a_package:make{place}")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    vector = model[0](images / 255)[:, :, 1, 5]
    torch.testing.assert_close(teacher(images)[:, :, 1, 5], model[4](vector))


def test_a_module_of_ones_own_needs_no_timm(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert load(_classifier).proof.kind == "linear"


def test_a_place_in_what_already_answers_at_every_location_is_refused(load):
    with pytest.raises(TeacherError, match="a_package:make@drop answers maps by itself: leave @drop out"):
        load(Pooling, "a_package:make@drop")


class _Probabilities(Pooling):
    def forward(self, images):
        return super().forward(images).softmax(1)


def test_probabilities_are_no_logits(load):
    with pytest.raises(TeacherError, match="answers probabilities; expected logits"):
        load(_Probabilities)


def test_callables_without_a_state_are_told_apart_by_their_answers(load):
    def answering(order):
        return lambda: lambda images: nn.functional.avg_pool2d(images, STRIDE)[:, order]

    first, same, other = (load(answering(order)).record.weights_digest for order in ([0, 1, 2], [0, 1, 2], [2, 1, 0]))
    assert first == same != other


def test_images_lie_in_memory_as_a_model_expects(load):
    def make():
        # What lies with a pixel's channels side by side, as decoders leave it, cannot be viewed so.
        return lambda images: nn.functional.avg_pool2d(images.view(len(images), -1).view(images.shape), STRIDE)

    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    torch.testing.assert_close(load(make)(pixels), nn.functional.avg_pool2d(pixels / 255, STRIDE))


def test_a_mean_that_is_not_said_is_told(load, caplog):
    load(_said(mean=(0.5,) * 3, std=(0.2,) * 3))
    assert caplog.text == ""
    load(Pooling)
    assert "a_package:make does not say its mean and std: it is given pixels in [0, 1]" in caplog.text


class _Mixer(nn.Module):
    """Its features are (B, 64 channels, 49 places): as tokens they would be an 8 x 8 grid of channels."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 64, 32, 32)
        self.flat = nn.Flatten(2)
        self.mix = nn.Linear(49, 49)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 49, 10))

    def forward(self, images):
        return self.head(self.mix(self.flat(self.embed(images))))


def test_channels_are_not_taken_for_places(load):
    torch.manual_seed(0)
    with pytest.raises(TeacherError):
        load(_Mixer)


@pytest.mark.parametrize("good_calls", range(6))
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RuntimeError("boom"), "boom"),
        (StopIteration(), "StopIteration"),
        (SystemExit(0), "it ends the program by SystemExit"),
    ],
)
def test_a_fault_at_any_call_of_the_proof_is_the_teachers(load, good_calls, fault, said):
    calls = iter(range(99))

    def answer(images):
        if next(calls) >= good_calls:
            raise fault
        return nn.functional.avg_pool2d(images, STRIDE)

    told = None
    try:
        load(lambda: answer, image_size_hw=(64, 96))
    except TeacherError as error:
        told = str(error)
    if told is None:
        assert next(calls) <= good_calls
    else:
        assert told.startswith("a_package:make")
        assert said in told
