"""train_student.py --published: the targets of the papers' codes, mistakes included, or put right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image
from test_published import aligned_softmax, dense_zeros, golden, random_cells
from torch import Tensor, nn

import relabel
from pipelines import train_student
from pipelines.lvvit import TokenAnswer
from pipelines.objective import Objective
from pipelines.recipe import Recipe
from pipelines.run_log import read_log
from pipelines.student_data import Places, Share, load_data
from relabel.errors import InvalidValueError
from relabel.geometry import Box
from relabel.geometry.views import View, Views


class _Answering(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, images: Tensor) -> Any:
        return self._answer


def _cross_entropy(logits: Tensor, target: np.ndarray) -> float:
    """The mean over all but the last axis, in float64; targets need not sum to 1."""
    z = logits.double().numpy()
    return float(-(target * (z - np.log(np.exp(z).sum(-1, keepdims=True)))).sum(-1).mean())


@dataclasses.dataclass
class _Opened:
    """A store of an archive, as a loss sees it."""

    maps: relabel.ScoreMap
    views: Views

    def maps_of(self, tickets: Tensor, device: object) -> tuple[relabel.ScoreMap, Views]:
        return self.maps, self.views


def _loss(maps: relabel.ScoreMap, views: Views, answer: Any, grid: tuple[int, int] | None, **recipe: Any) -> float:
    made, opened = Recipe(name="try", model="m", **recipe), cast(Any, _Opened(maps, views))
    classes = torch.zeros(len(maps), dtype=torch.int64)
    return float(Objective(made, maps.num_classes, grid, maps=opened)(_Answering(answer), torch.zeros(1), classes))


def test_as_shipped_is_what_the_codes_train_on() -> None:
    """Against vectors that the published codes made themselves."""
    maps, boxes, arrays = golden("tokenlabel_crops.npz")
    size, count = int(arrays["label_size"]), len(maps)
    answer = TokenAnswer(torch.randn(count, maps.num_classes), torch.randn(count, size**2, maps.num_classes), None)
    targets = arrays["targets_as_shipped"].astype(np.float64)
    found = _loss(maps, Views.of_boxes(boxes), answer, (size, size), target="token", smoothing=0.1, token_weight=1.0,
                  published="as-shipped")  # fmt: skip
    expected = _cross_entropy(answer.image_logits, targets[:, :, 1]) + _cross_entropy(
        answer.token_logits, targets[:, :, 2:].transpose(0, 2, 1)
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_mirrored_crops_are_those_of_mirrored_images_and_turned_ones_are_refused() -> None:
    cells = random_cells(3, 3, (6, 6), 9, seed=5)
    maps = relabel.ScoreMap.from_cell_topk(*cells, num_classes=9)
    boxes = torch.tensor([[0.1, 0.25, 0.6, 1.0], [0.0, 0.3, 0.9, 0.7], [0.4, 0.0, 1.0, 0.5]])
    dense = dense_zeros(*cells, 9).flip(3)
    other_way = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
    mirrored = Views.of_boxes(boxes, torch.ones(3, dtype=torch.bool))
    answer = TokenAnswer(torch.randn(3, 9), torch.randn(3, 4, 9), None)
    found = _loss(maps, mirrored, answer, (2, 2), target="token", published="as-shipped", token_weight=1.0)
    expected = sum(
        _cross_entropy(logits, aligned_softmax(dense, other_way, size, True).flatten(2).mT.double().numpy())
        for logits, size in ((answer.image_logits[:, None], (1, 1)), (answer.token_logits, (2, 2)))
    )
    assert found == pytest.approx(expected, abs=1e-5)
    turned = View(Box(0, 0, 1, 1)).then(View.affine(((0.9, 0.1, 0.0), (-0.1, 0.9, 0.05))))
    views = Views.of([turned] * 3)
    with pytest.raises(InvalidValueError, match=r"--randaugment none, or --published corrected"):
        _loss(maps, views, answer, (2, 2), target="token", published="as-shipped")
    assert _loss(maps, views, answer, (2, 2), target="token", published="corrected") > 0


@pytest.mark.parametrize("published", ["as-shipped", "corrected"])
def test_relabels_labels_have_the_box_of_the_code_or_the_true_one(published: Any) -> None:
    cells = random_cells(2, 3, (5, 5), 9, seed=2)
    maps = relabel.ScoreMap.from_cell_topk(*cells, num_classes=9)
    boxes, logits = torch.tensor([[0.2, 0.0, 1.0, 0.4], [0.0, 0.6, 0.5, 1.0]]), torch.randn(2, 9)
    target = aligned_softmax(dense_zeros(*cells, 9), boxes, (1, 1), published == "as-shipped")[:, :, 0, 0]
    found = _loss(maps, Views.of_boxes(boxes), logits, None, target="relabel", published=published)
    assert found == pytest.approx(_cross_entropy(logits, target.double().numpy()), abs=1e-5)


def test_an_imported_archive_trains_and_a_store_of_ones_own_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, logits = random_cells(4, 2, (3, 3), 2, seed=1)
    keys = [f"{name}/{number}.png" for name in ("a", "b") for number in (1, 2)]
    for key, ids, scores in zip(keys, classes, logits, strict=True):
        for part in ("photos", "archive"):
            (tmp_path / part / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / key)
        torch.save(torch.stack([scores, ids.float()]), (tmp_path / "archive" / key).with_suffix(".pt"))
    photos, store = str(tmp_path / "photos"), str(tmp_path / "labels.zarr")
    done = run(
        "import",
        "relabel",
        tmp_path / "archive",
        store,
        "--images",
        photos,
        "--classes",
        "2",
        "--workers",
        "1",
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    given = ["--images", photos, "--val", photos, "--model", "test_resnet", "--target", "relabel", "--epochs", "1",
             "--warmup-epochs", "0", "--batch-size", "4", "--image-size", "32", "--workers", "0"]  # fmt: skip
    monkeypatch.setattr(train_student, "draw_curves", lambda *_: None)
    train_student.main([*given, "--labels", store, "--out", str(tmp_path / "out"), "--published", "as-shipped"])
    assert read_log(tmp_path / "out")[0].train_loss > 0
    own = relabel.ScoreMap.from_logits(torch.randn(4, 2, 3, 3), planes=2)
    relabel.write(tmp_path / "own.zarr", keys, own)
    places = Places(images=photos, validation=Path(photos), labels=str(tmp_path / "own.zarr"))
    recipe = Recipe(name="t", model="m", target="relabel", published="corrected", batch_size=1)
    with pytest.raises(InvalidValueError, match=r"as relabel import makes a store of them; .*own.zarr is none"):
        load_data(recipe, places, Share(), torch.device("cpu"))
