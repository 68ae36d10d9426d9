"""Freezes stores of the current format for all later versions to read: `make fixture`. See CONTRIBUTING.md first."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from store.samples import Sample, sample, write

from relabel import __version__
from relabel.manifest import FORMAT, PER_ROW


def with_holes() -> Sample:
    """Raw logits of maps that miss cells, as the published per-cell files give them."""
    data = sample(dtype="float16", scores="logit", select="cell", profile=0, num_classes=9, planes=5, seed=3)
    for shard, row in np.argwhere(data.arrays["status"] == 1):
        planes = data.arrays["scores"][shard, row, :-1]
        planes[np.random.default_rng(row).random(planes.shape) < 0.4] = np.nan
    return data


SAMPLES = {
    "uint8-zstd": lambda: sample(seed=1),
    "uint8-raw-footprints": lambda: sample(compression="none", footprint=PER_ROW, seed=2),
    "float16-zstd-holes": with_holes,
}


def dense(data: Sample) -> NDArray[np.float64]:
    """(n, C, H, W), what the labelled rows' numbers mean, said once more without any of relabel's code."""
    record = data.manifest.scores
    classes, scores, profile = (a.astype(np.float64) for n, a in data.maps(data.labeled).items() if n != "footprint")
    if record.dtype == "uint8":
        scores = np.where(scores == 255, np.nan, -scores * record.step)
    planes, rest, offsets = scores[:, :-1], scores[:, -1], profile / 8
    values = np.empty((len(scores), record.num_classes, *record.grid_hw))
    for n in range(len(scores)):
        values[n] = rest[n] + offsets[n, -1]
        for m in range(record.profile):
            values[n, int(classes[n, record.planes + m])] = rest[n] + offsets[n, m]
        for k in range(record.planes):
            plane = values[n, int(classes[n, k])]
            plane[:] = np.where(np.isnan(planes[n, k]), plane, planes[n, k])
    return values


def freeze(folder: Path) -> None:
    """Write each sample as a store, and beside it, from the inputs alone, what is to be read from it."""
    if folder.exists():
        sys.exit(f"{folder} is frozen: a new one is made only for a new format (see CONTRIBUTING.md)")
    for name, made in SAMPLES.items():
        data = made()
        data = replace(data, manifest=replace(data.manifest, versions={"relabel": __version__}))
        write(folder / name, data)
        arrays: dict[str, Any] = {n: a.astype(str) if a.dtype == object else a for n, a in data.arrays.items()}
        np.savez_compressed(folder / f"{name}.npz", **arrays, dense=dense(data).astype(np.float32))
    print(f"froze {', '.join(SAMPLES)} in {folder}")


if __name__ == "__main__":
    freeze(Path(__file__).parent / "fixture" / f"v{FORMAT}")
