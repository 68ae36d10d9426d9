"""The results of students.py: read from its folder, as a table, and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

METRICS = {
    "scene": "whole test scenes: class of the largest digit",
    "crop": "test crops: class with the largest area",
}
NO_TEACHER, MAIN_TEACHER = "none", "same scenes"
BASELINE = "one-hot"


@dataclass(frozen=True, slots=True)
class Row:
    """The runs of one student, teacher and target: by metric, the accuracy of each seed."""

    student: str
    teacher: str
    target: str
    scores: Mapping[str, Mapping[int, float]]

    def values(self, metric: str) -> list[float]:
        """By seed, in its order."""
        return [value for _, value in sorted(self.scores[metric].items())]


def read(out: Path, targets: Sequence[str]) -> list[Row]:
    """The results in a folder, students and teachers by name, targets in the order given."""
    found: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for path in sorted((out / "runs").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        scores = found.setdefault((run["student"], run["teacher"], run["target"]), {name: {} for name in METRICS})
        for name, by_seed in scores.items():
            by_seed[run["seed"]] = run[name]
    rows = [Row(*key, scores) for key, scores in found.items()]
    order = sorted({row.teacher for row in rows}, key=lambda name: (name != NO_TEACHER, name != MAIN_TEACHER, name))
    return sorted(rows, key=lambda row: (row.student, order.index(row.teacher), targets.index(row.target)))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error from the spread between seeds; NaN for one seed."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def difference(row: Row, baseline: Row, metric: str) -> tuple[float, float]:
    """What a target gains over another: mean and standard error of the differences of equal seeds."""
    one, other = row.scores[metric], baseline.scores[metric]
    return mean_and_error([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def markdown(rows: Sequence[Row]) -> str:
    """The table: percent, mean ± standard error, and the gain over one-hot labels of the same seeds."""
    columns = "".join(f" {name} top-1 | over {BASELINE} |" for name in METRICS)
    head = f"| student | target | teacher |{columns} seeds |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in rows:
        baseline = next((r for r in rows if r.student == row.student and r.target == BASELINE), None)
        cells = [row.student, row.target, "-" if row.teacher == NO_TEACHER else row.teacher]
        for metric in METRICS:
            cells.append(_percent(*mean_and_error(row.values(metric))))
            is_gain = baseline is not None and row.target != BASELINE
            cells.append(_percent(*difference(row, baseline, metric), sign="+") if is_gain and baseline else "")
        lines.append(f"| {' | '.join([*cells, str(len(row.values('scene')))])} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], targets: Sequence[str], path: Path) -> None:
    """A panel for each metric and student: a point for each seed, the mean with its standard error."""
    from matplotlib.figure import Figure

    students = sorted({row.student for row in rows})
    teachers = list(dict.fromkeys(row.teacher for row in rows if row.teacher != NO_TEACHER))
    colours = dict(zip([NO_TEACHER, *teachers], ("#6b7280", "#2b6cb0", "#dd6b20"), strict=False))
    figure = Figure(figsize=(10, 2.6 * len(students) + 0.8), layout="constrained")
    panels = figure.subplots(len(students), len(METRICS), squeeze=False, sharex="col")
    for line, student in zip(panels, students, strict=True):
        for axes, (metric, title) in zip(line, METRICS.items(), strict=True):
            for row in (row for row in rows if row.student == student):
                place = len(targets) - 1.0 - targets.index(row.target)
                if row.teacher != NO_TEACHER:
                    place -= 0.16 * (2 * teachers.index(row.teacher) - len(teachers) + 1)
                values = [100 * value for value in row.values(metric)]
                mean, error = mean_and_error(values)
                colour = colours[row.teacher]
                axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
                axes.errorbar([mean], [place], xerr=[error], fmt="|", color=colour, capsize=3, markersize=10)
            axes.set_title(f"{student}, {title}", fontsize=9, loc="left")
            axes.set_yticks(range(len(targets)), targets[::-1], fontsize=8)
            axes.set_ylim(-0.6, len(targets) - 0.4)
            axes.grid(axis="x", alpha=0.3)
            axes.tick_params(labelleft=axes in panels[:, 0], labelsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("top-1 accuracy in percent", fontsize=9)
    names = {NO_TEACHER: "no teacher", **{teacher: f"teacher: {teacher}" for teacher in teachers}}
    marks = [panels[0, 0].plot([], [], "o", color=colours[name], label=text)[0] for name, text in names.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _percent(mean: float, error: float, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f}" + ("" if math.isnan(error) else f" ± {100 * error:.1f}")
