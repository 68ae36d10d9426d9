"""A loaded teacher: uint8 in, float32 logits out, on each device and in each precision."""

from __future__ import annotations

import warnings

import pytest
import torch

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher
from relabel.teacher.devices import cast_once, find_device, find_precision

ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11}


def _load(name, device="cpu", **spec):
    return load_teacher(TeacherSpec(name=name, random_weights=0, device=str(device), **spec))


def _off(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def test_the_model_sees_pixels_less_their_mean_over_their_deviation(taught, photos):
    teacher = taught("test_resnet")
    seen = []
    handle = teacher.forward.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = photos(teacher)
    teacher.forward.model(teacher.normalised(images))
    handle.remove()
    mean, std = ([[[v]] for v in values] for values in (teacher.preprocessing.mean, teacher.preprocessing.std))
    expected = (images.double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(seen[0].double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(teacher(images), teacher.forward(expected.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 160, 160),
        torch.zeros(2, 3, 160, 128, dtype=torch.uint8),
        torch.zeros(2, 1, 160, 160, dtype=torch.uint8),
        torch.zeros(3, 160, 160, dtype=torch.uint8),
        torch.zeros(1, 2, 3, 160, 160, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused_with_the_expected_shape(images, taught):
    with pytest.raises(TeacherError, match=r"test_resnet takes uint8 images \(B, 3, 160, 160\); got \("):
        taught("test_resnet")(images)


def test_an_images_answer_does_not_depend_on_its_batch(taught, photos):
    teacher = taught("test_convnext")
    images = photos(teacher, 3)
    alone = torch.cat([teacher(image[None]) for image in images])
    torch.testing.assert_close(teacher(images), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_lower_precision_answers_in_float32_and_nearly_the_same(name, precision, taught, photos, device):
    exact, rough = taught(name), _load(name, device, precision=precision)
    images = photos(exact)
    logits = rough(images).cpu()
    assert (logits.dtype, rough.record.precision) == (torch.float32, precision)
    # A rounding of this size in each of some tens of layers; and it must have been rounded at all.
    assert ROUNDING[precision] / 100 < _off(logits, exact(images)) < 20 * ROUNDING[precision]


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout"])
def test_channels_last_answers_the_same(name, taught, photos, device):
    exact, other = taught(name), _load(name, device, channels_last=True)
    seen = []
    other.forward.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = photos(exact)
    assert _off(other(images).cpu(), exact(images)) < (5e-3 if device.type == "cuda" else 1e-4)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert other.record == exact.record


def test_each_device_proves_the_head_and_answers_alike(device, taught, photos):
    exact, other = taught("test_resnet"), _load("test_resnet", device)
    images = photos(exact)
    logits = other(images)
    assert logits.device.type == device.type
    assert other.proof.linear_error < 1e-5
    assert (other.proof.kind, other.record) == ("linear", exact.record)
    # A GPU convolves in TF32 when torch is left as it is.
    assert _off(logits.cpu(), exact(images)) < 5e-3


@pytest.mark.cuda
def test_a_proof_holds_on_a_gpu_set_to_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for name in ("test_resnet", "test_convnext", "test_vit"):
            assert _load(name, "cuda").proof.constant_error < 1e-5
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.cuda
def test_a_call_on_a_gpu_does_not_wait_for_it(photos):
    teacher = _load("test_resnet", "cuda")
    images = photos(teacher).cuda()
    teacher(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        teacher(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_compiled_teacher_answers_the_same(taught, photos):
    exact = taught("test_resnet")
    images = photos(exact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns of its own internals
        assert _off(_load("test_resnet", compile=True)(images), exact(images)) < 1e-4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"}, 3),
        ({"SLURM_LOCALID": "1"}, 1),
        ({"LOCAL_RANK": "9"}, 1),
    ],
)
def test_each_process_of_a_machine_takes_its_own_gpu(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", expected)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_the_precision_is_chosen_by_the_device(has_bfloat16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert find_precision("auto", torch.device("cpu")) == "float32"
    assert find_precision("auto", torch.device("cuda", 0)) == ("bfloat16" if has_bfloat16 else "float32")
    assert find_precision("float16", torch.device("cpu")) == "float16"
    assert _load("test_resnet").record.precision == "float32"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_nfnet"])
def test_weights_that_are_cast_once_answer_what_autocast_answers(name, taught, photos):
    exact, cast = taught(name), _load(name, precision="bfloat16")
    assert any(p.dtype == torch.bfloat16 for p in cast.forward.parameters())
    pixels = exact.normalised(photos(exact))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = exact.forward(pixels).float()
    torch.testing.assert_close(cast(photos(cast)), expected, atol=0, rtol=0)


class _ReadsItsWeights(torch.nn.Module):
    def __init__(self, read):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3)
        self.read = read

    def forward(self, images):
        return self.conv(images).float() + self.read(self.conv.weight)


@pytest.mark.parametrize(
    "read", [lambda weight: weight.float().std(), lambda weight: weight[0, 0, 0].dot(torch.ones(3))]
)
def test_weights_that_a_model_reads_for_something_else_stay(read):
    model = _ReadsItsWeights(read).requires_grad_(False)
    before = model.conv.weight.clone()
    cast_once(model, torch.randn(1, 3, 5, 5), "bfloat16")
    torch.testing.assert_close(model.conv.weight.data, before, atol=0, rtol=0)


def test_a_gpu_decodes_for_a_teacher_on_a_gpu_only():
    with pytest.raises(TeacherError, match="cannot decode for a teacher on cpu: leave --decode cuda out"):
        _load("test_resnet", decode="cuda")
