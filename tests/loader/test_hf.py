"""The loss of tickets in transformers' own Trainer, and what it makes of every kind of outputs and labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stores import make_store, random_logits
from torch import Tensor, nn

import relabel
from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Box
from relabel.geometry.views import View
from relabel.tickets import ticket

CLASSES, COUNT = 7, 16


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> relabel.LabelMaps:
    path = tmp_path_factory.mktemp("hf") / "s"
    make_store(path, [[f"{i}" for i in range(COUNT)]], random_logits(COUNT, CLASSES, (4, 4)))
    return relabel.open(path)


def tickets(maps: relabel.LabelMaps, count: int = COUNT) -> np.ndarray[Any, Any]:
    boxes = np.random.default_rng(0).uniform(0, 0.4, (count, 2)).tolist()
    views = [View(Box(x, y, x + 0.5, y + 0.6), flip=x > y) for x, y in boxes]
    return np.stack([ticket(maps.ticket_id, i, view, i % CLASSES) for i, view in enumerate(views)])


def test_a_path_is_no_store() -> None:
    with pytest.raises(InvalidValueError, match=r"maps is relabel\.open\(path\); got 'labels\.zarr', a str"):
        relabel.hf_loss("labels.zarr")  # type: ignore[arg-type]


class Student(nn.Module):
    """(B, C) of images, as transformers' classifiers answer them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, CLASSES)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.body(pixel_values.flatten(1))}


