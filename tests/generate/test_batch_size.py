"""The batch size that is found: the smallest at which the device is at its fastest, of those that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import generating
import pytest
import torch
from generating import make_teacher, options, write_tars
from store.samples import contents
from torch import Tensor

from relabel.generate import batch_size, generate
from relabel.generate.batch_size import fastest_batch_size
from relabel.manifest import Preprocessing

VIEWS = [Preprocessing(image_size_hw=hw, mean=(0.5,) * 3, std=(1.0,) * 3) for hw in [(4, 6), (8, 12)]]
CPU = torch.device("cpu")


class Device:
    """Takes `seconds(n)` for n images on a clock of its own, and holds at most `most`."""

    def __init__(self, seconds: Callable[[int], float], most: float = math.inf) -> None:
        self.seconds, self.most, self.now, self.sizes = seconds, most, 0.0, []

    def try_whole(self, views: Sequence[Tensor]) -> Device | None:
        assert [view.shape[1:] for view in views] == [(3, 4, 6), (3, 8, 12)]
        count = len(views[0])
        self.sizes.append(count)
        if count > self.most:
            return None
        self.now += self.seconds(count)
        return self

    def wait(self) -> None:
        """Nothing: the clock went on before."""


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def find(device: Device, most: int = 4096, *, shown: bool = False) -> int:
        monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: device.now))
        return fastest_batch_size(device, VIEWS, CPU, most=most, shown=shown)

    return find


@pytest.mark.parametrize(
    ("seconds", "size", "largest"),
    [
        # Images a second: 444, 615, 762, 865, 928, 962, 981; the last is less than 3 % more.
        (lambda n: 0.010 + 0.001 * n, 256, 512),
        (lambda n: 0.001 * n, 8, 16),
        (lambda n: 0.1 * n, 8, 16),
        (lambda n: 0.05, 512, 512),
        # Fastest at 32, slower beyond.
        (lambda n: 0.01 + 0.001 * n * (2 if n > 32 else 1), 32, 64),
    ],
)
def test_a_larger_batch_is_taken_while_it_pays(found, seconds, size, largest):
    device = Device(seconds)
    assert found(device) == size
    assert max(device.sizes) == largest


@pytest.mark.parametrize(("most", "size"), [(100, 64), (8, 8), (7, 4), (3, 2), (1, 1), (0, 1)])
def test_only_sizes_that_fit_are_taken(found, most, size):
    assert found(Device(lambda n: 0.1, most)) == size


def test_sizes_far_beyond_the_largest_shard_are_not_tried(found):
    device = Device(lambda n: 0.1)
    assert found(device, most=20) == 32
    assert max(device.sizes) == 32


def test_a_slow_device_runs_each_size_once(found):
    device = Device(lambda n: float(n))
    assert found(device) == 8
    assert device.sizes == [8, 16]


def test_the_choice_and_its_reasons_are_told(found, capsys):
    found(Device(lambda n: 0.001 * n), shown=True)
    assert "images/s by size 8: 1e+03, 16: 1e+03; taken: 8" in capsys.readouterr().err


def test_a_run_finds_its_batch_size_and_labels_nothing_by_it(tmp_path):
    images = write_tars(tmp_path / "tars", (9, 3))
    auto = generate(images, tmp_path / "auto", make_teacher(), options(batch_size="auto"))
    assert auto.batch_size in (8, 16)
    assert auto.images == 12
    generate(images, tmp_path / "given", make_teacher(), options(batch_size=4))
    assert contents(tmp_path / "auto") == contents(tmp_path / "given")


def test_a_run_with_nothing_to_label_looks_for_no_batch_size(tmp_path):
    images = write_tars(tmp_path / "tars", (3,))
    generate(images, tmp_path / "store", make_teacher(), options())

    def forward(pixels: Tensor) -> Tensor:
        raise AssertionError("ran")

    again = generate(images, tmp_path / "store", make_teacher(forward), options(batch_size="auto"))
    assert (again.had_nothing_to_do, again.batch_size) == (True, 0)


@pytest.mark.cuda
def test_a_gpu_has_a_batch_size(tmp_path):
    images = write_tars(tmp_path / "tars", (9,))
    teacher = make_teacher(generating.convolutions().cuda(), device=torch.device("cuda"))
    assert generate(images, tmp_path / "store", teacher, options(batch_size="auto")).batch_size in (8, 16)
