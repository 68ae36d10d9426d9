"""Lightning: the lines that its page shows, in one process and in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import training

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers", "ignore:`isinstance.treespec:FutureWarning"
)
def test_lightning_fits_with_the_labels_of_its_crops(photographs: Path, workplace: Path) -> None:
    with training.watching() as seen:
        args = {"data_dir": str(photographs), "trainer": QUIET | {"accelerator": "cpu"}}
        training.run("lightning", "labels", args=args)
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.05
