"""Small archives of both published formats, the images that they label, and `relabel import` through its real door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oracle
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from relabel.cli import main

CLASSES = 40


@dataclass(frozen=True)
class Lists:
    """What each cell of n images lists: scores (n, k, H, W), best first, and ids."""

    scores: Tensor
    ids: Tensor

    def dense(self, image: int) -> oracle.Array:
        """(C, H, W) in float64, 0 where a cell does not list a class."""
        return oracle.zero_filled(self.ids[image].numpy(), self.scores[image].double().numpy(), CLASSES)


def cell_lists(count: int, grid_hw: tuple[int, int] = (5, 6), *, top: int = 3, seed: int = 0) -> Lists:
    """The best classes of each cell of smooth random logits, of which some are negative."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, CLASSES, 3, 3, generator=generator) * 4
    logits = torch.nn.functional.interpolate(coarse, grid_hw, mode="bilinear", align_corners=False)
    scores, ids = (logits - 3).topk(top, dim=1)
    return Lists(scores, ids)


def save_relabel(path: Path, scores: Tensor, ids: Tensor) -> None:
    """float32, contiguous, in the file format of its day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack([scores, ids.float()]), path, _use_new_zipfile_serialization=False)


def save_token_labeling(path: Path, scores: Tensor, ids: Tensor) -> None:
    """float16, ids too, and not contiguous: the classes of a cell lie side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    both = torch.stack([scores, ids.to(scores.dtype)]).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).half()
    assert not both.is_contiguous()
    torch.save(both, path)


SAVE = {"relabel": save_relabel, "tokenlabeling": save_token_labeling}


def make_archive(root: Path, kind: str, stems: Sequence[str], lists: Lists) -> Path:
    """A file for each stem."""
    for stem, scores, ids in zip(stems, lists.scores, lists.ids, strict=True):
        SAVE[kind](root / f"{stem}.pt", scores, ids)
    return root


def make_photos(root: Path, keys: Sequence[str], sizes_hw: Sequence[tuple[int, int]]) -> Path:
    """Images of these sizes; each has bytes of its own."""
    for number, (key, (height, width)) in enumerate(zip(keys, sizes_hw, strict=True)):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), 10 + number, np.uint8)).save(path)
    return root


def run(*arguments: object) -> Result:
    """Run a command of relabel; a traceback is a failure of the test."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="relabel")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def imported(kind: str, archive: Path, store: Path, *arguments: object, code: int = 0) -> str:
    """`relabel import`, quietly; what it prints."""
    result = run("import", kind, archive, store, "--classes", CLASSES, "--quiet", *arguments)
    assert result.exit_code == code, result.output
    return result.stdout if code < 2 else result.stderr


def published_label(
    dense: oracle.Array, box_xyxy: Sequence[float], footprint_xyxy: Sequence[float] = oracle.WHOLE
) -> NDArray[np.float64]:
    """(C,) RoIAlign of the zero-filled logits, then softmax, with the box the right way round."""
    cells = oracle.box_in_cells(box_xyxy, dense.shape[1:], footprint_xyxy)
    return oracle.softmax(oracle.covered_roi_align(dense, cells)[:, 0, 0])
