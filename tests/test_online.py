"""The teacher run on every crop answers as the model does that is asked by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipelines.online import OnlineTeacher
from pipelines.recipe import Recipe
from pipelines.student_data import check_classes
from relabel.errors import InvalidValueError


def test_answers_are_the_models_own_and_a_loss_may_keep_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    recipe = Recipe(
        name="try", model="test_resnet", target="teacher", teacher="test_resnet", teacher_checkpoint=str(weights),
        teacher_size=64, precision="float32",
    )  # fmt: skip
    # Of one colour, so that any resize leaves them as they are.
    colours = torch.tensor([[250, 10, 90], [0, 200, 40]], dtype=torch.uint8)
    found = OnlineTeacher(recipe, "abcde", torch.device("cpu"))(colours[:, :, None, None].expand(2, 3, 32, 32))
    mean, std = (torch.tensor(model.pretrained_cfg[name]) for name in ("mean", "std"))
    seen = ((colours / 255 - mean) / std)[:, :, None, None].expand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(seen).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    logits = torch.zeros(2, 5, requires_grad=True)
    (found * logits).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, found)


def test_a_file_that_says_its_model_needs_no_name_and_its_classes_their_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, cpu = tmp_path / "a.pt", torch.device("cpu")
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save({"student": model.state_dict(), "arch": "test_resnet", "class_names": ["ant", "bee", "cat"]}, path)
    recipe = Recipe(name="try", model="test_resnet", target="teacher", teacher_checkpoint=str(path), teacher_size=64)
    OnlineTeacher(recipe, ["ant", "bee", "cat"], cpu)
    assert not caplog.records
    with pytest.raises(InvalidValueError, match=r"test_resnet: .*the same names in another order"):
        OnlineTeacher(recipe, ["cat", "bee", "ant"], cpu)
    OnlineTeacher(recipe, ["dog", "eel", "fox"], cpu)
    assert "They are taken to be the same classes in the same order" in caplog.text


def test_wordnet_ids_are_the_classes_words(caplog: pytest.LogCaptureFixture) -> None:
    check_classes(["tench, Tinca tinca", "goldfish"], ["n01440764", "n01443537"], "labels")
    check_classes(None, ["ant", "bee"], "labels")
    assert not caplog.records
