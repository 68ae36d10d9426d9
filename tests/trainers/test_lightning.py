"""Lightning: the lines that its page shows, in one process and in two."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import training

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


# Of torch's functions that Lightning still calls, and its advice.
QUIETLY = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers", "ignore:`isinstance.treespec:FutureWarning"
)


@QUIETLY
def test_lightning_fits_with_the_labels_of_its_crops(photographs: Path, workplace: Path) -> None:
    with training.watching() as seen:
        args = {"data_dir": str(photographs), "trainer": QUIET | {"accelerator": "cpu"}}
        training.run("lightning", "labels", args=args)
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.05


@pytest.mark.slow
@QUIETLY
def test_lightning_fits_on_two_processes(photographs: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Spawned processes import the script by its name.
    (workplace / "changed_script.py").write_text(training.text_of("lightning", "labels"), encoding="utf-8")
    monkeypatch.syspath_prepend(workplace)
    two = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_spawn"}
    args = {"data_dir": str(photographs), "trainer": QUIET | two, "make_model": training.Telling, "batch_size": 4}
    training.run_main(importlib.import_module("changed_script"), args)
    shares = [torch.load(workplace / f"seen-{rank}.pt", weights_only=True) for rank in range(2)]
    seen = training.Seen()
    for share in shares:
        assert len(share) == 2
        seen.batches += share
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.05
