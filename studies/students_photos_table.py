"""The results of students_photos.py: read from its file, as a table, and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.student_table import BASELINE, mean_and_error

_Line = dict[str, Any]


def read(path: Path) -> list[_Line]:
    """A line for each run; none where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cell(lines: Sequence[_Line], setting: str, target: str, metric: str = "top1") -> dict[int, float]:
    """A metric by seed; top-1 in percent."""
    factor = 100 if metric == "top1" else 1
    found = [line for line in lines if (line["setting"], line["target"]) == (setting, target)]
    return {line["seed"]: factor * line[metric] for line in found}


def gains(lines: Sequence[_Line], setting: str, target: str, metric: str = "top1") -> list[float]:
    """What a target gains over one-hot labels, by the seeds that both have."""
    ours, theirs = (cell(lines, setting, name, metric) for name in (target, BASELINE))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def markdown(lines: Sequence[_Line], settings: Sequence[str], targets: Sequence[str]) -> str:
    """Mean ± standard error, and the same of the differences to one-hot labels of equal seeds."""
    head = f"| setting | target | top-1, percent | over {BASELINE} | cross-entropy, nats | over {BASELINE} | seeds |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for setting in settings:
        for target in targets:
            values = list(cell(lines, setting, target).values())
            if not values:
                continue
            losses = list(cell(lines, setting, target, "nll").values())
            is_gain = target != BASELINE
            rows.append(
                f"| {setting} | {target} | {_text(values, '.1f')} | "
                f"{_text(gains(lines, setting, target), '+.1f') if is_gain else ''} | {_text(losses, '.3f')} | "
                f"{_text(gains(lines, setting, target, 'nll'), '+.3f') if is_gain else ''} | {len(values)} |"
            )
    return "\n".join(rows)


def draw(lines: Sequence[_Line], settings: Sequence[str], targets: Sequence[str], path: Path) -> None:
    """A panel for each setting: what each target gains over one-hot labels, a point a seed, the mean and its error."""
    from matplotlib.figure import Figure

    shown = [setting for setting in settings if cell(lines, setting, BASELINE)]
    others = [target for target in targets if target != BASELINE]
    figure = Figure(figsize=(2.1 * len(shown) + 1.6, 0.3 * len(others) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    for axes, setting in zip(panels, shown, strict=True):
        axes.axvline(0, color="#6b7280", linewidth=0.8)
        for place, target in enumerate(reversed(others)):
            found = gains(lines, setting, target)
            if not found:
                continue
            mean, error = mean_and_error(found)
            axes.plot(found, [place] * len(found), "o", color="#2b6cb0", alpha=0.35, markersize=4, markeredgewidth=0)
            axes.errorbar([mean], [place], xerr=[error], fmt="|", color="#2b6cb0", capsize=3, markersize=10)
        baseline = list(cell(lines, setting, BASELINE).values())
        axes.set_title(f"{setting}\n{BASELINE} {_text(baseline, '.1f')}", fontsize=8, loc="left")
        axes.set_yticks(range(len(others)), others[::-1], fontsize=8)
        axes.set_ylim(-0.6, len(others) - 0.4)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    figure.supxlabel(f"points of top-1 over {BASELINE} labels of the same seed", fontsize=8)
    figure.savefig(path, dpi=110)


def _text(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return f"{mean:{form}}" + ("" if math.isnan(error) else f" ± {error:{form.removeprefix('+')}}")
