"""The drawing of docs/score-maps.md: one scene of the demo, its score map, and the label of a crop.

``make demo`` first, then ``python -m studies.map_drawing demo-output docs/score-maps.png``. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from relabel import ScoreMap
from relabel.images import decode_and_fit, open_source
from relabel.teacher import TeacherSpec, load_teacher

PLANES, PROFILE = 3, 4
STORED, FULL, BOX = "#2b6cb0", "#b9bec6", "#ff7f0e"


def main() -> None:
    """Draw."""
    options = _options()
    side = 256
    teacher = load_teacher(
        TeacherSpec(
            name="test_resnet",
            checkpoint=options.demo / "teacher.safetensors",
            image_size_hw=(side, side),
            device="cpu",
            precision="float32",
        )
    )
    source = open_source(str(options.demo / "scenes" / "train-000.tar"))
    part = source.listing(None, workers=1, progress=lambda _: None).parts[0]
    image = list(source.read(part.name, 0, len(part.keys)))[options.scene]
    pixels = decode_and_fit(image.data, [teacher.preprocessing])[0].pixels
    with torch.inference_mode():
        logits = teacher(pixels[None]).float()
    draw(pixels, logits, torch.tensor([options.box]), options.picture)


def draw(pixels: Tensor, logits: Tensor, box: Tensor, path: Path) -> None:
    """Image (3, h, w), logits (1, C, H, W), box (1, 4) xyxy: to a PNG."""
    maps = ScoreMap.from_logits(logits, PLANES, PROFILE)
    full = ScoreMap.from_logits(logits, logits.shape[1], 0)
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[1, 0.95])
    above, below = subfigures
    axes = above.subplots(1, PLANES + 2)
    axes[0].imshow(pixels.permute(1, 2, 0).numpy())
    axes[0].set_title("the image, and a crop box", fontsize=10)
    names = [f"plane {k + 1}: class “{maps.classes[0, k]}”" for k in range(PLANES)] + ["rest: mean of the others"]
    fields = torch.cat([maps.planes[0], maps.rest], 0).numpy()
    for axis, name, field in zip(axes[1:], names, fields, strict=True):
        heat = axis.imshow(field, cmap="magma", vmin=-10, vmax=0, extent=(0, 1, 1, 0))
        axis.set_title(name, fontsize=10)
    for axis, side in zip(axes, [pixels.shape[1], 1, 1, 1, 1], strict=True):
        x0, y0, x1, y1 = (box[0] * side).tolist()
        for colour, width in (("black", 4.5), (BOX, 2.5)):
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))
        axis.set_axis_off()
    above.colorbar(heat, ax=list(axes[1:]), shrink=0.8).set_label("log-probability, nats", fontsize=9)
    profile, label = below.subplots(1, 2, width_ratios=[1, 1.6])
    _draw_profile(profile, maps)
    _draw_label(label, maps.pool(box)[0], full.pool(box)[0], maps.classes[0, :PLANES])
    figure.savefig(path, dpi=85, format="png", pil_kwargs={"optimize": True})


def _draw_profile(axes: Any, maps: ScoreMap) -> None:
    if maps.profile is None:
        raise ValueError("a map of from_logits has a profile")
    names = [f"class {c}" for c in maps.classes[0, PLANES:].tolist()] + ["each other"]
    axes.barh(np.arange(PROFILE + 1), maps.profile[0].numpy(), color=[STORED] * PROFILE + [FULL])
    axes.set_yticks(np.arange(PROFILE + 1), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title("profile: offsets to rest, the same at every cell", fontsize=10)
    axes.set_xlabel("nats", fontsize=9)


def _draw_label(axes: Any, label: Tensor, full: Tensor, planes: Tensor) -> None:
    places = np.arange(len(label))
    axes.bar(places - 0.2, label.numpy(), 0.4, color=STORED, label="from the stored map")
    axes.bar(places + 0.2, full.numpy(), 0.4, color=FULL, label="from all scores of the teacher")
    ids = set(planes.tolist())
    axes.set_xticks(places, [f"{c}\nplane" if c in ids else str(c) for c in places], fontsize=9)
    axes.set_title("the crop's soft label: pool planes and rest over the box, add the profile, softmax", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    axes.set_ylabel("probability", fontsize=9)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path, help="the output folder of `make demo`")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--scene", type=int, default=8, help="which scene of the first tar [%(default)s]")
    parser.add_argument(
        "--box", type=float, nargs=4, default=[0.05, 0.1, 0.6, 0.75], help="xyxy fractions [0.05 0.1 0.6 0.75]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
