"""The step of codes: a choice of the run, in the manifest, and followed by whatever reads the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generating import make_teacher, options, write_tars

import relabel
from relabel.errors import InvalidValueError
from relabel.generate import generate
from relabel.verify import verify_shards


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tars(tmp_path_factory.mktemp("images"), (4, 2))


def make(tars: str, store: Path, **given: object) -> relabel.LabelMaps:
    generate(tars, store, make_teacher(), options(**given))
    assert verify_shards(store, tars, workers=2, show_progress=False).findings == ()
    return relabel.open(store)


def test_stores_of_two_steps_give_one_teachers_labels(tars: str, tmp_path: Path) -> None:
    exact = make(tars, tmp_path / "exact", dtype="float16")
    keys = sorted(exact.keys())
    truth = exact[exact.rows(keys)]
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9]]).expand(6, 4)
    for step in (1 / 8, 1 / 2):
        maps = make(tars, tmp_path / f"step {step}", step=step)
        batch = maps[maps.rows(keys)]
        assert (maps.manifest.scores.step, batch.step) == (step, step)
        for name in ("planes", "rest"):
            moved = getattr(batch.decoded(), name) - getattr(truth, name).float().clamp(min=-254 * step)
            # Halves are rounded, too: by 2^-6 nats at most below -16.
            assert moved.abs().max() <= step / 2 + 2**-6
        torch.testing.assert_close(batch.pool(boxes), truth.pool(boxes), atol=step / 4, rtol=0)


def test_scores_that_are_no_codes_have_no_step_of_their_own(tars: str, tmp_path: Path) -> None:
    assert make(tars, tmp_path / "store", dtype="float16").manifest.scores.step is None
    with pytest.raises(InvalidValueError, match=r"scores in float16 are not rounded to steps; got step 0\.5"):
        options(dtype="float16", step=1 / 2)


@pytest.mark.parametrize("step", [0.0, 1 / 32, 1.5])
def test_what_is_no_step_is_refused(step: float) -> None:
    with pytest.raises(InvalidValueError, match="step is nats per code of uint8 scores, 1/16 to 1"):
        relabel.manifest.ScoreRecord(num_classes=9, planes=2, profile=2, grid_hw=(2, 2), step=step)
