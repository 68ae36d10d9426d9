"""albumentations, an image at a time, and kornia, a batch at a time: the lines that their pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
import training


@pytest.mark.parametrize("trainer", ["albumentations", "kornia"])
def test_labels_are_of_what_an_augmenter_shows(photographs: Path, workplace: Path, trainer: str) -> None:
    with training.watching() as seen:
        training.run(trainer, "labels", args={"data_dir": str(photographs)})
    assert seen.targets.shape == (16, training.CLASSES)
    assert training.farthest(seen) < 0.06
