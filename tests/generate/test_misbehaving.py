"""Teachers that fail or lie in the midst of a run: it ends with a sentence, and nothing published is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from generating import answer, make_teacher, options, write_tars
from store.samples import contents
from torch import Tensor

from relabel.errors import TeacherError
from relabel.generate import generate


def raising(error: BaseException) -> Callable[[Tensor], Any]:
    def forward(images: Tensor) -> Any:
        raise error

    return forward


BAD = {
    "raises": (raising(KeyError("block.7")), "by hand fails: KeyError: 'block.7'"),
    "stops the program": (raising(SystemExit(0)), "it ends the program by SystemExit"),
    "nothing": (lambda images: None, "answers a NoneType; expected logits"),
    "integers": (lambda images: answer(images).long(), "of torch.int64 for 4 images"),
    "fewer images": (lambda images: answer(images)[1:], r"answers \(3, 10, 2, 3\)"),
    "another grid": (lambda images: answer(images).mT, r"answers \(4, 10, 3, 2\)"),
    "fewer classes": (lambda images: answer(images)[:, 1:], r"answers \(4, 9, 2, 3\)"),
    "no map": (lambda images: answer(images).mean((2, 3)), r"answers \(4, 10\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_shard_is_named_and_those_before_stay(kind, tmp_path):
    images = write_tars(tmp_path / "tars", (4, 4, 4))
    bad, words = BAD[kind]
    calls: list[int] = []

    def forward(pixels: Tensor) -> Any:
        calls.append(len(pixels))
        return (bad if len(calls) > 2 else answer)(pixels)

    with pytest.raises(TeacherError, match=rf"^shard [12] \(part-0[12].tar\) cannot be labelled: .*{words}"):
        generate(images, tmp_path / "store", make_teacher(forward), options())
    assert not list((tmp_path / "store").rglob(".*"))
    generate(images, tmp_path / "store", make_teacher(), options())
    generate(images, tmp_path / "whole", make_teacher(), options())
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


class Counting:
    """Answers `answer`, moved by what `shift` makes of the number of the call."""

    def __init__(self, shift: Callable[[int], float]) -> None:
        self.shift, self.calls = shift, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits = answer(images)
        logits[:, 0] += self.shift(self.calls)
        return logits


@pytest.mark.parametrize(
    ("shift", "words", "asked"),
    [
        (lambda call: 0.0, None, 3),
        (lambda call: 1e-5 * call, None, 3),
        (lambda call: 0.5 * (call % 2), "differ from call to call", 2),
        (lambda call: 0.5 if call > 4 else 0.0, "changed during the run", 3),
    ],
)
def test_answers_that_change_are_told_with_how_much_and_in_the_summary(shift, words, asked, tmp_path, caplog):
    images = write_tars(tmp_path / "tars", (4, 4, 4))
    teacher = Counting(shift)
    summary = generate(images, tmp_path / "store", make_teacher(teacher), options())
    assert teacher.calls == 3 + asked
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == list(summary.doubts)
    assert len(told) == (words is not None)
    assert all(words in one and re.search(r"up to 0\.[2-5]", one) for one in told)
    generate(images, tmp_path / "store", make_teacher(teacher), options())
    assert teacher.calls == 3 + asked


def test_a_teacher_that_sees_nothing_is_told_of(tmp_path):
    images = write_tars(tmp_path / "tars", (1, 4))
    blind = make_teacher(lambda images: answer(torch.zeros_like(images)))
    (told,) = generate(images, tmp_path / "store", blind, options()).doubts
    assert "the same to all 4 images" in told


def test_a_run_that_goes_on_elsewhere_says_so(tmp_path, caplog, monkeypatch):
    images = write_tars(tmp_path / "tars", (2, 2))
    with pytest.raises(TeacherError):
        generate(images, tmp_path / "store", make_teacher(raising(ValueError())), options())
    monkeypatch.setattr("relabel.generate.planning.device_text", lambda device: "abacus")
    generate(images, tmp_path / "store", make_teacher(), options())
    (told,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(r"begun with device cpu \w+ \(now abacus\)", told)


def test_a_want_of_memory_ends_the_shard_and_is_no_bad_image(tmp_path, monkeypatch):
    images = write_tars(tmp_path / "tars", (6, 3, 5))
    generate(images, tmp_path / "whole", make_teacher(), options())
    calls = iter(range(100))

    def scarce(data: bytes) -> bool:
        # torch's allocator and Python's say it otherwise; once each.
        number = next(calls)
        if number == 1:
            raise MemoryError
        if number == 7:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return False

    with monkeypatch.context() as patch:
        patch.setattr("relabel.images.decode.jpeg_header", lambda data: scarce(data) or None)
        summary = generate(images, tmp_path / "store", make_teacher(), options(workers=1))
    assert [(failure.shard, failure.key) for failure in summary.failures] == [(0, ""), (1, "")]
    assert "memory ran out while images of part-00.tar were decoded" in summary.failures[0].reason
    assert not summary.is_good
    generate(images, tmp_path / "store", make_teacher(), options())
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
