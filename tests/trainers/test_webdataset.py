"""webdataset: the lines that its page shows, in the notebook's pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import training


# A stream without end leaves its tar open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_tickets_come_through_batches_taken_apart_and_made_anew(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    tars, _ = training.write_tars(photographs, tmp_path / "tars", tmp_path / "labels.zarr")
    with training.watching() as seen:
        training.run(
            "webdataset", "labels", args={"training_urls": tars, "steps": 4, "batchsize": 6, "workers": workers}
        )
    assert seen.targets.shape == (24, training.CLASSES)
    assert training.farthest(seen) < 0.05
