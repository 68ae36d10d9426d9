"""Short seeds of the campaigns; `make views` and `make lies` run all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import relabel
from bench import lies, views, whole_pixels
from bench.ramps import Scene, judged
from relabel.geometry.views import View
from relabel.loader import checking
from relabel.tickets import ticket
from relabel.tracking import proof, rarely


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene.made(tmp_path_factory.mktemp("scene"))


def test_views_are_those_that_the_colours_show(scene: Scene) -> None:
    for name in ("torchvision v2, affine", "two views"):
        tally = views.run(scene, name, 16, 0)
        assert tally.is_good, views.table({name: tally})
        assert (tally.draws, tally.untold) == (16, 0)


def test_labels_are_those_of_the_pixels_that_are_shown(tmp_path: Path) -> None:
    small = Scene.made(tmp_path, whole_pixels.SIZES_HW)
    tally = views.run(small, "torchvision v2 on tensors", 16, 0)
    assert (tally.draws, tally.untold) == (16, 0)
    assert tally.seen_label <= whole_pixels.LABEL


def test_the_colours_know_a_view_that_is_not_so(scene: Scene) -> None:
    images = relabel.Labeled(lies.ImageFolder(scene.photos, lies._after()()), scene.maps)
    image, right = images[3]
    row = scene.maps.rows(scene.keys)[3].item()
    store = scene.maps.ticket_id
    (good,) = judged(scene, [image], right[None])
    assert good.error < 0.01
    assert not good.is_mirrored
    for wrong in (ticket(store, row, View.whole()), ticket(store, (row + 1) % 8, View.whole())):
        (bad,) = judged(scene, [image], wrong[None])
        assert bad.error > 0.05 or bad.is_mirrored
    assert bad.is_mirrored


LIES = ["child of a crop that mirrors", "lambda that moves no pixel (honest)", "outer data set that mirrors"]


def test_lies_end_well(scene: Scene) -> None:
    endings = lies.campaign(scene, 8, 0, [*LIES, "a flip in the training step"])
    assert [each.how for each in endings] == ["refused", "proved right", "refused", "named as out of reach"]
    assert "1 named as out of reach, 0 silent and wrong" in lies.table(endings)


def test_a_broken_proof_is_noticed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: Any) -> None:
        return None

    for module in (proof, checking):
        monkeypatch.setattr(module, "verdict", blind)
    monkeypatch.setattr(rarely, "_DRAWS", 0)
    endings = lies.campaign(scene, 8, 0, [LIES[0], LIES[2]])
    assert [each.how for each in endings] == ["silent and wrong"] * 2
