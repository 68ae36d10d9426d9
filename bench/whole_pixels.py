"""Is a ticket's label that of what its pixels show, to 1e-5? Part of ``make views``.

A view that is read off colours is a few thousandths wrong, and so is its label. But what crops whole pixels of a small
photograph can be read off exactly: the edges that the colours show are rounded to pixels. The label at that view is
compared with the ticket's; nothing that relabel tells of the view is used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from bench.ramps import Scene
from bench.views import Tally, run

LABEL = 1e-5
"""What a pooled ticket may differ from the label at the view that its pixels show."""
SIZES_HW = ((38, 50), (50, 38), (42, 62), (62, 42), (28, 56), (56, 28), (32, 32), (45, 45))
PIPELINES = (
    "timm",
    "timm, vertical flip, random resampling",
    "DeiT",
    "torchvision v1",
    "torchvision v1 on tensors",
    "torchvision v2",
    "torchvision v2 on tensors",
    "Hugging Face's example",
    "two views",
    "timm create_loader",
    "Hugging Face datasets",
    "webdataset, batched and shuffled",
    "Lightning: spawned workers that stay",
    "albumentations",
)
"""Those that crop whole pixels of the photograph itself, and no resized one's."""


def is_good(tally: Tally) -> bool:
    """Whether each label was that of what is shown."""
    return tally.draws > 0 and not tally.refused and not tally.mirrored and tally.seen_label <= LABEL


def main() -> None:
    """Print a line a pipeline; exits with 1 if a label was not that of what is shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="of each pipeline (default: %(default)s)")
    parser.add_argument("--only", default="", help="pipelines with this in their name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bad = 0
    print(f"{'pipeline':40} draws untold  label at what is shown")
    with tempfile.TemporaryDirectory(prefix="relabel-views-") as folder:
        scene = Scene.made(Path(folder), SIZES_HW)
        for name in PIPELINES:
            if options.only not in name:
                continue
            tally = run(scene, name, options.draws, seed=0)
            bad += not is_good(tally)
            mark = "" if is_good(tally) else f"  !! {tally.refused[:120]}"
            print(f"{name:40} {tally.draws:5} {tally.untold:6}  {tally.seen_label:.1e}{mark}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
