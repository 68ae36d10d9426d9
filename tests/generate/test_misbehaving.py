"""Teachers that fail or lie in the midst of a run: it ends with a sentence, and nothing published is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
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