def step(maps: relabel.LabelMaps, folder: Path, batch_size: int, parts: int, evaluated: bool) -> tuple[Any, Any]:
    """The loss that one step of the real Trainer logs, and the model that it leaves; the loss of an evaluation."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, pixels = Student(), torch.randn(COUNT, 3, 2, 2)
    rows = [{"pixel_values": pixels[i], "labels": row} for i, row in enumerate(tickets(maps))]
    held_out = [{"pixel_values": pixels[i], "labels": i % CLASSES} for i in range(COUNT)]
    settings = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch_size, gradient_accumulation_steps=parts, max_steps=1,
        learning_rate=1.0, optim="sgd", max_grad_norm=1e9, logging_steps=1, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", per_device_eval_batch_size=COUNT,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, settings, train_dataset=rows, eval_dataset=held_out, compute_loss_func=relabel.hf_loss(maps)
    )
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    scores = trainer.evaluate()["eval_loss"] if evaluated else None
    return (logged["loss"], logged["grad_norm"], scores), (model, pixels)


@pytest.mark.filterwarnings("ignore")  # of torch, accelerate and transformers, as their versions come together
def test_one_batch_and_its_parts_are_one_step_in_the_trainer(maps: relabel.LabelMaps, tmp_path: Path) -> None:
    whole, (model, pixels) = step(maps, tmp_path, COUNT, 1, evaluated=True)
    parts, (other, _) = step(maps, tmp_path, COUNT // 4, 4, evaluated=False)
    assert parts[:2] == pytest.approx(whole[:2], abs=1e-4)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), atol=1e-5, rtol=1e-5)
    # By hand: the loss, its gradient, and the model after a step of length 1.
    torch.manual_seed(0)
    start = Student()
    labels = maps.pool(torch.from_numpy(tickets(maps)))
    loss = -(labels * start(pixels)["logits"].log_softmax(1)).sum(1).mean()
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    assert whole[0] == pytest.approx(float(loss.detach()), abs=1e-4)
    assert whole[1] == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), abs=1e-4)
    moved = [parameter - gradient for parameter, gradient in zip(start.parameters(), gradients, strict=True)]
    torch.testing.assert_close(moved, list(model.parameters()), atol=1e-5, rtol=1e-5)
    expected = F.cross_entropy(model(pixels)["logits"], torch.arange(COUNT) % CLASSES)
    assert whole[2] == pytest.approx(float(expected.detach()), abs=1e-4)


def outputs(logits: Any) -> list[Any]:
    """As models answer them: an object, a mapping, a tuple with more behind it."""
    return [SimpleNamespace(logits=logits), {"logits": logits}, logits if isinstance(logits, tuple) else (logits, ())]


def test_logits_of_images_tokens_and_both(maps: relabel.LabelMaps) -> None:
    given = torch.from_numpy(tickets(maps, 3))
    images, tokens = torch.randn(3, CLASSES), torch.randn(3, 6, CLASSES)
    labels, by_token = maps.pool(given), maps.pool(given, (2, 3))
    of_images, of_tokens = relabel.soft_cross_entropy(images, labels), relabel.soft_cross_entropy(tokens, by_token)
    for answer in outputs(images):
        torch.testing.assert_close(relabel.hf_loss(maps)(answer, given), of_images)
    for answer in outputs(tokens):
        torch.testing.assert_close(relabel.hf_loss(maps, size=(2, 3))(answer, given), of_tokens)
    for answer in outputs((images, tokens)):
        both = relabel.hf_loss(maps, size=(2, 3), token_weight=0.25)(answer, given)
        torch.testing.assert_close(both, of_images + 0.25 * of_tokens)
        # Another part of the step has as many images: 11 numbers each.
        half = relabel.hf_loss(maps, size=(2, 3), token_weight=0.25)(answer, given, torch.tensor(66))
        torch.testing.assert_close(half, both / 2)
    tempered = relabel.hf_loss(maps, temperature=3.0)({"logits": images}, given)
    torch.testing.assert_close(tempered, relabel.soft_cross_entropy(images, maps.pool(given, temperature=3.0)))


@pytest.mark.parametrize("gpus", [1, 4])
def test_items_that_dataparallel_counts_for_each_gpu_are_made_up_for(maps: relabel.LabelMaps, gpus: int) -> None:
    """The Trainer's own arithmetic, of either setting of average_tokens_across_devices."""
    given, images = torch.from_numpy(tickets(maps, 8)), torch.randn(8, CLASSES)
    counted = given.ne(-100).sum()
    loss, expected = relabel.hf_loss(maps), relabel.soft_cross_entropy(images, maps.pool(given))
    for number, factor in ((counted, gpus), (counted // gpus, 1)):
        for_each = number.unsqueeze(0).expand(gpus, -1) if gpus > 1 else number
        torch.testing.assert_close(factor * loss({"logits": images}, given, for_each), expected)


def test_class_ids_get_their_cross_entropy_by_the_same_rule(maps: relabel.LabelMaps) -> None:
    ids, images = torch.tensor([1, -100, 3]), torch.randn(3, CLASSES)
    loss, expected = relabel.hf_loss(maps), F.cross_entropy(images, torch.tensor([1, -100, 3]))
    torch.testing.assert_close(loss({"logits": images}, ids), expected)
    torch.testing.assert_close(loss({"logits": images}, ids.int(), torch.tensor(2)), expected)
    torch.testing.assert_close(loss({"logits": images.bfloat16()}, ids, 4), expected / 2, atol=2e-2, rtol=0)


def test_what_does_not_belong_together_is_refused(maps: relabel.LabelMaps) -> None:
    given = torch.from_numpy(tickets(maps, 3))
    images, tokens = torch.randn(3, CLASSES), torch.randn(3, 4, CLASSES)
    of_images, of_tokens = relabel.hf_loss(maps), relabel.hf_loss(maps, size=2)
    with pytest.raises(InvalidValueError, match=r"got \(3, 11\) of torch.float32\. Call the column .* 'labels'"):
        of_images({"logits": images}, given.float())
    with pytest.raises(InvalidValueError, match="got none"):
        of_images({"logits": images}, None)
    with pytest.raises(InvalidValueError, match=r"\(B, C\) of images; .* Got \(3, 4, 7\) with size=None"):
        of_images({"logits": tokens}, given)
    with pytest.raises(InvalidValueError, match=r"Got \(3, 7\) with size=2"):
        of_tokens({"logits": images}, given)
    with pytest.raises(InvalidValueError, match="Got str with size=None"):
        of_images(["no logits"], given)
    with pytest.raises(InvalidValueError, match=r"class ids \(B,\) need logits of images"):
        of_tokens({"logits": tokens}, torch.tensor([1, 2, 3]))
    with pytest.raises(InvalidValueError, match="the student has 9 outputs, the labels 7 classes of the teacher"):
        of_images({"logits": torch.randn(3, 9)}, given)
    with pytest.raises(LabelError, match="columns were cut"):
        of_images({"logits": images}, given[:, 1:])
